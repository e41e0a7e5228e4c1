"""The real parts of both sides around payments, without jobs being run or sockets: what the simulation moves money by.

Of the orchestrator: its store with the ledger, its decisions on jobs and payments, its watcher of the contract. Of each
node: its decisions on terms and payments, its ticket store, its transactions. Payments pass through the codec, as they
would on the wire.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.contract import EthereumTicketContract
from orchestrator.core.reconciliation import Reconciliation, reconcile
from orchestrator.service.ledger import contract_figures
from orchestrator.service.watching import ChainWatcher, WatchPolicy

from node.adapters.ticket_store import SqliteTicketStore
from node.core.acceptance import Backing, Till, check, fund
from node.core.terms import TermsPolicy, issue, recipient_rand
from orchestrator.adapters.store import open_store
from orchestrator.core import lifecycle
from orchestrator.core.lifecycle import Accepted, Assigned, Event, Finished, RetryPolicy
from orchestrator.core.paying import PayingPolicy, adopt, agree, pay
from orchestrator.core.records import (
    AccountChanges,
    AccountRecord,
    JobChanges,
    JobRecord,
    JobSnapshot,
    Submission,
    TaskRecord,
)
from orchestrator.core.session import Identity
from orchestrator.ports.store import Store
from tandem.chain.broker import RedemptionBatch, TicketBroker
from tandem.chain.redemption import redemption_result
from tandem.chain.transactions import TransactionSender
from tandem.clock import SystemClock
from tandem.protocol.codec import Envelope, decode, encode
from tandem.protocol.ids import AttemptRef, job_id, task_id
from tandem.protocol.jobs import InferenceOutput, InferenceRequest, JobState, TaskState
from tandem.protocol.messages import Payment, PaymentReceipt
from tandem.protocol.signing import SigningKey
from tandem.protocol.tensors import TensorJson
from tandem.protocol.tickets import TicketParams
from tests.fixtures.anvil import Anvil, transaction_sender
from tests.fixtures.protocol import inference_work, tensor

LIFETIME = 86_400
"""Seconds that terms live: longer than any run."""
_MARGIN = 60.0
_MOST_REDEEMED_AT_ONCE = 200
_TENSOR = tensor("x", 1.0)
_OUTPUT = InferenceOutput(outputs=(_TENSOR.meta,), provider="CPUExecutionProvider")
_REQUEST = InferenceRequest(
    kind="inference",
    model="digits",
    inputs=(TensorJson(name="x", datatype=_TENSOR.datatype, shape=_TENSOR.shape, data=[]),),
)
_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Paying:
    """The orchestrator's side."""

    store: Store
    identity: Identity
    policy: PayingPolicy
    contract: EthereumTicketContract
    watcher: ChainWatcher

    async def earn(self, prices: dict[str, int]) -> None:
        """One accepted attempt for each node, at its price in wei."""
        jobs = {await self.store.submit(_submission(price)): (node, price) for node, price in prices.items()}
        refs = {job: AttemptRef(task=task_id(job, 0), number=1) for job in jobs}
        await self._decide({job: Assigned(task_id(job, 0), node, price, 60.0) for job, (node, price) in jobs.items()})
        await self._decide({job: Finished(refs[job], jobs[job][0], _OUTPUT, (_TENSOR,)) for job in jobs})
        await self._decide({job: Accepted(refs[job]) for job in jobs})

    async def adopt(self, node: str, params: TicketParams) -> None:
        """The terms that a node issues, from now on. Raises TicketError if they are outside the limits."""

        def decide(account: AccountRecord, now: float) -> AccountChanges:
            agree(account, params, self.identity, self.policy, now)
            return adopt(account, params)

        await self.store.decide_account(node, decide)

    async def pay(self, node: str) -> Payment | None:
        """The next payment that the node is due, as it arrives there."""

        def decide(account: AccountRecord, now: float) -> AccountChanges:
            return pay(account, self.identity, self.policy, now)

        record = await self.store.decide_account(node, decide)
        if record is None:
            return None
        sent = Payment(id=record.id, params=record.params, tickets=record.tickets)
        message = decode(encode(Envelope(sent))).message
        assert isinstance(message, Payment)  # noqa: S101 - what the codec reads is what it wrote
        return message

    async def watch(self) -> None:
        """Reads the contract's events into the ledger, up to the newest block."""
        while await self.watcher.advance():
            pass

    async def reconcile(self) -> Reconciliation:
        """The ledger beside itself and the contract."""
        books = await self.store.books(self.contract.source)
        return reconcile(books, self.contract.source, await contract_figures(books, self.contract))

    async def _decide(self, events: dict[str, Event]) -> None:
        def decide(snapshot: JobSnapshot, now: float) -> JobChanges:
            return lifecycle.decide(snapshot, events[snapshot.job.id], now, RetryPolicy())

        await self.store.decide(list(events), decide)


