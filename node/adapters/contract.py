"""The ticket contract, on a chain that may be away when the node starts: the first call that gets through connects."""

import asyncio
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from node.core.acceptance import Backing
from node.core.redemption import WinningSet
from tandem.chain.broker import RedemptionBatch, SenderFunds, TicketBroker
from tandem.chain.redemption import RedemptionResult, redeem, redemption_result
from tandem.chain.settings import ChainSection
from tandem.chain.transactions import (
    Displaced,
    Mined,
    Outcome,
    TransactionJournal,
    TransactionSender,
)
from tandem.clock import Clock
from tandem.protocol.signing import Address, SigningKey
from tandem.protocol.tickets import UINT64_MAX


@dataclass(frozen=True, slots=True)
class _Connected:
    broker: TicketBroker
    sender: TransactionSender
    unlock_period: int


class EthereumTicketContract:
    """The TicketContract port for the account of `key`.

    Besides ChainUnavailable, calls raise ConfigurationError if the endpoints serve another chain, or the contract is
    not there.
    """

    def __init__(
        self,
        settings: ChainSection,
        key: SigningKey,
        journal: TransactionJournal,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._key = key
        self._journal = journal
        self._clock = clock
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._connected: _Connected | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def unlock_period(self) -> int:
        """Seconds; never changes."""
        return (await self._connect()).unlock_period

    async def backing(self, sender: Address, signers: AbstractSet[Address]) -> Backing:
        """What stands behind the tickets to this node; a signer that was asked for and may not sign is there with 0."""
        connected = await self._connect()
        read_at = self._clock.now()
        funds = await connected.broker.funds(sender, self._key.address)
        valid_until = {signer: await connected.broker.signer_valid_until(sender, signer) for signer in signers}
        return Backing(
            promised=funds.promised(),
            available=funds.deposit + funds.allocation,
            leaving=_leaving(funds) or any(0 < until < UINT64_MAX for until in valid_until.values()),
            good_until=read_at + connected.unlock_period,
            signers=valid_until,
        )

    async def gas_price(self) -> int:
        return await (await self._connect()).sender.gas_price()

    async def redeem(self, sets: tuple[WinningSet, ...], rands: tuple[bytes, ...]) -> RedemptionResult:
        """Raises also ChainError, TransactionReverted among them, if the endpoint or the contract refuses."""
        connected = await self._connect()
        batches = [
            RedemptionBatch(winning.params, rand, winning.tickets) for winning, rand in zip(sets, rands, strict=True)
        ]
        return await redeem(connected.sender, connected.broker, batches, "redeem tickets")

    async def recover(self) -> tuple[RedemptionResult, ...]:
        """The outcomes of what an earlier process left in flight; a transaction that was reverted paid nothing."""
        connected = await self._connect()
        found: dict[int, Outcome] = {}
        while any(left.tx_nonce not in found for left in await self._journal.pending()):
            found |= {outcome.transaction.tx_nonce: outcome for outcome in await connected.sender.outcomes()}
            await self._clock.sleep(self._settings.poll)
        for outcome in found.values():
            if isinstance(outcome, Displaced):
                await connected.sender.acknowledge(outcome)
        return tuple(redemption_result(connected.broker, got) for got in found.values() if isinstance(got, Mined))

    async def _connect(self) -> _Connected:
        async with self._lock:
            if self._connected is None:
                async with AsyncExitStack() as attempt:
                    chain = await attempt.enter_async_context(self._settings.connect(self._clock))
                    broker = TicketBroker(chain, self._settings.contract)
                    await broker.check()
                    sender = TransactionSender(chain, self._key, self._journal, self._clock, self._settings.policy())
                    self._connected = _Connected(broker, sender, await broker.unlock_period())
                    self._stack.push_async_exit(attempt.pop_all())
            return self._connected


def _leaving(funds: SenderFunds) -> bool:
    return funds.unlock_at is not None or funds.lowers_at is not None
