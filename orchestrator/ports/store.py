"""What the inside asks of the store. One conformance suite holds every adapter to it.

Decisions are pure functions that the store calls inside a transaction: it reads a snapshot under a lock, passes it to
the function, and commits what it answers, all or nothing. A decision may be called again if the transaction has to be,
and in a thread other than the caller's.
Leases live on the store's clock: `now()` is its time, and no method takes a time from outside.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from orchestrator.core.catalogue import CatalogueUpdate, ModelChanges
from orchestrator.core.packaging import JobFile, Package
from orchestrator.core.records import (
    AccountChanges,
    AccountRecord,
    ApiKeyRecord,
    ArtifactRecord,
    AttemptRecord,
    Books,
    ChainEvents,
    Cursor,
    DeliveryPage,
    DeliveryRecord,
    ExportRecord,
    Failure,
    Finding,
    JobChanges,
    JobPage,
    JobSnapshot,
    Once,
    PaymentRecord,
    PreparationRecord,
    ReadyTask,
    Standing,
    Submission,
    UsagePage,
    UsageWindowRecord,
    WebhookRecord,
)
from tandem.chain.transactions import TransactionJournal
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import JobState
from tandem.protocol.media import MediaInfo, Source
from tandem.protocol.models import ModelInfo
from tandem.protocol.tensors import Tensor
from tandem.protocol.webhooks import DeliveryStatus

JobDecision = Callable[[JobSnapshot, float], JobChanges]
"""From a job as it is and the store's time to what changes. Raises a TandemError to change nothing."""
ModelDecision = Callable[[Sequence[ModelInfo], float], ModelChanges]
"""From all models of an owner, and all public ones of a name, and the store's time to what changes."""
AccountDecision = Callable[[AccountRecord, float], AccountChanges]
WebhookDecision = Callable[[WebhookRecord | None, float], WebhookRecord]
"""From an owner's webhook, None if there is none yet, and the store's time to what it is from now on."""


class JobStore(Protocol):
    async def now(self) -> float:
        """The store's time, in seconds since the epoch."""
        ...

    async def check(self) -> None:
        """Waits its turn among the writes, and looks into the store. Raises Unavailable if that cannot be done."""
        ...

    async def submit(self, submission: Submission) -> str:
        """Writes a new job and returns its id; under a known idempotency key, the id of the first one.

        One in the state `preparing` has a preparation from now on, until it leaves the state.

        Raises IdempotencyConflict if the key came with another request, NotFound if an artifact is gone.
        """
        ...

    async def submitted(self, owner: str, once: Once) -> str | None:
        """The job that was made under the key, if one was. Raises IdempotencyConflict if it was by another request."""
        ...

    async def job(self, job_id: str) -> JobSnapshot:
        """With the output tensors of its attempts. Raises NotFound."""
        ...

    async def jobs(
        self, owner: str | None, *, state: JobState | None = None, after: str | None = None, limit: int = 50
    ) -> JobPage:
        """Newest first, without tensors; `owner` None: everybody's."""
        ...

    async def decide(self, jobs: Sequence[str], decision: JobDecision) -> list[JobChanges]:
        """Runs `decision` on each job, each given once, and writes the changes of all in one transaction.

        The snapshots come without tensors. What is fixed when a row is made (a request, a node, a price) is not
        written again, and the tensors of an attempt only with the step to `verifying`.

        Raises NotFound for a job, or for an artifact that is gone and accepted or to be kept; InvalidTransition;
        StaleAttempt for a row of `attempts` whose stored state is final or whose node is another. In each case nothing
        is written.
        `earned` raises the nodes' accounts in the same transaction, and may name only attempts that it accepts.
        """
        ...

    async def preparations(self, limit: int = 50, without: Collection[str] = ()) -> list[PreparationRecord]:
        """Jobs that are being prepared, but of none of the owners `without`: the first to be tried first."""
        ...

    async def save_preparation(self, record: PreparationRecord) -> None:
        """Writes how far it is, and keeps its source for the job. Nothing, if the job is not being prepared any more.

        Raises NotFound if the source is gone.
        """
        ...

    async def exports(self, limit: int = 50, without: Collection[str] = ()) -> list[ExportRecord]:
        """Of jobs that are `exporting`, as above."""
        ...

    async def export(self, job_id: str) -> ExportRecord | None:
        """Of a job that is or was."""
        ...

    async def save_export(self, record: ExportRecord) -> None:
        """Writes how far it is."""
        ...

    async def prune(self, older_than: float) -> int:
        """Forgets what was told and written of some jobs that ended so many seconds ago; how much, 0: nothing is left.

        That is: events of webhooks, and which results are at URLs of the submitter. A failed job, which can be tried
        again, keeps the latter and its newest event.
        """
        ...

    async def let_go(self, older_than: float) -> int:
        """Lets go of all files of some jobs that ended so many seconds ago; of how many jobs, 0: nothing is left."""
        ...

    async def ready(self, limit: int, after: str | None = None) -> list[ReadyTask]:
        """Waiting tasks whose `not_before` has passed, oldest first; those after the task `after`, if it is given."""
        ...

    async def next_ready_at(self) -> float | None:
        """When the earliest task that is still backing off becomes ready; None if there is none."""
        ...

    async def inputs(self, task_id: str) -> tuple[Tensor, ...]:
        """The input tensors of an inference task."""
        ...

    async def attempts_on(self, node: str) -> list[AttemptRecord]:
        """The node's attempts that are running or being verified, without tensors."""
        ...

    async def verifying(self) -> list[AttemptRecord]:
        """Every attempt being verified, with its tensors: what a restart has to take up again."""
        ...

    async def extend_leases(self, node: str, refs: Sequence[AttemptRef], seconds: float) -> list[AttemptRef]:
        """Extends the leases of the node's attempts in one write; returns those of `refs` that are lost.

        One that is being verified is not lost.
        """
        ...

    async def extend_all_leases(self, seconds: float) -> None:
        """Gives every running attempt a fresh lease: after a restart nobody is late yet."""
        ...

    async def expired(self) -> list[AttemptRef]:
        """Running attempts whose lease has run out."""
        ...


