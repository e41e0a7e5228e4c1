"""What a node can do, how much of it there is, and whether a task fits.

Encoding hardware and compute cores are separate entries, so that one GPU is sold twice.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tandem.protocol.ids import Frozen, Label

Amount = Annotated[int, Field(ge=0, le=2**53)]


class Capacity(Frozen):
    """A vector of resources: of a node in all, of a node still free, or needed by a task."""

    cpu: Amount = 0
    """Thousandths of a core."""
    memory: Amount = 0
    """MiB of main memory."""
    cuda: Amount = 0
    """Thousandths of a GPU's compute cores."""
    vram: Amount = 0
    """MiB of GPU memory."""
    nvdec: Amount = 0
    """Pixels decoded a second in hardware."""
    nvenc: Amount = 0
    """Pixels encoded a second in hardware."""
    encoder_sessions: Amount = 0
    """Hardware encoder sessions."""

    def __add__(self, other: "Capacity") -> "Capacity":
        return self._combine(other, 1)

    def __sub__(self, other: "Capacity") -> "Capacity":
        """What is left; never below zero, since a node may be promised more than it now says it has."""
        return self._combine(other, -1)

    def _combine(self, other: "Capacity", sign: int) -> "Capacity":
        sums = {name: max(0, getattr(self, name) + sign * getattr(other, name)) for name in RESOURCES}
        return Capacity.model_construct(**sums)


RESOURCES: tuple[str, ...] = tuple(Capacity.model_fields)


def shortfalls(need: Capacity, free: Capacity) -> dict[str, tuple[int, int]]:
    """Each resource that is short, with what is needed and what is free."""
    pairs = {name: (getattr(need, name), getattr(free, name)) for name in RESOURCES}
    return {name: pair for name, pair in pairs.items() if pair[0] > pair[1]}


def fits(need: Capacity, free: Capacity) -> bool:
    return all(getattr(need, name) <= getattr(free, name) for name in RESOURCES)


class Sandbox(StrEnum):
    """How a node confines the processes that touch a stranger's bytes, strongest first."""

    BUBBLEWRAP = "bubblewrap"
    """Own namespaces: no network, and no file but the job's."""
    LANDLOCK = "landlock"
    """The same namespaces, but no socket and no file but the job's can be opened."""
    LIMITS = "limits"
    """Resource limits alone."""


class Capability(Frozen):
    """What a node can do; measured, not claimed."""

    video_encoders: tuple[Label, ...] = Field(default=(), max_length=64)
    """ffmpeg encoders that passed a trial, such as `libx264` or `h264_nvenc`."""
    audio_encoders: tuple[Label, ...] = Field(default=("aac",), max_length=16)
    """As above, such as `libopus`."""
    filters: tuple[Label, ...] = Field(default=(), max_length=16)
    """ffmpeg filters beyond the ordinary ones that passed a trial, such as `tonemap`."""
    gpu_decoders: tuple[Label, ...] = Field(default=(), max_length=16)
    """Codecs of sources that the GPU decoded in a trial, such as `hevc`."""
    execution_providers: tuple[Label, ...] = Field(default=(), max_length=32)
    """ONNX Runtime providers that passed a trial, such as `CPUExecutionProvider`."""
    gpus: tuple[Label, ...] = Field(default=(), max_length=64)
    encode_speed: Amount = 0
    """Output pixels a second, measured with a short transcode."""
    inference_speed: Amount = 0
    """Runs a second of the calibration model, measured."""
    sandbox: Sandbox = Sandbox.LIMITS
    ffmpeg: Label = "none"
    """Version of the ffmpeg that runs the transcodes."""
