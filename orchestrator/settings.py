"""The orchestrator's settings. `config/orchestrator.toml` shows every one with its default."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.core.catalogue import ModelQuota
from orchestrator.core.checks import CheckPolicy
from orchestrator.core.guard import Guard, is_loopback, parse_allowed
from tandem.chain.settings import ChainSection
from tandem.protocol.media import VideoCodec
from tandem.protocol.pricing import Prices
from tandem.protocol.signing import Address
from tandem.protocol.units import Amount
from tandem.settings import Folder

Seconds = Annotated[float, Field(gt=0, le=10**7)]
Bytes = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class HttpSettings(_Section):
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """The port to listen on."""
    public_url: str | None = Field(default=None, pattern=r"^https?://[^/]+$")
    """Where nodes and submitters reach this orchestrator: scheme, host and port. Nodes must dial exactly this."""

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"http://{host}:{self.port}"


class ChainSettings(ChainSection):
    sender: Address | None = None
    """The account whose deposit and reserve back the tickets; by default the signing key's own."""
    keystore: Path
    """The encrypted key that signs tickets and node sessions."""
    password_file: Path
    """The file whose first line opens the keystore."""


class PaymentSettings(_Section):
    max_ahead: Amount = 10**15
    """Wei of expected value that a node may hold beyond what it has earned; and, with 1 % of what was signed for it,
    the most in refused tickets that is made good. A new node has a hundredth of it, and more as it earns."""
    max_face_value: Amount = 10**17
    """Wei that a single winning ticket may pay."""


class LedgerSettings(_Section):
    from_block: int | None = Field(default=None, ge=0)
    """The first block whose events are read; by default the contract's first, which takes an endpoint that keeps old
    state to find."""
    most_blocks: int = Field(default=2000, ge=1, le=10**6)
    """Blocks whose events are asked for at once; halved as long as the endpoint refuses."""
    poll: Seconds = 15.0
    """Seconds between looks for new blocks."""


class FundingSettings(_Section):
    keystore: Path | None = None
    """The encrypted key of chain.sender, with which deposit, reserve and allocations are kept at these levels. Without
    it, the orchestrator says what is low and which command mends it."""
    password_file: Path | None = None
    """The file whose first line opens the keystore."""
    deposit: Amount = 10**17
    """Wei to keep in the deposit, from which all winners are paid first; 0: whatever is there will do."""
    reserve: Amount = 10**18
    """Wei to keep in the reserve, of which parts are promised to nodes; 0: whatever is there will do."""
    allocation: Amount = 10**17
    """The most to promise to one node, in wei; 0: allocations are left alone."""
    trial: Amount = 10**16
    """Of it, what a node is promised that has not earned anything yet; what it earns comes on top."""
    trial_percent: int = Field(default=20, ge=0, le=100)
    """The share of the reserve that all nodes together may be promised that have earned less than a trial."""
    refill_below_percent: int = Field(default=50, ge=1, le=100)
    """A level is restored when less than this share of it is left."""
    max_a_day: Amount = 2 * 10**18
    """Wei that may be moved into the contract within any 24 hours."""
    idle_after: Seconds = 7 * 86_400.0
    """Seconds after which the allocation of a node that is away, or has not earned its trial, is given back."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.keystore is None) != (self.password_file is None):
            raise ValueError("expected keystore and password_file, or neither of them")
        return self


class LeaseSettings(_Section):
    lease: Seconds = 30.0
    """Seconds without a heartbeat after which an attempt is given to another node."""
    start_to_finish_base: Seconds = 120.0
    """Seconds that any attempt may take."""
    start_to_finish_factor: float = Field(default=20.0, ge=0)
    """Further seconds an attempt may take, for each second of its source or of its model's measured cost."""
    max_nodes: int = Field(default=3, ge=1)
    """A task that failed on so many different nodes fails its job."""


class LimitSettings(_Section):
    upload: Bytes = 20 * 2**30
    """Bytes of one uploaded artifact."""
    body: Bytes = 32 * 2**20
    """Bytes of any other request's body."""
    inference: Bytes = 2**26
    """Bytes of one request for an inference, inflated."""
    inference_memory: Bytes = 2**30
    """Bytes of all such requests and their answers at one time; one more is answered by 429."""
    inference_share: float = Field(default=0.5, gt=0, le=1)
    """Of inference_memory, what the requests of one API key may take; one more is answered by 429."""
    orphan_age: Seconds = 86_400.0
    """Seconds that an artifact to which nothing refers is kept."""
    result_age: Annotated[float, Field(gt=0)] | None = None
    """Seconds after a job's end that its inputs and results are kept, unless another job or a model has them too; by
    default for good. A failed job cannot be retried without them."""
    history_age: Seconds = 30 * 86_400.0
    """Seconds after a job's end that the events of its webhooks, and which results were written to URLs, are kept."""


class OnlineSettings(_Section):
    queue: int = Field(default=256, ge=1)
    """Requests on line that may wait for one model; one more is answered by 429."""
    queue_bytes: Bytes = 2**28
    """Bytes of inputs that may wait for all models."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Of a model's queue, and of queue_bytes, what requests of one API key may take; one more is answered by 429."""
    timeout: Seconds = 30.0
    """Seconds that a request may take, unless it or its model says otherwise."""
    attempts: int = Field(default=3, ge=1)
    """Nodes that a request is tried on, one after the other, within its time."""
    grow: Seconds = 1.0
    """Seconds for which requests have to wait before one more node loads their model."""
    idle: Seconds = 300.0
    """Seconds without a request after which nodes let go of a model, but for the replicas that its settings ask for."""


