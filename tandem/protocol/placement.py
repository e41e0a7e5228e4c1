"""What a task needs of a node, and what the node lacks for it.

Computed alike by the orchestrator that places it and the node that admits it.
"""

from collections.abc import Mapping
from typing import assert_never

from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.jobs import InferenceWork, TranscodeWork
from tandem.protocol.media import VideoCodec

NVENC_SUFFIX = "_nvenc"

_ENCODERS: Mapping[VideoCodec, frozenset[str]] = {VideoCodec.H264: frozenset({"libx264", "h264_nvenc"})}
_TRANSCODE_CPU = 1000
LEAST_CPU = 250
"""Thousandths of a core that any task needs."""
_BASE_MEMORY = 192
_FRAMES_IN_FLIGHT = 60
_BYTES_A_PIXEL = 2
_MIB = 2**20
_GPU_SESSION_VRAM = 400
_CUDA_SHARE = 250


def need(work: TranscodeWork | InferenceWork, capability: Capability) -> Capacity:
    """The vector that one attempt takes up on a node of this capability while it runs."""
    match work:
        case TranscodeWork():
            return _transcode_need(work, capability)
        case InferenceWork():
            return _inference_need(work, capability)
        case _:
            assert_never(work)


def _transcode_need(work: TranscodeWork, capability: Capability) -> Capacity:
    pixels = sum(rendition.width * rendition.height for rendition in work.ladder)
    memory = _BASE_MEMORY + pixels * _BYTES_A_PIXEL * _FRAMES_IN_FLIGHT // _MIB
    if uses_nvenc(capability):
        sessions = len(work.ladder)
        return Capacity(cpu=LEAST_CPU, memory=memory, vram=_GPU_SESSION_VRAM * sessions, encoder_sessions=sessions)
    return Capacity(cpu=_TRANSCODE_CPU, memory=memory)


def _inference_need(work: InferenceWork, capability: Capability) -> Capacity:
    model = work.model_size // _MIB + 1
    if any(provider != "CPUExecutionProvider" for provider in capability.execution_providers):
        return Capacity(cpu=LEAST_CPU, memory=model, cuda=_CUDA_SHARE, vram=2 * model)
    return Capacity(cpu=LEAST_CPU, memory=2 * model)


def uses_nvenc(capability: Capability) -> bool:
    """Whether the node encodes on the GPU: it does whenever its trial encode succeeded."""
    return any(encoder.endswith(NVENC_SUFFIX) for encoder in capability.video_encoders)


def lacking(work: TranscodeWork | InferenceWork, capability: Capability) -> str | None:
    """What the node would have to be able to do besides; None if it can run the task."""
    match work:
        case TranscodeWork():
            known = set(capability.video_encoders)
            missing = {str(step.video_codec) for step in work.ladder if not _ENCODERS[step.video_codec] & known}
            return f"no encoder for {', '.join(sorted(missing))}" if missing else None
        case InferenceWork():
            return None if capability.execution_providers else "no ONNX Runtime provider"
        case _:
            assert_never(work)
