"""What a node and an orchestrator say to each other on the node session.

The session opens with four messages (`Hello`, `Challenge`, `Proof`, `Welcome`); every other comes after. Everything
that matters is acknowledged by meaning, not by transport: an attempt is held by the node until its `Verdict`, a
payment by the orchestrator until its `PaymentReceipt`, a window of usage until its `UsageReceipt`. After a drop all are
said again, and duplicates are harmless, because attempts carry their number, tickets their nonce, windows their id.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.ids import ArtifactId, AttemptRef, Frozen, Label, Name, WindowId
from tandem.protocol.jobs import Work
from tandem.protocol.models import MAX_MODEL_FILES, ModelFile, ModelSettings
from tandem.protocol.outputs import MAX_FILES, Output
from tandem.protocol.pricing import Prices
from tandem.protocol.signing import Address, Bytes32, Signature
from tandem.protocol.tensors import MAX_TENSORS, TensorSpec
from tandem.protocol.tickets import TicketParams
from tandem.protocol.units import UINT256_MAX, Wei

PROTOCOL_VERSION = 1
MAX_HELD = 4096
MAX_TICKETS = 1024
MAX_WARM = 1024
MAX_WINDOWS = 256

Detail = Annotated[str, Field(max_length=4096)]
Url = Annotated[str, Field(max_length=2048)]
MAX_SECONDS = 10**7
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Version = Annotated[int, Field(ge=1, lt=2**31)]
PaymentId = Annotated[int, Field(ge=1, lt=2**63)]
Permille = Annotated[int, Field(ge=0, le=1000)]


class WarmModel(Frozen):
    """A model that a node has loaded, ready for requests on line."""

    model: ArtifactId
    """Its digest."""
    provider: Label
    """The ONNX Runtime provider that runs it."""
    memory: int = Field(ge=0, lt=2**63)
    """Bytes that it takes, measured."""


class Offer(Frozen):
    """A node's standing offer: what it can do, how much, at what price. It lives as long as the session."""

    capability: Capability
    capacity: Capacity
    """In all; what is free follows from the attempts it holds."""
    prices: Prices
    max_unpaid: Wei
    """The node takes no attempt that would raise what it is owed beyond this."""
    models: tuple[WarmModel, ...] = Field(default=(), max_length=MAX_WARM)
    """Those that are warm."""
    draining: bool = False
    """True: no new attempts."""


class HeldAttempt(Frozen):
    ref: AttemptRef
    finished: bool
    """True: its outcome will be said again."""


class Hello(Frozen):
    """Node to orchestrator, first. `features` are optional extras that the node knows."""

    type: Literal["hello"] = "hello"
    versions: tuple[Version, ...] = Field(min_length=1, max_length=16)
    features: tuple[Label, ...] = Field(default=(), max_length=64)
    address: Address
    nonce: Bytes32


class Challenge(Frozen):
    """Orchestrator to node: its own identity proven, and a nonce to be signed."""

    type: Literal["challenge"] = "challenge"
    version: Version
    features: tuple[Label, ...] = Field(default=(), max_length=64)
    sender: Address
    """Whose deposit and reserve back the tickets."""
    signer: Address
    """Who signs this session and the tickets; the contract says that it may."""
    chain_id: int = Field(ge=1, le=UINT256_MAX)
    contract: Address
    nonce: Bytes32
    signature: Signature


class Proof(Frozen):
    """Node to orchestrator: identity proven, the offer, and the attempts that survived a drop."""

    type: Literal["proof"] = "proof"
    signature: Signature
    offer: Offer
    held: tuple[HeldAttempt, ...] = Field(default=(), max_length=MAX_HELD)


class TicketLimits(Frozen):
    """What an orchestrator signs tickets for; terms outside of it are refused. All in wei."""

    max_face_value: Wei
    """Of what a winner pays."""
    min_expected_value: Wei
    """Of what a ticket is worth on average: smaller ones would be too many."""
    max_expected_value: Wei


class UsageWindow(Frozen):
    """Orchestrator to node: accepted on-line work of a short time, which is owed; said again until it is answered."""

    type: Literal["usage_window"] = "usage_window"
    id: WindowId
    requests: int = Field(ge=1, lt=2**63)
    price: Wei
    """Of all of them."""


