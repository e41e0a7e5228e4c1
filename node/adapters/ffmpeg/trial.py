"""What encoders, filters and decoders are worth on this machine, found by using them."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from node.adapters.ffmpeg.binary import Ffmpeg
from node.adapters.ffmpeg.encoders import VideoEncoder
from node.adapters.ffmpeg.transcoder import FfmpegTranscoder
from tandem.clock import Clock
from tandem.process import Confinement, Limits, run
from tandem.protocol.capacity import Capability, Sandbox
from tandem.protocol.errors import TandemError
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import Rendition
from tandem.protocol.media import MediaInfo, VideoCodec, VideoStream
from tandem.protocol.placement import TONE_MAP, effort

_LIMITS = Limits(memory_mib=2048, wall_seconds=60)
_WALL_SECONDS = 120.0
_SECONDS, _RATE, _SIZE = 1, 25, (1280, 720)
_LADDER = tuple(
    Rendition(name=f"{height}p", width=width, height=height, codec=VideoCodec.H264, bitrate=bitrate)
    for width, height, bitrate in ((1280, 720, 2_100_000), (640, 360, 750_000))
)
# Moving shapes under a grain that changes with each frame: about as hard to encode as film.
_SCENE = f"testsrc2=size={_SIZE[0]}x{_SIZE[1]}:rate={_RATE}:duration={_SECONDS},noise=alls=12:allf=t,format=yuv420p"
_SMALL = ("-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=0.8,format=yuv420p")
_TONE = ("-f", "lavfi", "-i", "sine=duration=0.2")
_HDR = "format=yuv420p10le,setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc"
_TONE_MAPPED = f"{_HDR},zscale=transfer=linear,format=gbrpf32le,tonemap=hable,zscale=transfer=bt709:matrix=bt709"
_KEYFRAME_TWICE = ("-g", "600", "-force_key_frames", "0,0.4")
_NULL = ("-f", "null", "-")
_AUDIO_ENCODERS = ("aac", "libopus")
_SAMPLES = {  # what makes a short stream of each codec that a GPU may decode
    "h264": ("-c:v", "libx264"),
    "hevc": ("-c:v", "libx265", "-x265-params", "log-level=error"),
    "vp9": ("-c:v", "libvpx-vp9", "-deadline", "realtime"),
    "av1": ("-c:v", "libsvtav1"),
    "mpeg2video": ("-c:v", "mpeg2video"),
}
_IVF_HEADER, _IVF_FRAME_HEADER = 32, 12
_SEQUENCE_HEADER = 1


class Trials:
    """Each runs in the same confinement as a job's."""

    def __init__(self, ffmpeg: Ffmpeg, *, sandbox: Sandbox, clock: Clock) -> None:
        self._ffmpeg = ffmpeg
        self._sandbox = sandbox
        self._clock = clock

    async def encodes(self, encoder: VideoEncoder) -> bool:
        """Whether it encodes some frames, with a keyframe where one is forced."""
        if encoder is VideoEncoder.SVT_AV1:
            return await self._forces_keyframes()
        return await self._run([*_SMALL, "-c:v", encoder, "-frames:v", "5", *_NULL], gpu=encoder.hardware)

    async def audio_encoders(self) -> tuple[str, ...]:
        return tuple([each for each in _AUDIO_ENCODERS if await self._run([*_TONE, "-c:a", each, *_NULL])])

    async def filters(self) -> tuple[str, ...]:
        """Those beyond the ordinary ones."""
        return (TONE_MAP,) if await self._run([*_SMALL, "-vf", _TONE_MAPPED, "-frames:v", "2", *_NULL]) else ()

    async def gpu_decoders(self) -> tuple[str, ...]:
        """The codecs that the GPU really decodes: frames that came from the CPU could not be downloaded from it."""
        found: list[str] = []
        with tempfile.TemporaryDirectory(prefix="tandem-") as name:
            folder = Path(name)
            for codec, how in _SAMPLES.items():
                sample = folder / f"{codec}.mkv"
                hardware = ("-hwaccel", "cuda", "-hwaccel_output_format", "cuda", "-i", f"file:{sample}")
                download = ("-vf", "hwdownload,format=nv12", *_NULL)
                made = await self._run([*_SMALL, *how, "-y", f"file:{sample}"], folder)
                if made and await self._run([*hardware, *download], folder, gpu=True):
                    found.append(codec)
        return tuple(found)

    async def encode_speed(self, encoders: tuple[str, ...]) -> int:
        """Output pixels of H.264 a second in a short transcode like a job's; 0 if it fails. Takes a few seconds."""
        with tempfile.TemporaryDirectory(prefix="tandem-") as name:
            folder = Path(name)
            source = folder / "scene.mp4"
            encode = ["-f", "lavfi", "-i", _SCENE, "-c:v", "libx264", "-preset", "ultrafast", "-y", f"file:{source}"]
            if not await self._run(encode, folder):
                return 0
            work, capability = _work(source), Capability(video_encoders=encoders)
            transcoder = FfmpegTranscoder(
                self._ffmpeg, capability, sandbox=self._sandbox, clock=self._clock, wall_seconds=_WALL_SECONDS
            )
            started = self._clock.monotonic()
            try:
                await transcoder.transcode(work, source, None, folder, lambda _permille, _left: None)
            except TandemError:
                return 0
            return int(effort(work) / max(self._clock.monotonic() - started, 1e-3))

    async def _forces_keyframes(self) -> bool:
        """SVT-AV1 of old ignores that a keyframe is asked for, and then pieces would not fit together."""
        with tempfile.TemporaryDirectory(prefix="tandem-") as name:
            file = Path(name) / "trial.ivf"
            arguments = [*_SMALL, "-c:v", VideoEncoder.SVT_AV1, "-preset", "10", *_KEYFRAME_TWICE, "-y", f"file:{file}"]
            if not await self._run(arguments, file.parent):
                return False
            return _sequence_headers(file.read_bytes()) > 1

    async def _run(self, arguments: Sequence[str], *writable: Path, gpu: bool = False) -> bool:
        argv = [str(self._ffmpeg.path), "-nostdin", "-loglevel", "error", *arguments]
        confinement = Confinement(self._sandbox, readable=(self._ffmpeg.path,), writable=writable, gpu=gpu)
        try:
            done = await run(argv, limits=_LIMITS, confinement=confinement, clock=self._clock)
        except TandemError:
            return False
        return done.status == 0


def _sequence_headers(ivf: bytes) -> int:
    """Frames of an IVF of AV1 that begin with a sequence header, as keyframes do (AV1 specification, 5.3 and 7.5)."""
    count, offset = 0, _IVF_HEADER
    while offset + _IVF_FRAME_HEADER < len(ivf):
        size = int.from_bytes(ivf[offset : offset + 4], "little")
        unit = ivf[offset + _IVF_FRAME_HEADER : offset + _IVF_FRAME_HEADER + size]
        # The first unit is a temporal delimiter of two bytes.
        count += len(unit) > 2 and unit[2] >> 3 & 15 == _SEQUENCE_HEADER  # noqa: PLR2004 - the second unit's header
        offset += _IVF_FRAME_HEADER + size
    return count


def _work(source: Path) -> TranscodeWork:
    video = VideoStream(codec="h264", width=_SIZE[0], height=_SIZE[1], frame_rate=(_RATE, 1), frames=_SECONDS * _RATE)
    media = MediaInfo(format="mp4", duration_us=_SECONDS * 10**6, video=video)
    size = source.stat().st_size
    return TranscodeWork(source=f"sha256:{0:064}", source_size=size, media=media, video=_LADDER, direct=True)
