"""Payments under everything that can go wrong, as a state machine over real stores and the real contract on anvil.

Whatever the order in which attempts are accepted, tickets signed and taken, winners redeemed, sides killed (also while
they wait for an answer of the chain, with or without the request getting through), blocks undone, endpoints lost,
transactions stuck, clocks moved, funds withdrawn and signers revoked: what is paid was funded, no ticket pays twice,
and in the end every winner that a node has taken was paid, and all books agree.

Where nothing can be done there is nothing to prove: so outages and stuck pools last less long than winners have left
once they are urgent, and reorganisations are less deep than what counts as confirmed.
"""

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from node.core.redemption import RedemptionPolicy
from node.core.terms import Epochs, TermsPolicy, epoch_of, recipient_rand
from orchestrator.core.paying import PayingPolicy
from orchestrator.core.session import Identity
from tandem.chain.broker import TicketBroker, deployment
from tandem.chain.events import (
    DepositFunded,
    DepositWithdrawn,
    ReserveFunded,
    ReserveWithdrawn,
    TicketsRedeemed,
)
from tandem.chain.rpc import connect
from tandem.chain.transactions import Call
from tandem.protocol.errors import ChainError
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import sign_ticket, wins
from tests.fixtures.anvil import UNLOCK_PERIOD, Anvil, transaction_sender
from tests.fixtures.clock import ManualClock
from tests.fixtures.payments import FACE, LIFETIME, EarningSide, PayingSide, Place, Session
from tests.fixtures.rpc_proxy import Proxy, rpc_proxy

T = TypeVar("T")

CONFIRMATIONS = 3
URGENT = 600.0
STEP = 240
"""Seconds between looks of the node at the chain."""
OUTAGE = 300
"""Seconds of trouble in all before it ends: what is urgent has twice as long."""
ALLOCATION = 24 * FACE
VALUE = FACE // 2 - 1
"""Of a ticket, since one in two wins."""


_EXAMPLES = 12
"""By default; then always the same ones."""


