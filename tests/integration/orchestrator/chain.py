"""A ledger, a contract on a real chain, and somebody who redeems."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.adapters.contract import EthereumTicketContract, EthereumTreasury
from orchestrator.core.funding import FundingPolicy
from orchestrator.core.paying import PayingPolicy, pay
from orchestrator.core.records import AccountChanges, AccountRecord, ChainEvents
from orchestrator.core.session import Identity
from orchestrator.ports.contract import BlockRef
from orchestrator.ports.store import Store
from orchestrator.service.funding import FundsWatcher
from orchestrator.service.nodes import ConnectedNode, Nodes
from orchestrator.service.watching import ChainWatcher, WatchPolicy
from tandem.chain.broker import RedemptionBatch, SenderFunds, TicketBroker
from tandem.chain.redemption import RedemptionResult, redemption_result
from tandem.chain.rpc import Chain
from tandem.chain.transactions import Call, TransactionPolicy
from tandem.clock import SystemClock
from tandem.protocol.errors import ChainError, ChainUnavailable
from tandem.protocol.signing import Address, SigningKey
from tandem.protocol.tickets import Ticket, TicketParams, commitment_to, sign_ticket, win_prob_from_odds
from tests.conformance.store.samples import earn
from tests.fixtures.anvil import Anvil, transaction_sender
from tests.fixtures.clock import ManualClock
from tests.fixtures.protocol import offer
from tests.unit.orchestrator.service.conftest import Recorder

ETHER = 10**18
FACE = ETHER // 100
RAND = b"\x07" * 32
POLICY = PayingPolicy(max_ahead=ETHER, max_face_value=ETHER)


class Unsteady:
    """The contract over an endpoint that fails on cue. Each failure is raised by the next call of that name."""

    def __init__(self, contract: EthereumTicketContract) -> None:
        self.contract = contract
        self.failures: dict[str, list[Exception]] = {}
        self.most_blocks: int | None = None
        """What the endpoint serves events of in one call."""
        self.ranges: list[tuple[int, int]] = []
        self.source, self.sender = contract.source, contract.sender

    async def head(self) -> int:
        self._fail("head")
        return await self.contract.head()

    async def block(self, number: int) -> BlockRef:
        self._fail("block")
        return await self.contract.block(number)

    async def first_block(self) -> int:
        self._fail("first_block")
        return await self.contract.first_block()

    async def events(self, first: int, last: int) -> ChainEvents:
        self._fail("events")
        if self.most_blocks is not None and last - first + 1 > self.most_blocks:
            raise ChainError(f"expected at most {self.most_blocks} blocks")
        self.ranges.append((first, last))
        return await self.contract.events(first, last)

    async def funds(self, recipient: str, block: int) -> SenderFunds:
        self._fail("funds")
        return await self.contract.funds(recipient, block)

    async def credit(self, recipient: str) -> int:
        return await self.contract.credit(recipient)

    def _fail(self, call: str) -> None:
        if failures := self.failures.get(call):
            raise failures.pop(0)


AWAY = ChainUnavailable("no answer")


@dataclass
class Books:
    """One sender with a key of its own for tickets, and one node."""

    anvil: Anvil
    chain: Chain
    broker: TicketBroker
    store: Store
    clock: ManualClock
    contract: Unsteady

    @property
    def operator(self) -> SigningKey:
        return self.anvil.keys[1]

    @property
    def signer(self) -> SigningKey:
        return self.anvil.keys[2]

    @property
    def node(self) -> SigningKey:
        return self.anvil.keys[3]

    def watcher(self, **changes: object) -> ChainWatcher:
        policy = WatchPolicy(confirmations=1, most_blocks=1000, poll_seconds=5)
        return ChainWatcher(self.store, self.contract, self.clock, replace(policy, **changes))  # type: ignore[arg-type]

    async def do(self, *calls: Call) -> None:
        for call in calls:
            await transaction_sender(self.chain, self.operator).send(call, "do")

    async def fund(self, deposit: int = ETHER, reserve: int = ETHER) -> None:
        sender = self.operator.address
        await self.do(
            self.broker.fund_deposit(sender, deposit),
            self.broker.fund_reserve(sender, reserve),
            self.broker.authorise_signer(self.signer.address),
        )

    def params(self, rand: bytes = RAND) -> TicketParams:
        """All tickets win."""
        return TicketParams(
            sender=self.operator.address,
            recipient=self.node.address,
            face_value=FACE,
            win_prob=win_prob_from_odds(1),
            expiry=4_000_000_000,
            commitment=commitment_to(rand),
        )

    def value(self, tickets: int) -> int:
        return tickets * self.params().expected_value()

    async def pay(self, tickets: int, number: int = 0) -> tuple[Ticket, ...]:
        """The node earns that much, and is paid in tickets."""
        params = self.params()
        identity = Identity(self.signer, self.operator.address, self.broker.domain, "http://localhost")
        await earn(self.store, self.value(tickets), number, self.node.address)
        await self.store.decide_account(self.node.address, lambda _a, _n: AccountChanges(params=params))

        def decide(account: AccountRecord, now: float) -> AccountChanges:
            return pay(account, identity, POLICY, now)

        payment = await self.store.decide_account(self.node.address, decide)
        assert payment is not None
        return tuple(
            Ticket(params=params, sender_nonce=ticket.sender_nonce, signature=ticket.signature)
            for ticket in payment.tickets
        )

    def forge(self, *nonces: int, rand: bytes = RAND) -> tuple[Ticket, ...]:
        """Signed with the key, behind the store's back."""
        params = self.params(rand)
        return tuple(sign_ticket(self.signer, self.broker.domain, params, nonce) for nonce in nonces)

    async def redeem(self, tickets: Sequence[Ticket], rand: bytes = RAND) -> RedemptionResult:
        batch = RedemptionBatch(tickets[0].params, rand, tuple(tickets))
        mined = await transaction_sender(self.chain, self.node).send(self.broker.redeem([batch]), "redeem")
        return redemption_result(self.broker, mined)