class AccountStore(Protocol):
    async def account(self, node: str) -> AccountRecord:
        """Zeroes for a node that is not known."""
        ...

    async def accounts(self) -> list[AccountRecord]: ...

    async def decide_account(self, node: str, decision: AccountDecision) -> PaymentRecord | None:
        """Runs `decision` on the account, writes what it changes, and returns the new payment, with its id.

        Raises ValueError for a payment whose nonces are not the account's next ones.
        """
        ...

    async def open_payments(self, node: str) -> list[PaymentRecord]:
        """Payments without a receipt, oldest first."""
        ...

    async def standing(self, node: str) -> Standing:
        """How the account stands. Callers of this and of writes hear in the order in which they were committed."""
        ...

    async def record_receipt(self, node: str, payment: int, failure: Failure | None) -> Standing:
        """Marks a payment as received, or as refused (then `refused` grows by its value), and forgets its tickets.

        Repeats change nothing. A refusal of tickets that were already redeemed counts as a receipt. Returns what
        `standing` does, as it is after that.
        """
        ...

    async def payments_of(self, node: str) -> list[PaymentRecord]: ...


class UsageStore(Protocol):
    """On-line work: what is owed for it, window by window, and who used what, day by day."""

    async def settle_usage(self, windows: Sequence[UsageWindowRecord]) -> None:
        """Owes each window to its node, all in one transaction; one that is there already changes nothing."""
        ...

    async def open_windows(self, node: str, limit: int) -> list[UsageWindowRecord]:
        """Windows without a receipt, oldest first."""
        ...

    async def close_window(self, node: str, window: str) -> None:
        """The node has it in its books. Repeats change nothing."""
        ...

    async def usage(self, owner: str | None, after: str | None = None, limit: int = 50) -> UsagePage:
        """By day, the newest first, and model; `owner` None: everybody's.

        Raises ValueError for an `after` that no page ended with.
        """
        ...


class LedgerStore(Protocol):
    """What the contract's events mean for the books. The entries of jobs and payments are written with those."""

    async def cursor(self, source: str) -> Cursor | None:
        """Up to where the source's events are in the ledger."""
        ...

    async def begin_at(self, cursor: Cursor) -> None:
        """The block before the first that is to be read."""
        ...

    async def record_blocks(
        self, cursor: Cursor, block_number: int, block_hash: bytes, events: ChainEvents
    ) -> list[Finding]:
        """Writes the events of the blocks after `cursor` up to the given one, and moves the cursor, all or nothing.

        Recipients of allocations have an account from then on. Redeemed tickets are matched with those that were
        issued: returns what is not as it should be. A refusal of tickets that were redeemed is void from then on.
        Raises Conflict if the cursor has moved.
        """
        ...

    async def entry_blocks(self, source: str, below: int, limit: int) -> list[tuple[int, bytes]]:
        """The newest blocks under the number `below` that wrote entries: number and hash, newest first."""
        ...

    async def take_back(self, cursor: Cursor, block_number: int, block_hash: bytes) -> int:
        """Reverses the entries of all later blocks, which have vanished, and puts the cursor back; how many it were.

        Raises Conflict if the cursor has moved.
        """
        ...

    async def books(self, source: str) -> Books:
        """All of it as of one moment, with every entry added up again."""
        ...


