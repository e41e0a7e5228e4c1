"""Both sides of payments on a real contract, with an endpoint of the node's own that can be made to fail or lie."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from node.core.redemption import RedemptionPolicy
from node.core.terms import TermsPolicy
from orchestrator.core.paying import PayingPolicy
from orchestrator.core.session import Identity
from tandem.chain.broker import RedemptionBatch, TicketBroker
from tandem.chain.redemption import RedemptionResult, redemption_result
from tandem.chain.transactions import Call
from tandem.protocol.messages import Payment, PaymentReceipt
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import Domain, Ticket, TicketParams
from tests.fixtures.anvil import Anvil, transaction_sender
from tests.fixtures.clock import ManualClock
from tests.fixtures.node import payment
from tests.fixtures.payments import FACE, LIFETIME, EarningSide, PayingSide, Place, Session
from tests.fixtures.rpc_proxy import Proxy, rpc_proxy

CONFIRMATIONS = 3
ALLOCATION = 16 * FACE
_NUMBERS = count(1_000_000)


@dataclass
class World:
    """Every ticket wins. The node's key is `anvil.keys[1]`, the sender's `anvil.keys[0]`, the signer's `keys[2]`."""

    anvil: Anvil
    broker: TicketBroker
    clock: ManualClock
    proxy: Proxy
    paying: PayingSide
    earning: EarningSide
    session: Session
    first_nonce: int = field(default=5000)

    @property
    def node(self) -> str:
        return self.earning.key.address

    @property
    def sender(self) -> str:
        return self.paying.identity.sender

    async def act(self, call: Call, key: SigningKey | None = None) -> None:
        """A transaction, of the sender by default."""
        await transaction_sender(self.broker.chain, key or self.anvil.keys[0]).send(call, "act")
        self.sync()

    async def earn(self, tickets: int) -> TicketParams:
        """The node earns so much, and is paid for it; under which terms."""
        await self.paying.earn(self.node, tickets * FACE - tickets)
        await self.session.exchange()
        params = (await self.paying.store.account(self.node)).params
        assert params is not None
        return params

    async def offer(self, params: TicketParams, *nonces: int, domain: Domain | None = None) -> PaymentReceipt:
        """What the node says to tickets that its orchestrator would not sign."""
        key = self.paying.identity.key
        number = next(_NUMBERS)
        return await self.answer(payment(params, nonces, number=number, key=key, domain=domain or self.broker.domain))

    async def answer(self, message: Payment) -> PaymentReceipt:
        return await self.earning.payments._answer(self.sender, message)

    async def redeem_as(self, key: SigningKey, rand: bytes, *tickets: Ticket) -> RedemptionResult:
        """What the contract makes of tickets under one set of parameters, whoever sends them."""
        call = self.broker.redeem([RedemptionBatch(tickets[0].params, rand, tickets)])
        return redemption_result(self.broker, await transaction_sender(self.broker.chain, key).send(call, "redeem"))

    async def pass_time(self, seconds: int) -> None:
        """On the chain and for both sides, which then look."""
        self.anvil.warp(seconds)
        self.sync()
        await self.look()

    async def look(self) -> None:
        await self.earning.look()
        await self.session.exchange()

    async def settle(self) -> None:
        """Lets what is under way become final."""
        for _ in range(3):
            await self.look()
            self.anvil.mine(CONFIRMATIONS)
        await self.look()
        await self.paying.watch()

    async def redeemed(self) -> int:
        """Wei, by the node's books, which must agree with the ledger."""
        totals = await self.earning.store.totals(self.clock.now())
        assert (await self.paying.store.account(self.node)).redeemed == totals.redeemed
        assert (await self.paying.reconcile()).differences == ()
        return totals.redeemed

    def sync(self) -> None:
        stamp = int(self.anvil.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)  # noqa: FBT003
        self.clock.advance(max(0.0, stamp - self.clock.now()))


@pytest.fixture
async def world(
    tmp_path: Path, anvil: Anvil, broker: TicketBroker, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    """A deposit of two winners, and an allocation of sixteen. The parameter is the node's gas_percent, 100 if none."""
    gas_percent = getattr(request, "param", 100)
    sender, key, signer = anvil.keys[:3]
    clock = ManualClock(await broker.chain.timestamp())
    identity = Identity(signer, sender.address, broker.domain, "http://127.0.0.1")
    async with rpc_proxy(anvil.url) as proxy:
        paying = PayingSide(
            Place(tmp_path, anvil.url, clock, CONFIRMATIONS),
            identity,
            PayingPolicy(max_ahead=8 * FACE, max_face_value=FACE),
        )
        terms = TermsPolicy(
            odds=1,
            lifetime=LIFETIME,
            gas_percent=gas_percent,
            min_face_value=FACE,
            max_face_value=FACE,
            max_unpaid=FACE,
        )
        redemption = RedemptionPolicy(gas_percent, urgent_before=600.0)
        earning = EarningSide(Place(tmp_path, proxy.url, clock, CONFIRMATIONS), key, identity, terms, redemption)
        world = World(anvil, broker, clock, proxy, paying, earning, Session(paying, earning, clock))
        await world.act(broker.fund_deposit(sender.address, 2 * FACE))
        await world.act(broker.fund_reserve(sender.address, 2 * ALLOCATION))
        await world.act(broker.allocate([(key.address, ALLOCATION)]))
        await world.act(broker.authorise_signer(signer.address))
        await paying.open()
        await earning.open()
        await world.session.open()
        await world.session.exchange()
        yield world
        await earning.crash()
        await paying.crash()
