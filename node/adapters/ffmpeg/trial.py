"""What an encoder is worth on this machine, found by using it."""

import tempfile
from pathlib import Path

from node.adapters.ffmpeg.arguments import VideoEncoder
from node.adapters.ffmpeg.binary import Ffmpeg
from node.adapters.ffmpeg.transcoder import FfmpegTranscoder
from tandem.clock import Clock
from tandem.process import Confinement, Limits, run
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import TandemError
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import Rendition
from tandem.protocol.media import MediaInfo, VideoCodec, VideoStream
from tandem.protocol.placement import effort

_LIMITS = Limits(memory_mib=2048, wall_seconds=60)
_WALL_SECONDS = 120.0
_SECONDS, _RATE, _SIZE = 1, 25, (1280, 720)
_LADDER = tuple(
    Rendition(name=f"{height}p", width=width, height=height, codec=VideoCodec.H264, bitrate=bitrate)
    for width, height, bitrate in ((1280, 720, 2_100_000), (640, 360, 750_000))
)
# Moving shapes under a grain that changes with each frame: about as hard to encode as film.
_SCENE = f"testsrc2=size={_SIZE[0]}x{_SIZE[1]}:rate={_RATE}:duration={_SECONDS},noise=alls=12:allf=t,format=yuv420p"


async def trial_encode(ffmpeg: Ffmpeg, encoder: VideoEncoder, *, sandbox: Sandbox, clock: Clock) -> bool:
    """Whether ten frames can be encoded, in the same confinement as a job's."""
    scene = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=0.4,format=yuv420p"]
    return await _encode(ffmpeg, encoder, [*scene, "-c:v", encoder, "-f", "null", "-"], sandbox, clock)


async def measure_encode_speed(ffmpeg: Ffmpeg, encoder: VideoEncoder, *, sandbox: Sandbox, clock: Clock) -> int:
    """Output pixels a second of a short transcode like a job's; 0 if it fails. Takes a few seconds."""
    with tempfile.TemporaryDirectory(prefix="tandem-") as name:
        folder = Path(name)
        source = folder / "scene.mp4"
        encode = ["-f", "lavfi", "-i", _SCENE, "-c:v", "libx264", "-preset", "ultrafast", "-y", f"file:{source}"]
        if not await _encode(ffmpeg, encoder, encode, sandbox, clock, folder):
            return 0
        work = _work(source)
        transcoder = FfmpegTranscoder(ffmpeg, encoder, sandbox=sandbox, clock=clock, wall_seconds=_WALL_SECONDS)
        started = clock.monotonic()
        try:
            await transcoder.transcode(work, source, folder, lambda _permille, _left: None)
        except TandemError:
            return 0
        return int(effort(work) / max(clock.monotonic() - started, 1e-3))


async def _encode(
    ffmpeg: Ffmpeg, encoder: VideoEncoder, arguments: list[str], sandbox: Sandbox, clock: Clock, *writable: Path
) -> bool:
    argv = [str(ffmpeg.path), "-nostdin", "-loglevel", "error", *arguments]
    gpu = encoder is not VideoEncoder.X264
    confinement = Confinement(sandbox, readable=(ffmpeg.path,), writable=writable, gpu=gpu)
    try:
        done = await run(argv, limits=_LIMITS, confinement=confinement, clock=clock)
    except TandemError:
        return False
    return done.status == 0


def _work(source: Path) -> TranscodeWork:
    video = VideoStream(codec="h264", width=_SIZE[0], height=_SIZE[1], frame_rate=(_RATE, 1), frames=_SECONDS * _RATE)
    media = MediaInfo(format="mp4", duration_us=_SECONDS * 10**6, video=video)
    size = source.stat().st_size
    return TranscodeWork(source=f"sha256:{0:064}", source_size=size, media=media, video=_LADDER, direct=True)