FUNDING = FundingPolicy(
    deposit=ETHER,
    reserve=2 * ETHER,
    allocation=ETHER,
    trial=ETHER // 10,
    trial_percent=20,
    refill_below_percent=50,
    max_a_day=10 * ETHER,
    idle_seconds=1000,
)
ADVICE = ('--rpc "$RPC"', "--contract 0xc0")


@dataclass
class Purse:
    """A funds watcher with the sender's key, over and over again as after a restart."""

    books: Books
    nodes: Nodes

    def watcher(self, *, key: bool = True, **changes: object) -> FundsWatcher:
        books = self.books
        policy = replace(FUNDING, **changes)  # type: ignore[arg-type]
        return FundsWatcher(
            books.store, books.contract, self.nodes, books.clock, policy, self.treasury() if key else None, ADVICE
        )

    async def look(self, watcher: FundsWatcher, times: int = 1) -> None:
        """So often, each time until all that was sent is mined, which takes anvil a moment."""
        for _ in range(times):
            await watcher.look()
            while not await self.treasury().settle():
                pass

    def treasury(self) -> EthereumTreasury:
        journal = self.books.store.journal("account")
        contract = self.books.contract.contract
        return EthereumTreasury(contract, self.books.operator, journal, SystemClock(), TransactionPolicy())

    def connect(self, node: Address) -> None:
        self.nodes.add(ConnectedNode(node, Recorder(), offer(), self.books.clock.now()))

    async def funds(self, node: Address | None = None) -> SenderFunds:
        return await self.books.broker.funds(self.books.operator.address, node or self.books.node.address)


async def catch_up(watcher: ChainWatcher) -> None:
    """Until there is nothing more to read."""
    while await watcher.advance():
        pass
