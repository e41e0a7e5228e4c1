"""The ticket contract, on a chain that may be away when the orchestrator starts: the first call connects."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Self, TypeVar, assert_never

from orchestrator.core.funding import Action, Allocate, FundDeposit, FundReserve
from orchestrator.core.ledger import EntryKind
from orchestrator.core.records import ChainEntry, ChainEvents
from orchestrator.ports.contract import BlockRef
from tandem import logging as log
from tandem.chain.broker import SenderFunds, TicketBroker
from tandem.chain.events import (
    AllocationChanged,
    AllocationLoweringStarted,
    BrokerEvent,
    DepositFunded,
    DepositWithdrawn,
    Position,
    ReserveFunded,
    ReserveWithdrawn,
    TicketsRedeemed,
)
from tandem.chain.rpc import Chain
from tandem.chain.transactions import Mined, Outcome, TransactionJournal, TransactionPolicy, TransactionSender
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable
from tandem.protocol.signing import Address, SigningKey
from tandem.protocol.tickets import Domain

logger = logging.getLogger(__name__)

Connect = Callable[[], AbstractAsyncContextManager[Chain]]
Result = TypeVar("Result")


class EthereumTicketContract:
    """The TicketContract port for one sender.

    Besides what the port says, calls raise ConfigurationError if the endpoints serve another chain than the domain's,
    or the contract is not there.
    """

    def __init__(self, connect: Connect, domain: Domain, sender: Address) -> None:
        self._connect = connect
        self._domain = domain
        self.sender = sender
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._broker: TicketBroker | None = None
        self._settled_at = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def source(self) -> str:
        return f"{self._domain.chain_id}:{self._domain.contract}:{self.sender}"

    async def head(self) -> int:
        """Of several endpoints that answer, the one that is furthest behind says: it must know what all are asked."""
        broker = await self.connect()
        head = min([await _head(broker), *await _others(broker, _head)])
        if head < self._settled_at:
            raise ChainUnavailable(f"expected a head of at least {self._settled_at}, got {head}: an endpoint is behind")
        return head

    async def block(self, number: int) -> BlockRef:
        return await self._agreed(partial(_block, number))

    async def first_block(self) -> int:
        broker = await self.connect()
        absent, there = -1, await broker.chain.head()
        try:
            while there - absent > 1:
                middle = (absent + there) // 2
                if await broker.exists_at(middle):
                    there = middle
                else:
                    absent = middle
        except ChainError as error:
            raise ChainError(
                f"expected to find the block in which {self._domain.contract} was deployed: {error.detail}; "
                "set ledger.from_block, or use an endpoint that keeps old state"
            ) from error
        return there

    async def events(self, first: int, last: int) -> ChainEvents:
        found = await self._agreed(lambda broker: broker.events(first, last, sender=self.sender))
        return ChainEvents(
            entries=tuple(entry for entry in map(_entry, found) if entry is not None),
            recipients=frozenset(
                event.recipient for event in found if isinstance(event, AllocationChanged | AllocationLoweringStarted)
            ),
        )

    async def funds(self, recipient: Address, block: int) -> SenderFunds:
        return await self._agreed(lambda broker: broker.funds(self.sender, recipient, block=block))

    async def credit(self, recipient: Address) -> int:
        return await (await self.connect()).credit(recipient)

    def settled(self, block_number: int) -> None:
        """A transaction in this block counts: no answer of an endpoint that has not seen it is used from now on."""
        self._settled_at = max(self._settled_at, block_number)

    async def _agreed(self, read: Callable[[TicketBroker], Awaitable[Result]]) -> Result:
        """Where there are several endpoints, one that lies holds the answer up, and does not get it believed."""
        broker = await self.connect()
        said = await read(broker)
        if any(other != said for other in await _others(broker, read)):
            raise ChainUnavailable("expected endpoints that agree about the contract, got two answers: see chain.rpc")
        return said

    async def connect(self) -> TicketBroker:
        """The contract's calls, over a connection that lives as long as this."""
        async with self._lock:
            if self._broker is None:
                async with AsyncExitStack() as attempt:
                    chain = await attempt.enter_async_context(self._connect())
                    broker = TicketBroker(chain, self._domain.contract)
                    await broker.check()
                    self._broker = broker
                    self._stack.push_async_exit(attempt.pop_all())
            return self._broker


