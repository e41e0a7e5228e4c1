"""Models: an ONNX file, perhaps with files of external data, under a name and version.

A model is named by its digest, which stands for all of its files: whoever has the digest knows every byte that runs.
What a node serves has a name of its own, which stands for how the model is run as well.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from tandem.protocol.errors import InvalidTensor
from tandem.protocol.ids import ArtifactId, Frozen, Label, Name
from tandem.protocol.tensors import (
    MAX_TENSORS,
    Datatype,
    FixedShape,
    Tensor,
    TensorJson,
    TensorSpec,
    check_tensors,
    element_size,
    elements,
    tensor_from_json,
)

MODEL_FILE = "model.onnx"
"""What the ONNX file is called in a model's folder, whatever it was called when it was uploaded."""
MAX_MODEL_FILES = 256
"""Of external data."""
MAX_BATCH = 4096
MAX_REPLICAS = 1000
MAX_WARM_UPS = 16
MAX_WARM_UP_VALUES = 4096
MAX_WARM_UP_BYTES = 2**26

_STRING_BYTES = 1024
"""What an element of BYTES counts for."""
_MAX_DEPTH = 8
_MAX_SEGMENT_BYTES = 255
_ZEROS: Mapping[Datatype, str | bool] = {Datatype.BYTES: "", Datatype.BOOL: False}
_STRANGE = frozenset('\\:*?"<>|')
"""Mean something to one system or another, and `*` to ONNX Runtime: an address in memory."""
_DIGEST_PREFIX = b"tandem model\n"
"""No ONNX file begins like this, so that no model of one file has the digest of one of several."""
_SERVED_PREFIX = b"tandem served\n"


def check_file_name(name: str) -> str:
    """The name as it came. Raises ValueError unless it is a relative path that stays in the model's folder."""
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts) or not name.isprintable() or not _STRANGE.isdisjoint(name):
        raise ValueError(
            f"expected a relative path of plain names, such as weights.bin or data/weights.bin, got {name!r}"
        )
    if len(parts) > _MAX_DEPTH or any(len(part.encode()) > _MAX_SEGMENT_BYTES for part in parts):
        raise ValueError(f"expected at most {_MAX_DEPTH} names of at most {_MAX_SEGMENT_BYTES} bytes, got {name!r}")
    if parts[0] == MODEL_FILE:
        raise ValueError(f"expected another name than {MODEL_FILE}, which the model itself has; rename the file")
    return name


FileName = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(check_file_name)]
"""Where a file of external data lies, as the model says it: relative to the model, separated by `/`."""


class ModelFile(Frozen):
    """A file of external data that belongs to a model."""

    name: FileName
    artifact: ArtifactId
    size: int = Field(ge=0, lt=2**63)
    """Bytes."""


def model_digest(artifact: str, files: Sequence[ModelFile] = ()) -> str:
    """What names the model whole: the ONNX file's id if that is all, else the digest of the list of all its files."""
    if not files:
        return artifact
    listed = [["", artifact], *sorted([file.name, file.artifact] for file in files)]
    return f"sha256:{hashlib.sha256(_DIGEST_PREFIX + json.dumps(listed).encode()).hexdigest()}"


class Provider(StrEnum):
    """Where ONNX Runtime runs a model."""

    TENSORRT = "tensorrt"
    CUDA = "cuda"
    OPENVINO = "openvino"
    CPU = "cpu"


class WarmUpTensor(Frozen):
    name: Label
    shape: FixedShape
    data: Annotated[tuple[bool | int | float | str, ...], Field(max_length=MAX_WARM_UP_VALUES)] = ()
    """Row-major; one value fills the tensor; none: zeros, or empty strings."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.data) not in {0, 1, elements(self.shape)}:
            raise ValueError(
                f"expected no data, one value or {elements(self.shape)} for {list(self.shape)}, got {len(self.data)}"
            )
        return self


class Tolerance(Frozen):
    """Two results of the same inputs are alike within `absolute` + `relative` times the expected value."""

    relative: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1e-3
    absolute: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4


class ModelSettings(Frozen):
    """How a model is served. All of it can be changed after it was registered."""

    max_batch: int = Field(default=1, ge=1, le=MAX_BATCH)
    """So many rows of several requests are run at once at most; 1: each request is run by itself."""
    batch_window_us: int = Field(default=0, ge=0, le=1_000_000)
    """Microseconds that a request waits for others to be run with it."""
    provider: Provider | None = None
    """Preferred where a node has it; None: the fastest that the node finds."""
    replicas: int = Field(default=0, ge=0, le=MAX_REPLICAS)
    """On so many nodes the model is kept warm, asked for or not."""
    warm_up: Annotated[tuple[tuple[WarmUpTensor, ...], ...], Field(max_length=MAX_WARM_UPS)] = ()
    """Inputs of runs before the first request."""
    tolerance: Tolerance = Tolerance()
    """Within which two runs of the same inputs agree."""
    hedge: bool = False
    """Whether a request that lags may be run a second time elsewhere: the model keeps no state and rolls no dice."""
    timeout_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] | None = None
    """Seconds that a request may take that names no timeout; None: as the orchestrator's settings say."""

    @property
    def run(self) -> "ModelSettings":
        """Those alone that change how a node runs the model."""
        return ModelSettings(
            max_batch=self.max_batch,
            batch_window_us=self.batch_window_us,
            provider=self.provider,
            warm_up=self.warm_up,
        )


