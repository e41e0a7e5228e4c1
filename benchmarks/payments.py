"""The real parts of both sides around payments, without jobs being run or sockets: what the simulation moves money by.

Of the orchestrator: its store with the ledger, its decisions on jobs and payments, its watcher of the contract. Of each
node: its decisions on terms and payments, its ticket store, its transactions. Payments pass through the codec, as they
would on the wire.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from node.adapters.contract import EthereumTicketContract as NodeContract
from node.adapters.ticket_store import SqliteTicketStore
from node.core.acceptance import Backing, Till, check, fund
from node.core.terms import Stakes, issue, recipient_rand
from orchestrator.adapters.contract import EthereumTicketContract
from orchestrator.adapters.store import open_store
from orchestrator.core import lifecycle
from orchestrator.core.blame import RetryPolicy
from orchestrator.core.lifecycle import Accepted, Assigned, Event, Finished
from orchestrator.core.paying import PayingPolicy, adopt, agree, pay
from orchestrator.core.reconciliation import Reconciliation, reconcile
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
from orchestrator.service.ledger import contract_figures
from orchestrator.service.watching import ChainWatcher, WatchPolicy
from tandem.chain.settings import ChainSection
from tandem.clock import SystemClock
from tandem.protocol.codec import Envelope, decode, encode
from tandem.protocol.ids import AttemptRef, job_id, task_id
from tandem.protocol.jobs import InferenceRequest, JobState, TaskState
from tandem.protocol.messages import Payment, PaymentReceipt
from tandem.protocol.outputs import InferenceOutput
from tandem.protocol.signing import Address, SigningKey
from tandem.protocol.tensors import TensorJson
from tandem.protocol.tickets import TicketParams
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

    def __init__(self, store: SqliteTicketStore, contract: NodeContract, identity: Identity, address: Address) -> None:
        self.address = address
        self.store = store
        self._contract = contract
        self._identity = identity
        self._backing: Backing | None = None

    async def terms(self, stakes: Stakes) -> TicketParams:
        """New terms, of a new epoch; the one before is closed, since the orchestrator is to sign no more under it."""
        epochs = await self.store.rotate()
        await self.store.close_epochs(epochs.current - 1)
        expiry = int(_CLOCK.now()) + LIFETIME
        return issue(stakes, self.store.secret, self._identity.sender, self.address, epochs.current, expiry)

    async def look(self) -> None:
        """Reads what stands behind the tickets."""
        self._backing = await self._contract.backing(self._identity.sender, {self._identity.key.address})

    async def take(self, payment: Payment) -> PaymentReceipt:
        """Accepts a payment. Raises TicketError if anything is wrong with it."""
        assert self._backing is not None  # noqa: S101 - `look` comes first
        nonces = [ticket.sender_nonce for ticket in payment.tickets]
        till = Till(
            domain=self._identity.domain,
            secret=self.store.secret,
            sender=self._identity.sender,
            recipient=self.address,
            epochs=await self.store.epochs(),
            now=_CLOCK.now(),
            expiry_margin=_MARGIN,
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
                part = replace(winning, tickets=winning.tickets[first : first + _MOST_REDEEMED_AT_ONCE])
                await self._contract.redeem((part,), (rand,))
                count += 1
        while await self.store.in_flight():
            for outcome in await self._contract.outcomes():
                await self.store.settle(outcome, _CLOCK.now())
                await self._contract.acknowledge(outcome)
        return count


@asynccontextmanager
async def open_orchestrator(
    folder: Path, chain: ChainSection, identity: Identity, policy: PayingPolicy
) -> AsyncIterator[Paying]:
    """With a new store in the folder."""
    async with (
        open_store(f"sqlite:///{folder / 'tandem.db'}", _CLOCK) as store,
        EthereumTicketContract(lambda: chain.connect(_CLOCK), identity.domain, identity.sender) as contract,
    ):
        watching = WatchPolicy(confirmations=1, most_blocks=10_000, poll_seconds=1.0)
        yield Paying(store, identity, policy, contract, ChainWatcher(store, contract, _CLOCK, watching))


@asynccontextmanager
async def open_nodes(
    folder: Path, chain: ChainSection, identity: Identity, keys: Iterable[SigningKey]
) -> AsyncIterator[Sequence[Earning]]:
    """Each with a new ticket store in the folder."""
    nodes = []
    async with AsyncExitStack() as stack:
        for key in keys:
            path = folder / f"{key.address}.db"
            store = await stack.enter_async_context(SqliteTicketStore(path, key.address, identity.domain))
            contract = await stack.enter_async_context(NodeContract(chain, key, store, _CLOCK))
            nodes.append(Earning(store, contract, identity, key.address))
        yield nodes


def _submission(price: int) -> Submission:
    now = _CLOCK.now()
    job = job_id(now, secrets.token_bytes(8))
    record = JobRecord(job, "local", _REQUEST, JobState.QUEUED, price=price, created_at=now)
    task = TaskRecord(id=task_id(job, 0), work=inference_work(_TENSOR), state=TaskState.WAITING, price=price)
    return Submission(record, (task,), inputs=(_TENSOR,))