class Earning:
    """One node's side."""

    def __init__(
        self, store: SqliteTicketStore, broker: TicketBroker, identity: Identity, sender: TransactionSender
    ) -> None:
        self.address = sender.address
        self.store = store
        self._broker = broker
        self._identity = identity
        self._sender = sender
        self._backing: Backing | None = None

    async def terms(self, policy: TermsPolicy) -> TicketParams:
        """New terms, of a new epoch; the one before is closed, since the orchestrator is to sign no more under it."""
        epochs = await self.store.rotate()
        await self.store.close_epochs(epochs.current - 1)
        expiry = int(_CLOCK.now() + policy.lifetime)
        return issue(policy, self.store.secret, self._identity.sender, self.address, epochs.current, expiry)

    async def look(self) -> None:
        """Reads what stands behind the tickets."""
        now, signer = _CLOCK.now(), self._identity.key.address
        funds = await self._broker.funds(self._identity.sender, self.address)
        self._backing = Backing(
            promised=funds.promised(),
            available=funds.deposit + funds.allocation,
            leaving=funds.unlock_at is not None or funds.lowers_at is not None,
            good_until=now + await self._broker.unlock_period(),
            signers={signer: await self._broker.signer_valid_until(self._identity.sender, signer)},
        )

    async def take(self, payment: Payment) -> PaymentReceipt:
        """Accepts a payment. Raises TicketError if anything is wrong with it."""
        assert self._backing is not None  # noqa: S101 - `look` comes first
        nonces = [ticket.sender_nonce for ticket in payment.tickets]
        till = Till(
            self._identity.domain,
            self.store.secret,
            self._identity.sender,
            self.address,
            await self.store.epochs(),
            _CLOCK.now(),
            _MARGIN,
        )
        checked = check(payment, till, await self.store.seen(payment.params.hash(), nonces))
        outstanding = await self.store.outstanding(self._identity.sender, _CLOCK.now())
        digest = hashlib.sha256(payment.model_dump_json().encode()).digest()
        await self.store.take(fund(checked, self._backing, outstanding), digest)
        return PaymentReceipt(id=payment.id, accepted=True)

    async def redeem(self) -> int:
        """Redeems the winners of closed epochs on the contract; how many transactions it took."""
        epochs, count = await self.store.epochs(), 0
        for winning in await self.store.winners(_CLOCK.now()):
            if winning.epoch > epochs.closed:
                continue
            rand = recipient_rand(self.store.secret, winning.params, winning.epoch)
            for first in range(0, len(winning.tickets), _MOST_REDEEMED_AT_ONCE):
                tickets = winning.tickets[first : first + _MOST_REDEEMED_AT_ONCE]
                batch = RedemptionBatch(winning.params, rand, tickets)
                mined = await self._sender.send(self._broker.redeem([batch]), "redeem tickets")
                await self.store.settle(redemption_result(self._broker, mined), _CLOCK.now())
                await self._sender.acknowledge(mined)
                count += 1
        return count


@asynccontextmanager
async def open_orchestrator(
    folder: Path, anvil: Anvil, identity: Identity, policy: PayingPolicy
) -> AsyncIterator[Paying]:
    """With a new store in the folder."""
    async with (
        open_store(f"sqlite:///{folder / 'tandem.db'}", _CLOCK) as store,
        EthereumTicketContract([anvil.url], identity.domain, identity.sender) as contract,
    ):
        watching = WatchPolicy(confirmations=1, most_blocks=10_000, poll_seconds=1.0)
        yield Paying(store, identity, policy, contract, ChainWatcher(store, contract, _CLOCK, watching))


@asynccontextmanager
async def open_nodes(
    folder: Path, broker: TicketBroker, identity: Identity, keys: Iterable[SigningKey]
) -> AsyncIterator[Sequence[Earning]]:
    """Each with a new ticket store in the folder."""
    nodes = []
    async with AsyncExitStack() as stack:
        for key in keys:
            path = folder / f"{key.address}.db"
            store = await stack.enter_async_context(SqliteTicketStore(path, key.address, identity.domain))
            nodes.append(Earning(store, broker, identity, transaction_sender(broker.chain, key)))
        yield nodes


def _submission(price: int) -> Submission:
    now = _CLOCK.now()
    job = job_id(now, secrets.token_bytes(8))
    record = JobRecord(job, "local", _REQUEST, JobState.QUEUED, price=price, created_at=now)
    task = TaskRecord(id=task_id(job, 0), work=inference_work(_TENSOR), state=TaskState.WAITING, price=price)
    return Submission(record, (task,), inputs=(_TENSOR,))