class UsageReceipt(Frozen):
    """Node to orchestrator: the window is in its books."""

    type: Literal["usage_receipt"] = "usage_receipt"
    id: WindowId


class Welcome(Frozen):
    """Orchestrator to node: the session is open. Held attempts that are not in `keep` are to be dropped."""

    type: Literal["welcome"] = "welcome"
    heartbeat: Seconds
    """Seconds between heartbeats."""
    lease: Seconds
    """Seconds without a heartbeat after which attempts are given to others."""
    limits: TicketLimits
    keep: tuple[AttemptRef, ...] = Field(default=(), max_length=MAX_HELD)
    usage: tuple[UsageWindow, ...] = Field(default=(), max_length=MAX_WINDOWS)
    """Windows that were not answered. Of earlier sessions nothing else is counted."""


class OfferUpdate(Frozen):
    type: Literal["offer"] = "offer"
    offer: Offer


class Heartbeat(Frozen):
    """Node to orchestrator: alive, and running these; extends their leases."""

    type: Literal["heartbeat"] = "heartbeat"
    attempts: tuple[AttemptRef, ...] = Field(default=(), max_length=MAX_HELD)


class HeartbeatReply(Frozen):
    """Orchestrator to node: of the attempts named, these leases are lost; stop them."""

    type: Literal["heartbeat_reply"] = "heartbeat_reply"
    lost: tuple[AttemptRef, ...] = Field(default=(), max_length=MAX_HELD)


class Assign(Frozen):
    """Orchestrator to node: do this. Input tensors follow in the binary frame, in the order of `work.inputs`."""

    type: Literal["assign"] = "assign"
    ref: AttemptRef
    work: Work
    price: Wei
    """What an accepted result earns; by the node's own offer."""
    start_to_finish: Seconds
    source_url: Url
    """Where to fetch the source from, or the model of a single inference; signed, short-lived."""
    model_url: Url | None = None
    """Where to fetch the model from, if the work has a source as well."""
    file_urls: tuple[Url, ...] = Field(default=(), max_length=MAX_MODEL_FILES)
    """Where to fetch the files of a model's external data from, in the order of `work.files`."""
    watermark_url: Url | None = None
    """Where to fetch the watermark from, if the work has one."""
    upload_urls: Annotated[Mapping[Name, Url], Field(max_length=MAX_FILES)] = {}
    """Where to put each file of the output; signed, short-lived."""


class Progress(Frozen):
    type: Literal["progress"] = "progress"
    ref: AttemptRef
    permille: Permille
    remaining: Seconds | None = None
    """Seconds left, estimated."""


class Finished(Frozen):
    """Node to orchestrator: done. Output tensors follow in the binary frame, in the order of `output.outputs`."""

    type: Literal["finished"] = "finished"
    ref: AttemptRef
    output: Output


class Failed(Frozen):
    """Node to orchestrator: not done (or not begun), and why. `code` is one of the error tree."""

    type: Literal["failed"] = "failed"
    ref: AttemptRef
    code: Label
    detail: Detail
    retryable: bool


class Verdict(Frozen):
    """Orchestrator to node: how an attempt was judged; the node may forget it. Only an accepted one is owed."""

    type: Literal["verdict"] = "verdict"
    ref: AttemptRef
    accepted: bool
    price: Wei = 0
    """What it earned: its price if accepted; a part of it if another attempt was accepted first."""
    code: Label | None = None
    detail: Detail = ""


class Cancel(Frozen):
    """Orchestrator to node: stop this attempt; it needs no answer."""

    type: Literal["cancel"] = "cancel"
    ref: AttemptRef
    price: Wei = 0
    """What it earned by what it showed done, if another attempt was accepted first."""
    reason: Detail


