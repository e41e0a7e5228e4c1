"""The node's settings. `config/node.toml` shows every one with its default."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from node.core.terms import TICKETS_IN_UNPAID
from tandem.chain.settings import ChainSection
from tandem.protocol.media import VideoCodec
from tandem.protocol.signing import Address
from tandem.protocol.units import Amount, ceil_div
from tandem.settings import Folder

Seconds = Annotated[float, Field(gt=0, le=10**9)]
Mebibytes = Annotated[int, Field(ge=1, le=2**40)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class OrchestratorSection(_Section):
    url: str = Field(default="http://127.0.0.1:8080", pattern=r"^https?://[^/]+$")
    """The orchestrator to work for: scheme, host and port, exactly as it calls itself in http.public_url."""
    sender: Address | None = None
    """The account that must back its tickets; by default whichever the orchestrator names and the chain confirms."""


class KeySection(_Section):
    keystore: Path | None = None
    """The node's encrypted key: its identity, and the account that earns. By default `key.json` in the data folder,
    made at the first start."""
    password_file: Path | None = None
    """The file whose first line opens the keystore. By default `key.password` in the data folder, made with the key."""


class PriceSection(_Section):
    megapixel: Annotated[Mapping[VideoCodec, Amount], Field(max_length=16)] = {
        VideoCodec.H264: 2 * 10**8,
        VideoCodec.HEVC: 8 * 10**8,
        VideoCodec.VP9: 2 * 10**9,
        VideoCodec.AV1: 8 * 10**8,
    }
    """Wei a million pixels encoded, by codec; a codec that is absent is not for sale."""
    track_minute: Amount = 25 * 10**9
    """Wei a minute of each audio rendition, each subtitle track and each set of stills."""
    inference_second: Amount = 5 * 10**10
    """Wei a second of a model's measured cost."""


class TicketSection(_Section):
    odds: int = Field(default=100, ge=1, le=10**9)
    """One ticket in so many wins, and pays the face value. More: lumpier income, and less gas for it."""
    min_face_value: Annotated[Amount, Field(ge=1)] = 10**14
    """Wei that a winner pays at least, however cheap gas is; less only if the orchestrator signs for no more."""
    max_face_value: Annotated[Amount, Field(ge=1)] = 10**17
    """Wei that a winner pays at most. In between it follows gas, so that redeeming costs about redemption.gas_percent
    of it, and what the contract promises to this node, so that several winners fit."""
    lifetime: Seconds = 86_400.0
    """Seconds that tickets may be redeemed; at most half the contract's unlock period is used."""
    max_unpaid: Annotated[Amount, Field(ge=1)] = 10**15
    """Wei of work that may be done and not covered by tickets; work beyond is refused. A ticket is worth at most half
    of it on average."""


class RedemptionSection(_Section):
    gas_percent: int = Field(default=10, ge=1, le=100)
    """Winners are redeemed once gas is at most so many percent of what they pay."""
    urgent_before: Seconds = 3600.0
    """Seconds before winners expire from which on they are redeemed if they pay for their gas at all; of short lives at
    most the last quarter."""
    refresh: Seconds = 15.0
    """Seconds for which a look at the sender's funds is good enough for taking tickets."""


class CapacitySection(_Section):
    cpu: float | None = Field(default=None, gt=0, le=4096)
    """Cores to offer; by default what was measured."""
    memory: Mebibytes | None = None
    """MiB of main memory to offer; by default what was measured."""
    gpu: bool = True
    """Whether to offer the GPUs that were found."""
    cache: Mebibytes = 10 * 1024
    """MiB of disk for sources and models."""


class InferenceSection(_Section):
    workers: int | None = Field(default=None, ge=1, le=64)
    """Worker processes for models on the CPU, which share its cores; by default one a core, at most 4. Each has its own
    copy of a model that is in demand."""
    memory: Mebibytes | None = None
    """MiB of main memory for models that are kept loaded, in all workers together; by default a quarter of what is
    offered."""
    vram: Mebibytes | None = None
    """MiB of GPU memory for models and their runs, not offered for video; by default half of the GPU's."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """The port on 127.0.0.1 that answers Prometheus with figures for each model; by default there is none."""


class NodeSettings(BaseSettings):
    """All of it. Sources, strongest first: flags, environment (`TANDEM_NODE__…`), TOML file, defaults."""

    model_config = SettingsConfigDict(
        env_prefix="TANDEM_NODE__",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    data: Folder = Path("var/node")
    """The folder of the key, the ticket store and the artifact cache. One node, one folder."""
    orchestrator: OrchestratorSection = OrchestratorSection()
    chain: ChainSection
    key: KeySection = KeySection()
    prices: PriceSection = PriceSection()
    tickets: TicketSection = TicketSection()
    redemption: RedemptionSection = RedemptionSection()
    capacity: CapacitySection = CapacitySection()
    inference: InferenceSection = InferenceSection()
    grace: Seconds = 60.0
    """Seconds that running attempts have to finish after SIGTERM, before they are handed back."""
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """The least level that is logged: DEBUG, INFO, WARNING or ERROR."""

    @property
    def keystore(self) -> Path:
        return self.key.keystore or self.data / "key.json"

    @property
    def password_file(self) -> Path:
        return self.key.password_file or self.data / "key.password"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tickets = self.tickets
        if tickets.max_face_value < tickets.min_face_value:
            raise ValueError(
                f"tickets.max_face_value: expected at least tickets.min_face_value ({tickets.min_face_value}), got "
                f"{tickets.max_face_value}"
            )
        least = ceil_div(TICKETS_IN_UNPAID * tickets.min_face_value, tickets.odds)
        if tickets.max_unpaid < least:
            raise ValueError(
                f"tickets.max_unpaid: expected at least {TICKETS_IN_UNPAID} * tickets.min_face_value / tickets.odds "
                f"({least}), got {tickets.max_unpaid}: the node would stop before its first ticket"
            )
        return self
