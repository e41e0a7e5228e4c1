"""What the orchestrator remembers, as plain data: the rows of the store without the store."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.core.ledger import EntryKind, Totals, TrialBalance
from orchestrator.core.packaging import JobFile
from tandem.protocol.ids import AttemptRef, event_id
from tandem.protocol.jobs import AnyRequest, AnyWork, AttemptState, JobState, TaskState
from tandem.protocol.messages import SignedTicket
from tandem.protocol.outputs import Output
from tandem.protocol.tensors import Tensor
from tandem.protocol.tickets import TicketParams
from tandem.protocol.urls import web_endpoint
from tandem.protocol.webhooks import DeliveryStatus


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt or a job did not succeed: a code of the error tree and its message."""

    code: str
    detail: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class JobRecord:
    id: str
    owner: str
    """The API key's id, or `local`."""
    request: AnyRequest
    """As it was sent, less the tensors' data."""
    state: JobState
    price: int | None
    """Wei, quoted at submission or once it is prepared; a node may cost less, never more."""
    created_at: float
    finished_at: float | None = None
    failure: Failure | None = None
    webhook: str | None = None
    """The URL that is told of each of its states."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    id: str
    work: AnyWork
    state: TaskState
    price: int
    """The most that an attempt may cost, in wei."""
    not_before: float = 0.0
    """Store time before which it is not handed out again."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    ref: AttemptRef
    node: str
    state: AttemptState
    price: int
    """Wei that it earns if accepted, by the node's offer at assignment."""
    started_at: float
    lease_until: float
    output: Output | None = None
    tensors: tuple[Tensor, ...] = ()
    """Output tensors, once the attempt is verifying or accepted."""
    failure: Failure | None = None
    finished_at: float | None = None
    lane: int = 0
    """0 or 1: which of the two places that a task has for attempts that are active at the same time."""
    earned: int = 0
    """Wei: its price once it is accepted, a part of it if it was cancelled because another was accepted first."""


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """A job with all its tasks and attempts, as one transaction saw them."""

    job: JobRecord
    tasks: tuple[TaskRecord, ...]
    attempts: tuple[AttemptRecord, ...]

    def task(self, task_id: str) -> TaskRecord | None:
        return next((task for task in self.tasks if task.id == task_id), None)

    def attempt(self, ref: AttemptRef) -> AttemptRecord | None:
        return next((attempt for attempt in self.attempts if attempt.ref == ref), None)

    def attempts_of(self, task_id: str) -> tuple[AttemptRecord, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.ref.task == task_id)

    def with_attempts(self) -> Iterator[tuple[TaskRecord, list[AttemptRecord]]]:
        """Each task with its attempts; for jobs of many tasks."""
        of_task: dict[str, list[AttemptRecord]] = {task.id: [] for task in self.tasks}
        for attempt in self.attempts:
            of_task[attempt.ref.task].append(attempt)
        return ((task, of_task[task.id]) for task in self.tasks)