class LoadModel(Frozen):
    """Orchestrator to node: fetch a model, load it and keep it warm for requests on line, which name it by `model`.

    The same files run otherwise are another `model`. Answered by `ModelStatus`.
    """

    type: Literal["load_model"] = "load_model"
    model: ArtifactId
    """A digest of its files, settings and cost together, made by the orchestrator."""
    artifact: ArtifactId
    """The ONNX file."""
    size: int = Field(ge=1, lt=2**63)
    """Bytes of the ONNX file."""
    url: Url
    """Where to fetch the ONNX file from; signed, short-lived."""
    files: tuple[ModelFile, ...] = Field(default=(), max_length=MAX_MODEL_FILES)
    """Of external data."""
    file_urls: tuple[Url, ...] = Field(default=(), max_length=MAX_MODEL_FILES)
    """Where to fetch each of `files` from, in their order."""
    inputs: tuple[TensorSpec, ...] = Field(max_length=MAX_TENSORS)
    cost_us: int = Field(ge=1, lt=2**63)
    """Microseconds of one run with these inputs, open dimensions at 1: what the price of each request follows from."""
    settings: ModelSettings
    pinned: bool = False
    """Whether it stays when another needs its room."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if len(self.files) != len(self.file_urls):
            raise ValueError(f"expected a URL for each of {len(self.files)} files, got {len(self.file_urls)}")
        return self


class UnloadModel(Frozen):
    """Orchestrator to node: the model need not be kept warm any more. Answered by `ModelStatus`."""

    type: Literal["unload_model"] = "unload_model"
    model: ArtifactId


class ModelState(StrEnum):
    """Of a model on a node."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    """It could not be loaded."""
    UNLOADED = "unloaded"
    """It was asked to go, or had to make room."""


class ModelStatus(Frozen):
    """Node to orchestrator: how a model stands, after each change."""

    type: Literal["model_status"] = "model_status"
    model: ArtifactId
    state: ModelState
    provider: Label | None = None
    """If it is ready: the ONNX Runtime provider that runs it."""
    memory: int = Field(default=0, ge=0, lt=2**63)
    """If it is ready: bytes that it takes, measured."""
    code: Label | None = None
    """If it failed: one of the error tree."""
    detail: Detail = ""
    retryable: bool = False


class TicketTerms(Frozen):
    """Node to orchestrator: sign tickets under these parameters from now on, and under no others."""

    type: Literal["ticket_terms"] = "ticket_terms"
    params: TicketParams


class TicketTermsReply(Frozen):
    """Orchestrator to node: nothing will follow under earlier parameters, so that those may be revealed.

    Not accepted: the terms are outside the orchestrator's limits, with the reason.
    """

    type: Literal["ticket_terms_reply"] = "ticket_terms_reply"
    commitment: Bytes32
    accepted: bool
    code: Label | None = None
    detail: Detail = ""


class SignedTicket(Frozen):
    sender_nonce: int = Field(ge=0, lt=2**32)
    signature: Signature


class Payment(Frozen):
    """Orchestrator to node: tickets under one set of parameters, said again until it is answered."""

    type: Literal["payment"] = "payment"
    id: PaymentId
    params: TicketParams
    tickets: tuple[SignedTicket, ...] = Field(min_length=1, max_length=MAX_TICKETS)


class PaymentReceipt(Frozen):
    """Node to orchestrator: every ticket of the payment is on disk, or none and why."""

    type: Literal["payment_receipt"] = "payment_receipt"
    id: PaymentId
    accepted: bool
    code: Label | None = None
    detail: Detail = ""


class Problem(Frozen):
    """Either way: the last message could not be taken. To a node also: why it gets no work, with code `overdrawn`.

    `fatal`: the connection is closed after it.
    """

    type: Literal["problem"] = "problem"
    code: Label
    detail: Detail
    fatal: bool = False


NodeMessage = (
    Hello
    | Proof
    | OfferUpdate
    | Heartbeat
    | Progress
    | Finished
    | Failed
    | ModelStatus
    | TicketTerms
    | PaymentReceipt
    | UsageReceipt
    | Problem
)
OrchestratorMessage = (
    Challenge
    | Welcome
    | HeartbeatReply
    | Assign
    | Verdict
    | Cancel
    | LoadModel
    | UnloadModel
    | TicketTermsReply
    | Payment
    | UsageWindow
    | Problem
)
Message = NodeMessage | OrchestratorMessage