class FundingStore(Protocol):
    """What must outlive the process about the funding key's transactions."""

    def journal(self, account: str) -> TransactionJournal:
        """Of one account on one chain."""
        ...

    async def spend(self, amount: int) -> int:
        """Counts wei as spent from now on, and returns a number for it."""
        ...

    async def unspend(self, spending: int) -> None:
        """It was not spent after all."""
        ...

    async def spent_since(self, time: float) -> int:
        """Wei counted as spent after that time; known for a week."""
        ...


class CatalogueStore(Protocol):
    """Artifacts, models and API keys."""

    async def add_artifact(self, artifact_id: str, size: int, media_type: str) -> ArtifactRecord:
        """Known ones stay as they are; their age starts anew."""
        ...

    async def artifact(self, artifact_id: str) -> ArtifactRecord:
        """Raises NotFound."""
        ...

    async def delete_orphans(self, older_than: float, released: float = 0) -> list[str]:
        """Forgets artifacts that no job, model or accepted output refers to, `older_than` seconds old; their ids.

        Those that a job let go of, and nobody stored again, are forgotten when they are `released` seconds old.
        """
        ...

    async def unlisted(self, artifact_ids: Sequence[str]) -> list[str]:
        """Those of which nothing is known here."""
        ...

    async def save_media(self, artifact_id: str, source: Source) -> None:
        """Raises NotFound."""
        ...

    async def media(self, artifact_id: str) -> MediaInfo | None:
        """What an earlier probe of this artifact found."""
        ...

    async def source(self, artifact_id: str) -> Source | None:
        """The same with what only planning needs."""
        ...

    async def decide_models(self, owner: str, name: str, decide: ModelDecision) -> ModelChanges:
        """Commits what is decided about the models of this owner; raises what `decide` does, and then changes nothing.

        Raises NotFound if an artifact of a new model is gone.
        """
        ...

    async def catalogue(self, since: int = 0) -> CatalogueUpdate:
        """What has changed of the models since that revision."""
        ...

    async def add_key(self, key: ApiKeyRecord) -> None: ...

    async def key_by_digest(self, digest: bytes) -> ApiKeyRecord | None:
        """None also if it was revoked."""
        ...

    async def keys(self) -> list[ApiKeyRecord]: ...

    async def revoke_key(self, key_id: str) -> None:
        """Raises NotFound."""
        ...


class FolderStore(Protocol):
    """What is put together from the results of tasks, while a job goes on; its end is a decision like others."""

    async def add_packages(self, job: str, new: Sequence[Package], content: Sequence[JobFile]) -> None:
        """Writes parts of a job that are cut, with their files; what is there already stays, or is replaced.

        Raises Conflict if the job is over, NotFound if an artifact is gone.
        """
        ...

    async def packages(self, job: str) -> list[Package]: ...

    async def file(self, job: str, path: str) -> JobFile | None:
        """Of the job's folder."""
        ...

    async def files(self, job: str) -> list[JobFile]:
        """By path."""
        ...


class WebhookStore(Protocol):
    """Webhooks, and the outbox of what they are told: written with each state of a job, so that none is lost."""

    async def webhook(self, owner: str) -> WebhookRecord | None: ...

    async def decide_webhook(self, owner: str, decision: WebhookDecision) -> WebhookRecord:
        """Runs `decision` on the owner's webhook, writes what it answers, and returns that."""
        ...

    async def due_deliveries(self, limit: int, *, without: Collection[str] = ()) -> list[DeliveryRecord]:
        """Those to be sent now, but to none of the endpoints `without`: of each job at most one, its oldest."""
        ...

    async def next_delivery_at(self) -> float | None:
        """When the earliest that is not due yet will be; None if there is none."""
        ...

    async def save_delivery(self, delivery: DeliveryRecord) -> None:
        """Writes how far it is. Once it is over, the next of its job may be sent.

        One that was given up meanwhile stays so, unless it has arrived.
        """
        ...

    async def end_webhook(self, last: DeliveryRecord) -> None:
        """Writes the last try, gives up whatever its owner still has for the URL, and tells no job's state there."""
        ...

    async def deliveries(
        self,
        owner: str,
        *,
        job: str | None = None,
        status: DeliveryStatus | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> DeliveryPage:
        """Newest job first, and of each the newest event. Raises ValueError for an `after` that is no event's id."""
        ...

    async def redeliver(self, owner: str, job: str, number: int) -> DeliveryRecord:
        """Has an event sent anew, in its turn. Raises NotFound."""
        ...


class Store(
    JobStore,
    FolderStore,
    AccountStore,
    UsageStore,
    LedgerStore,
    FundingStore,
    CatalogueStore,
    WebhookStore,
    Protocol,
):
    """All of it."""
