"""The Transcoder port over an ffmpeg child process."""

import asyncio
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

from node.adapters.ffmpeg import captions
from node.adapters.ffmpeg.arguments import MAX_THREADS, Means, build, build_measurement, files
from node.adapters.ffmpeg.binary import Ffmpeg
from node.adapters.ffmpeg.hardware import Route, routes
from node.adapters.ffmpeg.pictures import SLACK_US, Span
from node.adapters.ffmpeg.sounds import Level, parse_level
from node.ports.execution import Report
from tandem import logging as log
from tandem.clock import Clock
from tandem.process import Confinement, Limits, run, spawn
from tandem.protocol.capacity import Capability, Sandbox
from tandem.protocol.errors import ChildCrashed, ExecutionFailed
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import AudioRendition
from tandem.protocol.timing import PICTURE_OFFSET_TICKS

logger = logging.getLogger(__name__)

_DONE = 1000
_MIB = 2**20
_BASE_MIB = 768
_BYTES_A_PIXEL = 3
_ENCODER_FRAMES = 80
_FILE_BASE = 16 * _MIB
_BITRATE_HEADROOM = 4
_MOST_BITS = 240_000_000
"""A second, of what has no bitrate to go by."""
_TAIL = 400
_AVOIDED_SECONDS = 600.0
_OUT_TIME = re.compile(rb"out_time_us=([0-9]{1,18})\s*")
_OFFSET_US = PICTURE_OFFSET_TICKS * 100 // 9
_GPU_FAULTS = re.compile(r"nvenc|cuda|cuvid|nvdec|impossible to convert", re.IGNORECASE)
_NODE_FAULTS = re.compile(r"no space left|cannot allocate memory", re.IGNORECASE)
"""What ffmpeg complains of when the machine is at fault, not the input."""


