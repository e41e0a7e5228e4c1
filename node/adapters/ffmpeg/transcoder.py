"""The Transcoder port over an ffmpeg child process."""

import asyncio
import os
import re
from pathlib import Path

from node.adapters.ffmpeg.arguments import MAX_THREADS, SLACK_US, VideoEncoder, build, file_name
from node.adapters.ffmpeg.binary import Ffmpeg
from node.ports.execution import Report
from tandem.clock import Clock
from tandem.process import Confinement, Limits, spawn
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import ChildCrashed, ExecutionFailed
from tandem.protocol.jobs import TranscodeWork

_DONE = 1000
_MIB = 2**20
_BASE_MIB = 768
_BYTES_A_PIXEL = 3
_ENCODER_FRAMES = 80
_FILE_BASE = 16 * _MIB
_BITRATE_HEADROOM = 4
_TAIL = 400
_OUT_TIME = re.compile(rb"out_time_us=([0-9]{1,18})\s*")
_NODE_FAULTS = re.compile(r"no space left|cannot allocate memory|nvenc|cuda", re.IGNORECASE)
"""What ffmpeg complains of when the machine is at fault, not the input."""


class FfmpegTranscoder:
    """Runs one ffmpeg for each call. What a failed call leaves in the folder is the caller's to remove."""

    def __init__(
        self,
        ffmpeg: Ffmpeg,
        encoder: VideoEncoder,
        *,
        sandbox: Sandbox,
        clock: Clock,
        wall_seconds: float = 6 * 3600,
    ) -> None:
        self._ffmpeg = ffmpeg
        self._encoder = encoder
        self._sandbox = sandbox
        self._clock = clock
        self._wall_seconds = wall_seconds

    async def transcode(self, work: TranscodeWork, source: Path, folder: Path, report: Report) -> dict[str, Path]:
        """As the port says; `source` and `folder` are absolute, and names of renditions differ.

        Raises ExecutionFailed if the input is at fault, ChildCrashed if the machine is, AttemptTimeout, TooLarge.
        """
        argv = [str(self._ffmpeg.path), *build(work, source, folder, self._encoder, thread_count())]
        limits, confinement = limits_of(work, self._wall_seconds), self._confinement(source, folder)
        async with spawn(argv, limits=limits, confinement=confinement, clock=self._clock) as child:
            await self._follow(child.stdout, work.media.duration_us, report)
            status = await child.wait()
            if status:
                raise _failure(status, child.stderr, source, folder)
        files = {rendition.name: folder / file_name(rendition.name) for rendition in work.video}
        _demand_content(files)
        report(_DONE, 0.0)
        return files

    def _confinement(self, source: Path, folder: Path) -> Confinement:
        return Confinement(
            self._sandbox,
            readable=(self._ffmpeg.path, source),
            writable=(folder,),
            gpu=self._encoder is not VideoEncoder.X264,
        )

    async def _follow(self, progress: asyncio.StreamReader, duration_us: int, report: Report) -> None:
        """Reports what ffmpeg says four times a second, until it closes its end."""
        started = self._clock.monotonic()
        while line := await _line(progress):
            time = _OUT_TIME.fullmatch(line)
            if time is not None:
                report(*progress_at(int(time[1]), duration_us, self._clock.monotonic() - started))


async def _line(progress: asyncio.StreamReader) -> bytes:
    """The next one, or nothing at the end."""
    try:
        return await progress.readline()
    except ValueError as error:  # longer than the reader's bound
        raise ChildCrashed("expected lines of progress from ffmpeg, got one without an end") from error


def progress_at(done_us: int, duration_us: int, elapsed: float) -> tuple[int, float | None]:
    """Thousandths done, short of all, and the seconds left at the speed so far; None before there is one."""
    permille = min(_DONE - 1, done_us * _DONE // max(1, duration_us))
    left = elapsed * (_DONE - permille) / permille if permille else None
    return permille, left


def limits_of(work: TranscodeWork, wall_seconds: float) -> Limits:
    """Generous bounds: several times what an honest transcode takes, so that only a bomb meets them."""
    decoded = work.media.video.width * work.media.video.height * 2 * MAX_THREADS if work.media.video else 0
    encoded = sum(rendition.width * rendition.height for rendition in work.video) * _ENCODER_FRAMES
    rate = max(each.bitrate or 0 for each in work.video) + sum(each.bitrate or 0 for each in work.audio)
    seconds = (work.media.duration_us + SLACK_US) // 10**6 + 1
    return Limits(
        memory_mib=_BASE_MIB + (decoded + encoded) * _BYTES_A_PIXEL // _MIB,
        wall_seconds=wall_seconds,
        file_bytes=_FILE_BASE + _BITRATE_HEADROOM * rate * seconds // 8,
    )


def thread_count() -> int:
    """One more than the cores, since frames are waited for."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0)) + 1)


def _failure(status: int, stderr: str, source: Path, folder: Path) -> ExecutionFailed | ChildCrashed:
    """Without paths, which are this machine's own business."""
    text = stderr.replace(str(source), "the input").replace(str(folder), "the output").strip()[-_TAIL:]
    if _NODE_FAULTS.search(text):
        return ChildCrashed(f"expected ffmpeg to find what it needs on this machine, got: {text}")
    return ExecutionFailed(f"expected a file that ffmpeg can decode, got exit status {status}: {text}")


def _demand_content(files: dict[str, Path]) -> None:
    for name, path in files.items():
        # A link would have this process, which no sandbox holds, read and upload what ffmpeg could not.
        if path.is_symlink() or not path.is_file() or not path.stat().st_size:
            raise ExecutionFailed(f"expected frames for the rendition {name}, got none; is there video in the input?")