def warm_up_tensors(inputs: Sequence[TensorSpec], warm_up: Sequence[WarmUpTensor]) -> tuple[Tensor, ...]:
    """What a warm-up run is fed with, in the order of the model's inputs. Raises InvalidTensor."""
    given = {each.name: each for each in warm_up}
    specs = {spec.name: spec for spec in inputs}
    if set(given) != set(specs) or len(given) != len(warm_up):
        raise InvalidTensor(f"warm_up: expected the inputs {sorted(specs)}, each once, got {[e.name for e in warm_up]}")
    tensors = tuple(_filled(spec, given[spec.name]) for spec in inputs)
    check_tensors(inputs, tensors)
    return tensors


def _filled(spec: TensorSpec, warm_up: WarmUpTensor) -> Tensor:
    count = elements(warm_up.shape)
    if count * (element_size(spec.datatype) or _STRING_BYTES) > MAX_WARM_UP_BYTES:
        raise InvalidTensor(
            f"warm_up: expected at most {MAX_WARM_UP_BYTES} bytes for {spec.name!r}, got shape {list(warm_up.shape)}"
        )
    values = list(warm_up.data) or [_ZEROS.get(spec.datatype, 0)]
    shape = warm_up.shape if len(values) == count else (1,)
    packed = tensor_from_json(TensorJson(name=spec.name, datatype=spec.datatype, shape=shape, data=values))
    data = packed.data if len(values) == count else bytes(packed.data) * count
    return Tensor(name=spec.name, datatype=spec.datatype, shape=warm_up.shape, data=data)


class ModelInfo(Frozen):
    """A registered model, as its trial showed it."""

    name: Name
    version: Name
    artifact: ArtifactId
    """The ONNX file."""
    size: int = Field(ge=1)
    """Bytes of the ONNX file."""
    files: tuple[ModelFile, ...] = Field(default=(), max_length=MAX_MODEL_FILES)
    """Of external data; ascending by name."""
    inputs: tuple[TensorSpec, ...] = Field(max_length=MAX_TENSORS)
    outputs: tuple[TensorSpec, ...] = Field(max_length=MAX_TENSORS)
    opset: int = Field(default=0, ge=0)
    """Version of ONNX's operators that it is written for; 0: from before this was looked at."""
    cost_us: int = Field(ge=1)
    """Microseconds of one run on one core of the orchestrator, with inputs of the shapes in `measured`."""
    measured: tuple[FixedShape, ...] = Field(default=(), max_length=MAX_TENSORS)
    """Of each input, in their order; none: every open dimension at 1."""
    memory: int = Field(ge=0)
    """MiB that the loaded model takes, measured."""
    unbatchable: str | None = Field(default="it was registered before this was tried", max_length=1024)
    """Why requests cannot be run as one; None: they can."""
    unrepeatable: str | None = Field(default="it was registered before this was tried", max_length=1024)
    """Why two runs of the same inputs cannot be compared; None: they can, and a share of answers is."""
    settings: ModelSettings = ModelSettings()
    owner: str = "local"
    """The API key's id."""
    public: bool = True
    """Whether every key may use it, or its owner's alone."""
    default: bool = False
    """Whether it answers requests that name no version, although others may be later."""
    pinned: int = Field(default=0, ge=0, le=MAX_REPLICAS)
    """Warm replicas that the operator of the market asks for."""
    created_at: float = Field(default=0, ge=0)
    """When it was registered, in seconds since the epoch."""

    @property
    def batchable(self) -> bool:
        """Whether the first dimension is open in all inputs and outputs, and rows do not depend on their neighbours."""
        return self.unbatchable is None

    @property
    def replicas(self) -> int:
        """On so many nodes it is to be kept warm."""
        return max(self.settings.replicas, self.pinned)

    @property
    def cost_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs as they were when the cost was measured: what `inference_cost` compares with."""
        if not self.measured:
            return self.inputs
        return tuple(
            spec.model_copy(update={"shape": shape}) for spec, shape in zip(self.inputs, self.measured, strict=True)
        )

    @cached_property
    def digest(self) -> str:
        """Names the model with all of its files."""
        return model_digest(self.artifact, self.files)

    @cached_property
    def served(self) -> str:
        """Names what nodes serve: these files, run like this, at this cost.

        Models that differ in it share nothing on a node but the files on its disk.
        """
        cost = [self.cost_us, [[spec.name, spec.datatype, spec.shape] for spec in self.cost_inputs]]
        written = json.dumps([self.digest, self.settings.run.model_dump(mode="json"), cost])
        return f"sha256:{hashlib.sha256(_SERVED_PREFIX + written.encode()).hexdigest()}"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Another one, whose names are worked out anew."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("digest", "served"):
            copied.__dict__.pop(name, None)
        return copied

    @property
    def total_size(self) -> int:
        """Bytes of all its files."""
        return self.size + sum(file.size for file in self.files)

    def visible_to(self, owner: str) -> bool:
        return self.public or self.owner == owner