class FfmpegTranscoder:
    """Runs one ffmpeg for each call. What a failed call leaves in the folder is the caller's to remove."""

    def __init__(
        self, ffmpeg: Ffmpeg, capability: Capability, *, sandbox: Sandbox, clock: Clock, wall_seconds: float = 6 * 3600
    ) -> None:
        self._ffmpeg = ffmpeg
        self._encoders = capability.video_encoders
        self._decoders = capability.gpu_decoders
        self._failed: dict[tuple[str, Route], float] = {}
        """When each way last failed for a source codec."""
        self._sandbox = sandbox
        self._clock = clock
        self._wall_seconds = wall_seconds

    async def transcode(
        self, work: TranscodeWork, source: Path, logo: Path | None, folder: Path, report: Report
    ) -> dict[str, Path]:
        """As the port says; the paths are absolute.

        Raises ExecutionFailed if the input is at fault, ChildCrashed if the machine is, AttemptTimeout, TooLarge.
        """
        means = Means(source, folder, logo, self._encoders, threads=thread_count())
        levels = {each.name: await self._measure(work, each, means) for each in work.audio if each.loudness is not None}
        means = replace(means, levels={name: level for name, level in levels.items() if level is not None})
        for route in routes(work, self._encoders, self._decoders, self._avoided()):
            if await self._attempt(work, replace(means, route=route), report):
                break
        made = files(work, folder)
        _demand_content(made)
        for each in work.subtitles:
            await asyncio.to_thread(captions.place, made[each.name], work)
        report(_DONE, 0.0)
        return made

    def _avoided(self) -> set[tuple[str, Route]]:
        """Not for ever: it may have been one odd file, or a GPU that was full."""
        now = self._clock.monotonic()
        return {way for way, at in self._failed.items() if now - at < _AVOIDED_SECONDS}

    async def _attempt(self, work: TranscodeWork, means: Means, report: Report) -> bool:
        """False if the GPU failed: the way is not to be taken again soon for such sources."""
        argv = [str(self._ffmpeg.path), *build(work, means)]
        limits = limits_of(work, self._wall_seconds)
        async with spawn(argv, limits=limits, confinement=self._confinement(means), clock=self._clock) as child:
            await self._follow(child.stdout, work, report)
            status = await child.wait()
            stderr = child.stderr
        if not status:
            return True
        if means.route is Route.CPU or not _GPU_FAULTS.search(stderr):
            raise _failure(status, stderr, means)
        codec = work.media.video.codec if work.media.video else ""
        self._failed[(codec, means.route)] = self._clock.monotonic()
        log.event(logger, "gpu_failed", codec=codec, route=means.route, detail=_without_paths(stderr, means))
        return False

    async def _measure(self, work: TranscodeWork, asked: AudioRendition, means: Means) -> Level | None:
        """The first of the two passes for loudness."""
        argv = [str(self._ffmpeg.path), *build_measurement(work, asked, means)]
        limits, confinement = limits_of(work, self._wall_seconds), self._confinement(means)
        done = await run(argv, limits=limits, confinement=confinement, clock=self._clock)
        if done.status:
            raise _failure(done.status, done.stderr, means)
        return parse_level(done.stderr)

    def _confinement(self, means: Means) -> Confinement:
        logo = () if means.logo is None else (means.logo,)
        gpu = means.route is not Route.CPU
        readable = (self._ffmpeg.path, means.source, *logo)
        return Confinement(self._sandbox, readable=readable, writable=(means.folder,), gpu=gpu)

    async def _follow(self, progress: asyncio.StreamReader, work: TranscodeWork, report: Report) -> None:
        """Reports what ffmpeg says four times a second, until it closes its end."""
        started = self._clock.monotonic()
        begin = Span.of(work).start + _OFFSET_US if work.video and not work.direct else 0
        done = 0  # of several files ffmpeg says now one's time and now another's
        while line := await _line(progress):
            time = _OUT_TIME.fullmatch(line)
            if time is not None:
                done = max(done, int(time[1]) - begin)
                report(*progress_at(done, work.duration_us, self._clock.monotonic() - started))


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
    capped = [each.bitrate or each.max_bitrate or _MOST_BITS for each in work.video]
    rate = max(capped, default=0) + sum(each.bitrate or 0 for each in work.audio)
    rate = max(rate, _MOST_BITS if work.stills or any(each.bitrate is None for each in work.audio) else 0)
    seconds = (work.duration_us + SLACK_US) // 10**6 + 1
    return Limits(
        memory_mib=_BASE_MIB + (decoded + encoded) * _BYTES_A_PIXEL // _MIB,
        wall_seconds=wall_seconds,
        file_bytes=_FILE_BASE + _BITRATE_HEADROOM * rate * seconds // 8,
        background=not work.begins,
    )


def thread_count() -> int:
    """One more than the cores, since frames are waited for."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0)) + 1)


def _failure(status: int, stderr: str, means: Means) -> ExecutionFailed | ChildCrashed:
    text = _without_paths(stderr, means)
    if _NODE_FAULTS.search(text) or _GPU_FAULTS.search(text):
        return ChildCrashed(f"expected ffmpeg to find what it needs on this machine, got: {text}")
    return ExecutionFailed(f"expected a file that ffmpeg can decode, got exit status {status}: {text}")


def _without_paths(stderr: str, means: Means) -> str:
    """The end of it, less what is this machine's own business."""
    named = ((means.source, "the input"), (means.folder, "the output"), (means.logo, "the watermark"))
    for path, name in named:
        stderr = stderr.replace(str(path), name) if path is not None else stderr
    return stderr.strip()[-_TAIL:]


def _demand_content(made: dict[str, Path]) -> None:
    for name, path in made.items():
        # A link would have this process, which no sandbox holds, read and upload what ffmpeg could not.
        if path.is_symlink() or not path.is_file() or not path.stat().st_size:
            raise ExecutionFailed(f"expected content for {name}, got none; is there anything of it in the input?")
