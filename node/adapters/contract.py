"""The ticket contract, on a chain that may be away when the node starts: the first call that gets through connects."""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from node.core.acceptance import Backing
from node.core.redemption import WinningSet
from node.ports.contract import Paid, RedemptionOutcome
from tandem.chain.broker import RedemptionBatch, SenderFunds, TicketBroker
from tandem.chain.redemption import redemption_result
from tandem.chain.settings import ChainSection
from tandem.chain.transactions import Mined, Outcome, TransactionJournal, TransactionSender
from tandem.clock import Clock
from tandem.protocol.errors import ChainUnavailable
from tandem.protocol.signing import Address, SigningKey


class RedemptionJournal(TransactionJournal, Protocol):
    """A journal that knows which winners a transaction redeems."""

    def redeeming(self, sets: Sequence[WinningSet], /) -> AbstractContextManager[None]:
        """The transaction that is recorded within this is the one that redeems these winners, in the same write."""
        ...


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
        journal: RedemptionJournal,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._key = key
        self._journal = journal
        self._clock = clock
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._final: dict[int, Outcome] = {}
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
            leaving=_leaving(funds),
            good_until=read_at + connected.unlock_period,
            signers=valid_until,
        )

    async def gas_price(self) -> int:
        return await (await self._connect()).sender.gas_price()

    async def credit(self) -> int:
        """Wei that the account did not take, and can withdraw."""
        return await (await self._connect()).broker.credit(self._key.address)

    async def redeem(self, sets: tuple[WinningSet, ...], rands: tuple[bytes, ...]) -> int:
        """Raises also FeeCapExceeded, and ChainError if the account, the endpoint or the contract refuses."""
        connected = await self._connect()
        batches = [
            RedemptionBatch(winning.params, rand, winning.tickets) for winning, rand in zip(sets, rands, strict=True)
        ]
        async with self._sending:
            with self._journal.redeeming(sets):
                sent = await connected.sender.submit(connected.broker.redeem(batches), "redeem tickets")
        return sent.tx_nonce

    async def outcomes(self) -> tuple[RedemptionOutcome, ...]:
        connected = await self._connect()
        async with self._sending:  # else a replacement might be taken for what is being sent
            found = await connected.sender.outcomes()
        self._final = {outcome.transaction.tx_nonce: outcome for outcome in found}
        return tuple(_outcome(connected.broker, outcome) for outcome in found)

    async def is_undone(self, paid: Paid) -> bool:
        """If every endpoint that answers says so: one that lies would have winners sent again for ever."""
        chain, doubts = (await self._connect()).sender.chain, 0
        for witness in chain.witnesses or (chain,):
            with suppress(ChainUnavailable):  # the chain may be shorter now; then it will grow again
                block, broker = await witness.block(paid.block_number), TicketBroker(witness, self._settings.contract)
                if block.hash == paid.block_hash or await broker.is_redeemed(paid.params, paid.sender_nonce):
                    return False
                doubts += 1
        return doubts > 0

    async def acknowledge(self, outcome: RedemptionOutcome) -> None:
        await (await self._connect()).sender.acknowledge(self._final.pop(outcome.tx_nonce))

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
    lowering = funds.lowers_at is not None and funds.lowered_to < funds.allocation  # else it has taken effect
    return funds.unlock_at is not None or lowering


def _outcome(broker: TicketBroker, outcome: Outcome) -> RedemptionOutcome:
    tx_nonce = outcome.transaction.tx_nonce
    if not isinstance(outcome, Mined):
        return RedemptionOutcome(tx_nonce, None)
    result = redemption_result(broker, outcome)
    return RedemptionOutcome(
        tx_nonce,
        result,
        outcome.gas_used,
        is_reverted=not outcome.succeeded,
        block_number=outcome.block_number,
        block_hash=outcome.block_hash,
    )