@dataclass(frozen=True, slots=True)
class JobChanges:
    """What a decision changes in one job: whole new rows, written in one transaction. Empty: nothing."""

    job: JobRecord | None = None
    tasks: tuple[TaskRecord, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    """New ones, and ones that leave the states `running` or `verifying`; written only over such."""
    earned: tuple[AttemptRecord, ...] = ()
    """Attempts that now end, accepted or beside one that is, and what they earned is owed to their nodes."""
    planned: tuple[TaskRecord, ...] = ()
    """New tasks; their places in the job are those that their ids say. A job that was being prepared takes its price at
    the same time."""
    artifacts: tuple[str, ...] = ()
    """Artifacts that the job refers to from now on."""
    files: tuple[JobFile, ...] = ()
    """What is put into the job's folder, over what has the same path."""
    released: tuple[str, ...] = ()
    """Artifacts that the job refers to no more, but for those in its folder."""

    @property
    def empty(self) -> bool:
        return self.job is None and not self.tasks and not self.attempts and not self.planned


@dataclass(frozen=True, slots=True)
class PreparationRecord:
    """How far a job is that is being prepared. It goes when the job leaves that state."""

    job: str
    owner: str
    tries: int = 0
    """That failed."""
    not_before: float = 0.0
    """Store time before which it is not tried again."""
    source: str | None = None
    """The artifact of its input, once that is fetched."""


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """How far the results of a job are on their way to URLs of its submitter."""

    job: str
    owner: str
    tries: int = 0
    """That failed."""
    not_before: float = 0.0
    """Store time before which it is not tried again."""
    written: tuple[str, ...] = ()
    """Names of the results that are there."""
    error: str | None = None
    """Of the last try that failed."""


@dataclass(frozen=True, slots=True)
class WebhookRecord:
    """The webhook of one owner, and the secrets that sign what is sent for it."""

    owner: str
    url: str | None
    """For jobs whose request names none."""
    secret: str = field(repr=False)
    made_at: float
    """When the secret was."""
    previous: str | None = field(default=None, repr=False)
    previous_until: float = 0.0
    """Store time up to which the secret before this one signs as well."""


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A state that a job came to, and how far its webhook is: the outbox, written with the state itself."""

    job: str
    number: int
    """Of the event in its job, from 1."""
    owner: str
    state: JobState
    at: float
    url: str
    status: DeliveryStatus
    since: float
    """Store time from which on it is tried."""
    tries: int = 0
    not_before: float = 0.0
    delivered_at: float | None = None
    error: str | None = None

    @property
    def id(self) -> str:
        return event_id(self.job, self.number)

    @property
    def endpoint(self) -> str:
        """Scheme, host and port of the URL."""
        return web_endpoint(self.url)


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    deliveries: tuple[DeliveryRecord, ...]
    next_cursor: str | None = None
    """The id to continue after; None at the end."""


@dataclass(frozen=True, slots=True)
class ReadyTask:
    """A waiting task, with the nodes that have failed it or handed it back, the latest last."""

    task: TaskRecord
    failed_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PaymentRecord:
    """Tickets of one set of parameters, signed and not to be signed again."""

    id: int
    node: str
    params: TicketParams
    nonces: range
    """The sender nonces of its tickets."""
    tickets: tuple[SignedTicket, ...] = ()
    """Kept until the node has answered for them: signed again, they would be the same."""
    receipt: bool | None = None
    """True: on the node's disk; False: the node refused them; None: not answered yet."""
    failure: Failure | None = None

    @property
    def value(self) -> int:
        """The expected value of all tickets, in wei."""
        return len(self.nonces) * self.params.expected_value()


@dataclass(frozen=True, slots=True)
class UsageShare:
    """What one owner used of one model."""

    owner: str
    """The API key's id, or `local`."""
    model: str
    version: str
    requests: int
    price: int
    """Wei."""


@dataclass(frozen=True, slots=True)
class UsageWindowRecord:
    """Accepted on-line work of one node in a short time, which is owed to it; kept until the node has answered."""

    id: str
    node: str
    shares: tuple[UsageShare, ...] = ()
    """While it is being settled: they are added to the usage of the day, and not kept with the window."""
    requests: int = 0
    price: int = 0
    """Wei, of all shares."""


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What one owner used of one model on one day."""

    day: str
    """As in 2026-11-24, in UTC."""
    model: str
    version: str
    requests: int
    price: int
    """Wei."""


@dataclass(frozen=True, slots=True)
class UsagePage:
    records: tuple[UsageRecord, ...]
    next_cursor: str | None = None
    """To continue after; None at the end."""


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """What stands between the orchestrator and one node: running totals of the ledger, in wei, and the terms in force.

    The totals are written with the ledger's entries alone; see `Totals` for what each is.
    """

    node: str
    earned: int = 0
    issued: int = 0
    refused: int = 0
    redeemed: int = 0
    unissued: int = 0
    """What of `redeemed` paid for tickets that were never issued here: somebody else has the signing key."""
    active_at: float | None = None
    """Store time at which it last earned something, or its allocation was seen to change."""
    params: TicketParams | None = None
    """The terms in force, as the node issued them."""
    next_nonce: int = 0
    """The sender nonce of the next ticket. It outlives terms, so that none comes twice even if old ones return."""

    @property
    def totals(self) -> Totals:
        return Totals(self.earned, self.issued, self.refused, self.redeemed)


@dataclass(frozen=True, slots=True)
class Standing:
    """An account, and the payments that its node has not answered for."""

    account: AccountRecord
    open_payments: int
    open_value: int
    """Their expected value, in wei."""


@dataclass(frozen=True, slots=True)
class AccountChanges:
    """What a decision changes in one account, written in one transaction."""

    params: TicketParams | None = None
    """Terms that are in force from now on."""
    payment: PaymentRecord | None = None
    """A new one: its id is 0 and is given by the store, its nonces begin at the account's next."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to which block the contract's events of one source are in the ledger."""

    source: str
    """Chain, contract and sender."""
    block_number: int
    block_hash: bytes
    balance: int = 0
    """Wei of deposit and reserve, as of that block, by the ledger."""
    reorganisations: int = 0
    """How often blocks that were already in the ledger have vanished."""


@dataclass(frozen=True, slots=True)
class ChainEntry:
    """An event of the contract that moves money: funded, withdrawn or redeemed."""

    kind: EntryKind
    amount: int
    """Wei."""
    block_number: int
    block_hash: bytes
    tx_hash: bytes
    log_index: int
    recipient: str = ""
    """Of redeemed tickets, as all that follows."""
    params_hash: bytes = b""
    sender_nonces: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChainEvents:
    """What some blocks mean for the books."""

    entries: tuple[ChainEntry, ...] = ()
    recipients: frozenset[str] = frozenset()
    """To whom parts of the reserve were promised."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A redemption that is not as it should be."""

    recipient: str
    tx_hash: bytes
    unissued: int = 0
    """Wei, at face value, for tickets that were never issued here."""
    voided: int = 0
    """Wei of expected value of tickets that the recipient had refused, and redeemed all the same."""


@dataclass(frozen=True, slots=True)
class Books:
    """The whole ledger, as of one moment."""

    accounts: tuple[AccountRecord, ...]
    balance: TrialBalance
    cursor: Cursor | None
    findings: tuple[Finding, ...]
    """Redemptions of tickets that were never issued here."""
    attempts: Mapping[str, int]
    """What attempts earned, in wei, by node: the price if one was accepted, a part if another overtook it."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """The prices of all accepted requests, in wei, by node: they are owed too, and nothing else is."""


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    id: str
    name: str
    digest: bytes
    """sha256 of the key: keys are 256 random bits, so a fast hash is enough."""
    created_at: float
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class ArtifactRecord:
    id: str
    size: int
    """Bytes."""
    media_type: str
    created_at: float


@dataclass(frozen=True, slots=True)
class JobPage:
    jobs: tuple[JobSnapshot, ...]
    next_cursor: str | None = None
    """The id to continue after; None at the end."""


@dataclass(frozen=True, slots=True)
class Once:
    """The submitter's name for a submission, under which there is one job at most."""

    idempotency_key: str
    request_digest: bytes
    """sha256 of the request as it came, to tell a repeat from another request under the same key."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A new job, as one transaction writes it."""

    job: JobRecord
    tasks: tuple[TaskRecord, ...]
    inputs: tuple[Tensor, ...] = ()
    """Input tensors of its inference task."""
    once: Once | None = None
    artifacts: tuple[str, ...] = field(default=())
    """Artifacts that the job refers to, and that must be kept for it."""