class Payments(RuleBasedStateMachine):
    anvil: Anvil

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.clock = ManualClock(self.chain_time())
        self.mining = True
        self.trouble = 0
        self.proxies: list[Proxy] = []

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(doing)

    @initialize(patient=st.booleans(), deposit=st.integers(1, 6), tickets=st.integers(1, 6))
    def begin(self, deposit: int, tickets: int, *, patient: bool) -> None:
        """A patient node waits with a winner or two until they are urgent: they are not worth a transaction."""
        self.run(self._begin(1 if patient else 100, deposit * FACE))
        self.an_attempt_is_accepted(tickets)

    async def _begin(self, gas_percent: int, deposit: int) -> None:
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.sender, self.signer, key = (SigningKey.generate() for _ in range(3))
        for each in (self.sender, key):
            self.anvil.rpc("anvil_setBalance", each.address, hex(10**20))
        chain = await self.stack.enter_async_context(connect(self.anvil.url))
        self.transactions = transaction_sender(chain, self.sender)
        deployed = await self.transactions.send(deployment(UNLOCK_PERIOD), "deploy")
        assert deployed.contract is not None
        self.first_block = deployed.block_number
        self.broker = TicketBroker(chain, deployed.contract)
        await self.act(self.broker.fund_deposit(self.sender.address, deposit))
        await self.act(self.broker.fund_reserve(self.sender.address, 2 * ALLOCATION))
        await self.act(self.broker.allocate([(key.address, ALLOCATION)]))
        await self.act(self.broker.authorise_signer(self.signer.address))
        self.anvil.mine(CONFIRMATIONS)
        self.sync()
        identity = Identity(self.signer, self.sender.address, self.broker.domain, "http://127.0.0.1")
        self.proxies = [await self.stack.enter_async_context(rpc_proxy(self.anvil.url)) for _ in range(2)]
        ours, theirs = (Place(folder, proxy.url, self.clock, CONFIRMATIONS) for proxy in self.proxies)
        paying = PayingPolicy(max_ahead=8 * FACE, max_face_value=FACE)
        self.paying = PayingSide(ours, identity, paying)
        terms = TermsPolicy(
            odds=2,
            lifetime=LIFETIME,
            gas_percent=gas_percent,
            min_face_value=FACE,
            max_face_value=FACE,
            max_unpaid=FACE,
        )
        self.earning = EarningSide(theirs, key, identity, terms, RedemptionPolicy(gas_percent, urgent_before=URGENT))
        await self.paying.open()
        await self.earning.open()
        await self._connect()

    async def _connect(self) -> None:
        self.session = Session(self.paying, self.earning, self.clock)
        await self.session.open()
        await self.session.exchange()

    # --- what is meant to happen

    @rule(tickets=st.integers(1, 6))
    def an_attempt_is_accepted(self, tickets: int) -> None:
        self.run(self.paying.earn(self.earning.key.address, tickets * VALUE))
        self.run(self.session.exchange())

    @rule()
    def the_node_looks(self) -> None:
        self.run(self.earning.look())
        self.run(self.session.exchange())

    @rule()
    def the_orchestrator_watches(self) -> None:
        self.run(self.paying.watcher.look())

    @rule(blocks=st.integers(1, CONFIRMATIONS))
    def blocks_are_mined(self, blocks: int) -> None:
        self.anvil.mine(blocks)
        self.sync()

    @rule(steps=st.integers(1, 5), tickets=st.integers(0, 2))
    def time_passes(self, steps: int, tickets: int) -> None:
        for _ in range(steps):
            if tickets:
                self.an_attempt_is_accepted(tickets)
            if self.troubled:
                self.trouble += STEP
                if self.trouble > OUTAGE:
                    self.heal()
            self.clock.advance(STEP)
            self.anvil.rpc("evm_increaseTime", STEP)
            if self.mining:
                self.anvil.mine()
            self.the_node_looks()

    # --- what goes wrong

    @rule()
    def the_node_is_killed(self) -> None:
        self.run(self._reopen(self.earning))

    @rule()
    def the_orchestrator_is_killed(self) -> None:
        self.run(self._reopen(self.paying))

    @rule(after=st.integers(0, 30), delivers=st.booleans())
    def the_node_is_killed_while_it_looks(self, after: int, *, delivers: bool) -> None:
        self.run(self.proxies[1].crash(self.earning.look(), after, delivers=delivers))
        self.run(self._reopen(self.earning))

    @rule(after=st.integers(0, 6), delivers=st.booleans(), tickets=st.integers(1, 4))
    def the_node_is_killed_while_it_is_paid(self, after: int, tickets: int, *, delivers: bool) -> None:
        self.run(self.paying.earn(self.earning.key.address, tickets * VALUE))
        self.run(self.proxies[1].crash(self.session.exchange(), after, delivers=delivers))
        self.run(self._reopen(self.earning))

    @rule(after=st.integers(0, 8))
    def the_orchestrator_is_killed_while_it_watches(self, after: int) -> None:
        self.run(self.proxies[0].crash(self.paying.watcher.look(), after, delivers=False))
        self.run(self._reopen(self.paying))

    @rule(side=st.integers(0, 1))
    def an_endpoint_is_lost(self, side: int) -> None:
        self.proxies[side].down = True

    @rule()
    @precondition(lambda self: self.mining)
    def nothing_is_mined_any_more(self) -> None:
        self.anvil.rpc("evm_setAutomine", False)  # noqa: FBT003 - as anvil has it
        self.mining = False

    @rule()
    @precondition(lambda self: self.troubled)
    def trouble_is_over(self) -> None:
        self.heal()

    @rule(depth=st.integers(1, CONFIRMATIONS - 1))
    @precondition(lambda self: self.mining)
    def blocks_are_undone(self, depth: int) -> None:
        self.anvil.rpc("anvil_reorg", depth, [])
        self.sync()

    @rule(seconds=st.integers(-50, 50))
    def the_clocks_are_set(self, seconds: int) -> None:
        """To so much before or after the chain's time: less than the margin that the node keeps."""
        self.clock._now = self.chain_time() + seconds

    # --- what the sender does

    @rule(
        doing=st.sampled_from(
            ["unlock", "cancel_unlock", "lower", "raise", "revoke", "authorise", "withdraw_deposit", "withdraw_reserve"]
        )
    )
    @precondition(lambda self: self.mining)
    def the_sender_moves(self, doing: str) -> None:
        self.run(self._move(doing))
        self.sync()

    @rule(amount=st.integers(1, 4))
    @precondition(lambda self: self.mining)
    def the_sender_funds(self, amount: int) -> None:
        self.run(self.act(self.broker.fund_deposit(self.sender.address, amount * FACE)))
        self.sync()

    async def _move(self, doing: str) -> None:
        node, sender = self.earning.key.address, self.sender.address
        funds = await self.broker.funds(sender, node)
        now = await self.broker.chain.timestamp()
        unlocked = funds.unlock_at is not None and funds.unlock_at <= now
        may = await self.broker.signer_valid_until(sender, self.signer.address)
        allowed = {
            "unlock": funds.unlock_at is None,
            "cancel_unlock": funds.unlock_at is not None,
            "lower": funds.lowers_at is None and funds.allocation > FACE,
            "raise": True,
            "revoke": may == 2**64 - 1,
            "authorise": may != 2**64 - 1,
            "withdraw_deposit": unlocked and funds.deposit > 0,
            "withdraw_reserve": unlocked and funds.reserve > funds.allocated,
        }
        if not allowed[doing]:
            return
        calls: dict[str, Call] = {
            "unlock": self.broker.unlock(),
            "cancel_unlock": self.broker.cancel_unlock(),
            "lower": self.broker.allocate([(node, FACE)]),
            "raise": self.broker.allocate(
                [(node, min(ALLOCATION, funds.allocation + funds.reserve - funds.allocated))]
            ),
            "revoke": self.broker.revoke_signer(self.signer.address),
            "authorise": self.broker.authorise_signer(self.signer.address),
            "withdraw_deposit": self.broker.withdraw_deposit(funds.deposit, sender),
            "withdraw_reserve": self.broker.withdraw_reserve(max(0, funds.reserve - funds.allocated), sender),
        }
        await self.act(calls[doing])

    # --- what always holds

    @invariant()
    def what_is_paid_was_funded_and_paid_once(self) -> None:
        if self.proxies:
            self.quiet()
            self.run(self._check_chain())

    async def _check_chain(self) -> int:
        """Wei paid so far."""
        head = await self.broker.chain.head()
        events = await self.broker.events(self.first_block, head)
        funded = sum(event.amount for event in events if isinstance(event, DepositFunded | ReserveFunded))
        withdrawn = sum(event.amount for event in events if isinstance(event, DepositWithdrawn | ReserveWithdrawn))
        redeemed = [event for event in events if isinstance(event, TicketsRedeemed)]
        paid = sum(event.amount for event in redeemed)
        assert paid <= funded - withdrawn
        assert all(event.amount == FACE * len(event.sender_nonces) for event in redeemed)
        times = Counter((event.params_hash, nonce) for event in redeemed for nonce in event.sender_nonces)
        assert not times or max(times.values()) == 1
        funds = await self.broker.funds(self.sender.address, self.earning.key.address, block=head)
        held = int(self.anvil.rpc("eth_getBalance", self.broker.address, hex(head)), 16)
        assert (held, funds.deposit + funds.reserve) == (funded - withdrawn - paid,) * 2
        assert funds.allocated <= funds.reserve
        return paid

    # --- how it ends

    def teardown(self) -> None:
        try:
            if self.proxies:
                self.heal()
                self.run(self._end())
        finally:
            for side in (self.earning, self.paying) if self.proxies else ():
                self.run(side.crash())
            self.run(self.stack.aclose())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    async def _end(self) -> None:
        """Everything works again: until all is settled."""
        await self._reopen(self.earning)
        await self._reopen(self.paying)
        for _ in range(3 * int(LIFETIME) // STEP):
            assert await self.earning.look()
            await self.session.exchange()
            self.anvil.mine(CONFIRMATIONS)
            self.anvil.rpc("evm_increaseTime", STEP)
            self.anvil.mine()
            self.clock.advance(STEP)
            if not await self.earning.store.in_flight() and not await self.earning.store.winners(self.clock.now()):
                break
        assert await self.earning.look()
        self.quiet()
        await self.paying.watch()
        await self._check_winners(await self._check_chain())

    async def _check_winners(self, paid: int) -> None:
        node, store = self.earning.key.address, self.earning.store
        winners = 0
        for payment in await self.paying.store.payments_of(node):
            if not payment.receipt:
                continue
            epoch = epoch_of(store.secret, payment.params, Epochs((await store.epochs()).current, 0))
            rand = recipient_rand(store.secret, payment.params, epoch)
            for nonce in payment.nonces:
                if wins(sign_ticket(self.signer, self.broker.domain, payment.params, nonce), rand):
                    winners += 1
                    assert await self.broker.is_redeemed(payment.params, nonce)
        assert paid == winners * FACE
        totals, account = await store.totals(self.clock.now()), await self.paying.store.account(node)
        assert (totals.redeemed, totals.outstanding, totals.refused) == (paid, 0, {})
        assert account.redeemed == paid
        held = (await self.paying.store.standing(node)).open_value  # for want of backing
        assert account.issued - account.refused == totals.received + held
        ledger = await self.paying.reconcile()
        assert (ledger.differences, ledger.debits - ledger.credits) == ((), 0)

    # ---

    @property
    def troubled(self) -> bool:
        return not self.mining or any(proxy.down for proxy in self.proxies)

    def heal(self) -> None:
        self.trouble = 0
        for proxy in self.proxies:
            proxy.down = False
        if not self.mining:
            self.anvil.rpc("evm_setAutomine", True)  # noqa: FBT003 - as anvil has it
            self.mining = True
            self.anvil.mine()
        self.sync()

    def quiet(self) -> None:
        """Until anvil has mined what it will: while it does, it answers from before and from after."""
        while self.mining and self.anvil.rpc("txpool_status")["pending"] != "0x0":
            pass

    def sync(self) -> None:
        """The clocks are never behind the chain's."""
        self.clock.advance(max(0.0, self.chain_time() - self.clock.now()))

    def chain_time(self) -> float:
        return int(self.anvil.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)  # noqa: FBT003

    async def act(self, call: Call) -> None:
        """Of the sender; what a reorganisation has put back into the pool may come before it."""
        with suppress(ChainError):
            await self.transactions.acknowledge(await self.transactions.send(call, "act"))

    async def _reopen(self, side: EarningSide | PayingSide) -> None:
        await side.crash()
        await side.open()
        await self._connect()


def test_payments(anvil: Anvil) -> None:
    class Machine(Payments):
        pass

    Machine.anvil = anvil
    examples = int(os.environ.get("PAYMENT_EXAMPLES", _EXAMPLES))
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            derandomize=examples == _EXAMPLES,
            phases=[Phase.generate],  # who wins is drawn anew each time, so a failure is not made smaller
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
