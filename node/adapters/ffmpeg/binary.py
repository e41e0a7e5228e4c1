"""Which ffmpeg runs the transcodes: the system's if it is new enough and complete, else the one from PyPI."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from tandem.clock import Clock
from tandem.process import Confinement, Limits, run
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import AttemptTimeout, ChildCrashed, ConfigurationError, Unavailable

OLDEST = (5, 1)

_NEEDED: Mapping[str, frozenset[str]] = {
    "encoders": frozenset({"libx264", "aac", "mjpeg", "webvtt"}),
    "muxers": frozenset({"mp4", "mpegts", "ivf", "image2pipe", "webvtt"}),
    "filters": frozenset(
        {
            *(
                "split",
                "trim",
                "scale",
                "setsar",
                "setpts",
                "settb",
                "format",
                "fps",
                "bwdif",
                "overlay",
                "select",
                "tile",
                "tpad",
            ),
            *("asplit", "atrim", "asetpts", "aresample", "aformat", "volume", "alimiter", "ebur128"),
            "colorchannelmixer",
        }
    ),
}
_LIMITS = Limits(memory_mib=512, wall_seconds=20)
_TRUSTED = Confinement(Sandbox.LIMITS)


@dataclass(frozen=True, slots=True)
class Ffmpeg:
    path: Path
    version: str


async def find_ffmpeg(clock: Clock) -> Ffmpeg:
    """The first that will do; raises ConfigurationError saying what is wrong with each that was found."""
    complaints: list[str] = []
    for path in _candidates():
        try:
            return await examine(path, clock)
        except ConfigurationError as error:
            complaints.append(error.detail)
    raise ConfigurationError(
        f"expected an ffmpeg of at least {OLDEST[0]}.{OLDEST[1]} with libx264, got: {'; '.join(complaints) or 'none'}; "
        "install the package ffmpeg, or imageio-ffmpeg from PyPI"
    )


async def examine(path: Path, clock: Clock) -> Ffmpeg:
    """Raises ConfigurationError unless this ffmpeg has all that the transcodes need."""
    version = _version(path, await _ask(path, "version", clock))
    for kind, needed in _NEEDED.items():
        missing = needed - _names(await _ask(path, kind, clock))
        if missing:
            raise ConfigurationError(f"{path} lacks the {kind} {', '.join(sorted(missing))}")
    return Ffmpeg(path, version)


def _candidates() -> list[Path]:
    system = shutil.which("ffmpeg")
    try:
        packaged = [imageio_ffmpeg.get_ffmpeg_exe()]
    except RuntimeError:
        packaged = []
    return [Path(path).absolute() for path in ([system] if system else []) + packaged]


async def _ask(path: Path, question: str, clock: Clock) -> str:
    try:
        done = await run([str(path), "-hide_banner", f"-{question}"], limits=_LIMITS, confinement=_TRUSTED, clock=clock)
    except (ChildCrashed, AttemptTimeout, Unavailable) as error:
        raise ConfigurationError(f"{path} does not run: {error.detail}") from error
    if done.status:
        raise ConfigurationError(f"{path} does not run: {done.stderr.strip()}")
    return done.stdout.decode(errors="replace")


def _version(path: Path, answer: str) -> str:
    """Releases are numbered; a build of the development tree is not, and is taken to be new."""
    word = re.match(r"ffmpeg version (\S+)", answer)
    if word is None:
        raise ConfigurationError(f"{path} does not say its version")
    number = re.match(r"n?(\d+)\.(\d+)", word[1])
    if number is not None and (int(number[1]), int(number[2])) < OLDEST:
        raise ConfigurationError(f"{path} is version {word[1]}, too old")
    return word[1][:128]


def _names(listing: str) -> set[str]:
    """The second word of each line of ffmpeg's tables."""
    return {words[1] for line in listing.splitlines() if len(words := line.split()) > 1}
