"""What a task needs of a node, and what the node lacks for it.

Computed alike by the orchestrator that places it and the node that admits it.
"""

from collections.abc import Collection, Mapping
from typing import assert_never

from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.jobs import AnyWork, BatchWork, InferenceWork, TranscodeWork
from tandem.protocol.media import AudioCodec, VideoCodec

NVENC_SUFFIX = "_nvenc"
TONE_MAP = "tonemap"
"""The filter that makes SDR of HDR."""

VIDEO_ENCODERS: Mapping[VideoCodec, tuple[str, ...]] = {
    VideoCodec.H264: ("h264_nvenc", "libx264"),
    VideoCodec.HEVC: ("hevc_nvenc", "libx265"),
    VideoCodec.VP9: ("libvpx-vp9",),
    VideoCodec.AV1: ("av1_nvenc", "libsvtav1"),
}
"""What encodes each codec, the fastest first."""
AUDIO_ENCODERS: Mapping[AudioCodec, str] = {AudioCodec.AAC: "aac", AudioCodec.OPUS: "libopus"}

_EFFORT: Mapping[VideoCodec, int] = {VideoCodec.H264: 1, VideoCodec.HEVC: 4, VideoCodec.VP9: 10, VideoCodec.AV1: 4}
"""Processor time a pixel, relative to H.264, measured with the settings of `encoders`: 720p to 480p, decoding apart."""
_TRACK_EFFORT = 2_000_000
_TRANSCODE_CPU = 1000
LEAST_CPU = 250
"""Thousandths of a core that any task needs."""
_BATCH_CPU = 1000
"""One run follows the other, on one core."""
_BASE_MEMORY = 192
_FRAMES_IN_FLIGHT = 60
_BYTES_A_PIXEL = 2
_MIB = 2**20
_GPU_SESSION_VRAM = 400
_CUDA_SHARE = 250


def need(work: AnyWork, capability: Capability) -> Capacity:
    """The vector that one attempt takes up on a node of this capability while it runs."""
    match work:
        case TranscodeWork():
            return _transcode_need(work, capability)
        case InferenceWork():
            return _inference_need(work, capability, LEAST_CPU)
        case BatchWork():
            return _inference_need(work, capability, _BATCH_CPU)
        case _:
            assert_never(work)


def _transcode_need(work: TranscodeWork, capability: Capability) -> Capacity:
    pixels = sum(rendition.width * rendition.height for rendition in work.video)
    memory = _BASE_MEMORY + pixels * _BYTES_A_PIXEL * _FRAMES_IN_FLIGHT // _MIB
    sessions = sum(encoder_for(each.codec, capability.video_encoders).endswith(NVENC_SUFFIX) for each in work.video)
    cpu = _TRANSCODE_CPU if sessions < len(work.video) or not work.video else LEAST_CPU
    return Capacity(cpu=cpu, memory=memory, vram=_GPU_SESSION_VRAM * sessions, encoder_sessions=sessions)


def encoder_for(codec: VideoCodec, known: Collection[str]) -> str:
    """The fastest encoder among those known; empty if there is none."""
    return next((each for each in VIDEO_ENCODERS[codec] if each in known), "")


def effort(work: TranscodeWork) -> int:
    """How much there is to do, in pixels of H.264 that take about as long; `encode_speed` is in these."""
    pixels = sum(count * _EFFORT[codec] for codec, count in work.pixels().items())
    tracks = len(work.audio) + len(work.subtitles) + (work.stills is not None)
    return pixels + tracks * _TRACK_EFFORT * work.duration_us // 10**6


def _inference_need(work: InferenceWork | BatchWork, capability: Capability, cpu: int) -> Capacity:
    """`cpu`: where no GPU does the work. No GPU memory: a node sets a share apart for models, and does not offer it."""
    model = work.model_size // _MIB + 1
    if any(provider != "CPUExecutionProvider" for provider in capability.execution_providers):
        return Capacity(cpu=LEAST_CPU, memory=model, cuda=_CUDA_SHARE)
    return Capacity(cpu=cpu, memory=2 * model)


def lacking(work: AnyWork, capability: Capability) -> str | None:
    """What the node would have to be able to do besides; None if it can run the task."""
    match work:
        case TranscodeWork():
            missing = _missing(work, capability)
            return f"no {', '.join(missing)}" if missing else None
        case InferenceWork() | BatchWork():
            return None if capability.execution_providers else "no ONNX Runtime provider"
        case _:
            assert_never(work)


def _missing(work: TranscodeWork, capability: Capability) -> list[str]:
    codecs = {each.codec for each in work.video if not encoder_for(each.codec, capability.video_encoders)}
    sounds = {each.codec for each in work.audio if each.bitrate is not None}
    silent = {codec for codec in sounds if AUDIO_ENCODERS[codec] not in capability.audio_encoders}
    tools = {TONE_MAP} if work.picture.tone_map else set()
    return [
        *(f"encoder for {codec}" for codec in sorted((*codecs, *silent))),
        *(f"filter {name}" for name in sorted(tools.difference(capability.filters))),
    ]