class EthereumTreasury:
    """The Treasury port for the account of `key`, which is the sender of the contract's port."""

    def __init__(
        self,
        contract: EthereumTicketContract,
        key: SigningKey,
        journal: TransactionJournal,
        clock: Clock,
        policy: TransactionPolicy,
    ) -> None:
        self._contract = contract
        self._key = key
        self._journal = journal
        self._clock = clock
        self._policy = policy
        self._sender: TransactionSender | None = None

    async def settle(self) -> bool:
        sender = await self._transactions()
        for outcome in await sender.outcomes():
            _log(outcome)
            if isinstance(outcome, Mined):
                self._contract.settled(outcome.block_number)
            await sender.acknowledge(outcome)
        return not await self._journal.pending()

    async def submit(self, action: Action) -> None:
        broker = await self._contract.connect()
        match action:
            case FundDeposit(amount):
                call, purpose = broker.fund_deposit(self._contract.sender, amount), "fund deposit"
            case FundReserve(amount):
                call, purpose = broker.fund_reserve(self._contract.sender, amount), "fund reserve"
            case Allocate(allocations):
                call, purpose = broker.allocate(allocations), "allocate"
            case _:
                assert_never(action)
        await (await self._transactions()).submit(call, purpose)

    async def _transactions(self) -> TransactionSender:
        broker = await self._contract.connect()
        if self._sender is None:
            self._sender = TransactionSender(broker.chain, self._key, self._journal, self._clock, self._policy)
        return self._sender


async def _others(broker: TicketBroker, read: Callable[[TicketBroker], Awaitable[Result]]) -> list[Result]:
    """What each endpoint alone says, of those that answer."""
    found = []
    for witness in broker.chain.witnesses:
        if not witness.rests:
            with suppress(ChainUnavailable, ChainError):
                found.append(await read(TicketBroker(witness, broker.address)))
    return found


async def _head(broker: TicketBroker) -> int:
    return await broker.chain.head()


async def _block(number: int, broker: TicketBroker) -> BlockRef:
    found = await broker.chain.block(number)
    return BlockRef(found.number, found.hash)


def _log(outcome: Outcome) -> None:
    mined = outcome if isinstance(outcome, Mined) else None
    log.event(
        logger,
        "funding_transaction",
        level=logging.INFO if mined and mined.succeeded else logging.WARNING,
        purpose=outcome.transaction.purpose,
        tx_hash="0x" + outcome.transaction.tx_hash.hex(),
        outcome="displaced" if mined is None else "succeeded" if mined.succeeded else "reverted",
        gas_cost_wei=mined.gas_cost if mined else None,
    )


def _entry(event: BrokerEvent) -> ChainEntry | None:
    match event:
        case DepositFunded() | ReserveFunded():
            return _moved(EntryKind.FUNDED, event.at, event.amount)
        case DepositWithdrawn() | ReserveWithdrawn():
            return _moved(EntryKind.WITHDRAWN, event.at, event.amount) if event.amount else None
        case TicketsRedeemed():
            return _redeemed(event) if event.amount else None
        case _:
            return None


def _moved(kind: EntryKind, at: Position, amount: int) -> ChainEntry:
    return ChainEntry(kind, amount, at.block_number, at.block_hash, at.tx_hash, at.log_index)


def _redeemed(event: TicketsRedeemed) -> ChainEntry:
    at = event.at
    return ChainEntry(
        EntryKind.REDEEMED,
        event.amount,
        at.block_number,
        at.block_hash,
        at.tx_hash,
        at.log_index,
        recipient=event.recipient,
        params_hash=event.params_hash,
        sender_nonces=event.sender_nonces,
    )