class CatalogueSettings(_Section):
    models_per_key: int = Field(default=100, ge=0)
    """Versions of models that one API key may register, of all names."""
    bytes_per_key: Bytes = 100 * 2**30
    """Bytes that all files of one key's models may have; a file that two models share counts for both."""
    replicas_per_key: int = Field(default=2, ge=0)
    """Nodes on which one key may have its models kept warm, summed over them. What the operator pins comes on top."""

    @property
    def quota(self) -> ModelQuota:
        return ModelQuota(self.models_per_key, self.bytes_per_key, self.replicas_per_key)


class FetchSettings(_Section):
    ports: Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], Field(min_length=1)] = (80, 443)
    """Ports of URLs that are visited for submitters: inputs, webhooks."""
    allow: tuple[str, ...] = ()
    """Hosts and networks that are visited although they are not public, such as 10.1.0.0/16: every submitter can
    then reach them through this orchestrator."""
    redirects: int = Field(default=5, ge=0, le=20)
    """Redirects that are followed, each judged like the first URL."""
    stall: Seconds = 30.0
    """Seconds that a server may send, or take, nothing."""
    total: Seconds = 3600.0
    """Seconds that the fetch of an input, or the writing of a result, may take."""
    concurrency: int = Field(default=8, ge=1)
    """Jobs that are prepared at the same time, and jobs whose results are written to URLs."""
    per_owner: int = Field(default=4, ge=1)
    """Of each, jobs of one submitter."""
    tries: int = Field(default=5, ge=1)
    """A job whose input could not be fetched, or whose results not be written, so many times fails."""

    @field_validator("allow")
    @classmethod
    def _readable(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for each in allow:
            parse_allowed(each)
        return allow

    @property
    def guard(self) -> Guard:
        return Guard(frozenset(self.ports), tuple(parse_allowed(each) for each in self.allow))


class WebhookSettings(_Section):
    timeout: Seconds = 15.0
    """Seconds that a receiver has to answer."""
    give_up: Seconds = 259_200.0
    """Seconds after which a webhook that does not arrive is given up."""
    concurrency: int = Field(default=32, ge=1)
    """Webhooks that are sent at the same time."""
    per_endpoint: int = Field(default=4, ge=1)
    """Of them to one scheme, host and port, so that one that is dead does not hold up the others."""


class CheckSettings(_Section):
    inference_share: float = Field(default=0.01, ge=0, le=1)
    """Of the answers of models, on line and in batches, which are run a second time on another node; 0: none."""
    inference_rate: float = Field(default=10.0, gt=0, le=1000)
    """Second runs a second at most, of requests on line."""
    memory: Bytes = 2**27
    """Bytes of inputs and outputs that are kept for second runs at one time."""
    suspension: Seconds = 86_400.0
    """Seconds without work for a node whose answers were outvoted several times of late."""

    @property
    def policy(self) -> CheckPolicy:
        return CheckPolicy(self.inference_share, self.inference_rate, self.memory, self.suspension)


class UsageSettings(_Section):
    window: float = Field(default=1.0, ge=0.05, le=60)
    """Seconds of on-line usage that are settled at once: what may be lost if the process is killed."""


class AuthSettings(_Section):
    anonymous_loopback: bool | None = None
    """Whether requests from this machine may come without an API key; by default, only if the orchestrator calls itself
    by an address of this machine alone. A proxy beside it may pass on strangers' requests as its own."""


class PriceSettings(Prices):
    """The same prices, written with units."""

    megapixel: Annotated[Mapping[VideoCodec, Amount], Field(max_length=16)] = {
        VideoCodec.H264: 10**9,
        VideoCodec.HEVC: 4 * 10**9,
        VideoCodec.VP9: 10**10,
        VideoCodec.AV1: 4 * 10**9,
    }
    """Wei a megapixel encoded, by codec; a codec that is absent is not for sale."""
    track_minute: Amount = 125 * 10**9
    """Wei a minute of each audio rendition, each subtitle track and each set of stills."""
    inference_second: Amount = 10**13
    """Wei a second of model cost."""


class OrchestratorSettings(BaseSettings):
    """All of it. Sources, strongest first: flags, environment (`TANDEM_ORCHESTRATOR__…`), TOML file, defaults."""

    model_config = SettingsConfigDict(
        env_prefix="TANDEM_ORCHESTRATOR__",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    data: Folder = Path("var/orchestrator")
    """The folder of the database and the artifacts."""
    http: HttpSettings = HttpSettings()
    chain: ChainSettings
    prices: PriceSettings = PriceSettings()
    """The most that submitters pay, by which quotes are made: a job costs what its node asks, within it."""
    payment: PaymentSettings = PaymentSettings()
    usage: UsageSettings = UsageSettings()
    ledger: LedgerSettings = LedgerSettings()
    funding: FundingSettings = FundingSettings()
    leases: LeaseSettings = LeaseSettings()
    online: OnlineSettings = OnlineSettings()
    checks: CheckSettings = CheckSettings()
    limits: LimitSettings = LimitSettings()
    catalogue: CatalogueSettings = CatalogueSettings()
    fetch: FetchSettings = FetchSettings()
    webhooks: WebhookSettings = WebhookSettings()
    auth: AuthSettings = AuthSettings()

    @property
    def anonymous_loopback(self) -> bool:
        """Whether requests from this machine may come without an API key."""
        said = self.auth.anonymous_loopback
        return is_loopback(urlsplit(self.http.origin).hostname or "") if said is None else said

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.http.public_url is None and self.http.host in {"0.0.0.0", "::"}:
            raise ValueError("http.public_url: expected a URL, since http.host is every address and nodes need one")
        if self.http.public_url is None and self.http.port == 0:
            raise ValueError("http.public_url: expected a URL, since http.port is any free one")
        return self
