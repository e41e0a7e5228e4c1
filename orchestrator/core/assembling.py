"""What of a transcode's results is ready to be put together, and to what: decided from the job alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from orchestrator.core.packaging import Ending, JobFile, Package, Segment, Track
from orchestrator.core.playlists import CAPTIONS, Heard, Presentation, Read, Shown, image_index
from orchestrator.core.records import JobSnapshot
from tandem.protocol.jobs import AttemptState, TaskState, TranscodeRequest, TranscodeWork
from tandem.protocol.ladder import (
    AudioRendition,
    Container,
    OutputSettings,
    Rendition,
    SegmentFormat,
    SubtitleRendition,
)
from tandem.protocol.media import Color
from tandem.protocol.outputs import FileResult, TranscodeOutput
from tandem.protocol.sounding import sound_span
from tandem.protocol.timing import TICKS, SoundSpan

_MICRO = 10**6
_TEXT_TYPE = "text/vtt"
_JPEG_TYPE = "image/jpeg"
_MP4_TYPE = "video/mp4"


@dataclass(frozen=True, slots=True)
class Made:
    """A file of a task that is done."""

    task: str
    work: TranscodeWork
    file: FileResult

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def rendition(self) -> Rendition | None:
        """Of which it has pictures."""
        return next((each for each in self.work.video if each.name == self.name), None)

    @property
    def start_us(self) -> int:
        return self.work.window.start_us if self.work.window else self.work.origin_us

    @property
    def end_us(self) -> int:
        return self.start_us + self.work.duration_us

    @property
    def is_sound(self) -> bool:
        return any(each.name == self.name for each in self.work.audio)

    @property
    def is_images(self) -> bool:
        return self.work.stills is not None and self.name in self.work.stills.names

    @property
    def is_text(self) -> bool:
        return any(each.name == self.name for each in self.work.subtitles)

    @property
    def language(self) -> str | None:
        """Of sound and of captions."""
        spoken: list[AudioRendition | SubtitleRendition] = [*self.work.audio, *self.work.subtitles]
        return next((each.language for each in spoken if each.name == self.name), None)

    @property
    def irregular(self) -> bool:
        """Whether the time between its pictures varies, so that only the next one tells when one is over."""
        video, rendition = self.work.media.video, self.rendition
        return rendition is not None and rendition.fps is None and video is not None and video.variable_rate

    @property
    def color(self) -> Color:
        """Of pictures whose HDR is kept."""
        video = self.work.media.video
        return video.color if video and video.color.hdr and not self.work.picture.tone_map else Color()

    @property
    def span(self) -> SoundSpan:
        """Which of the sound it has."""
        return sound_span(self.work, next(each for each in self.work.audio if each.name == self.name))

    @property
    def ending(self) -> Ending:
        if self.irregular:
            return Ending(at=(self.end_us - self.work.origin_us) * TICKS // _MICRO)
        video, rendition = self.work.media.video, self.rendition
        times, per = (rendition.fps if rendition else None) or (video.frame_rate if video else (0, 1))
        return Ending(spacing=round(Fraction(TICKS * per, times)) if times else None)


@dataclass(frozen=True, slots=True)
class Ready:
    """A file that can be cut, with the rendition's first window."""

    made: Made
    first: Made | None = None


def output_of(snapshot: JobSnapshot) -> OutputSettings:
    request = snapshot.job.request
    return request.output if isinstance(request, TranscodeRequest) else OutputSettings()


def made(snapshot: JobSnapshot) -> list[Made]:
    """The files of all tasks that are done, each rendition's in the order of its windows."""
    outputs = {a.ref.task: a.output for a in snapshot.attempts if a.state is AttemptState.ACCEPTED}
    found = [
        Made(task.id, task.work, file)
        for task in snapshot.tasks
        if task.state is TaskState.DONE and isinstance(task.work, TranscodeWork)
        for file in _files(outputs.get(task.id))
    ]
    return sorted(found, key=lambda each: each.start_us)


def _files(output: object) -> tuple[FileResult, ...]:
    return output.files if isinstance(output, TranscodeOutput) else ()


def ready(snapshot: JobSnapshot, packages: Sequence[Package]) -> list[Ready]:
    """What can be cut and is not yet, as it is played. Only streams are; of an MP4 only the images beside it."""
    streamed = output_of(snapshot).container is not Container.MP4
    known = {(package.task, package.name) for package in packages}
    found = made(snapshot)
    pending = [each for each in found if (each.task, each.name) not in known]
    cut = [Ready(each) for each in pending if each.is_images]
    if streamed:
        firsts = {each.name: each for each in reversed(found) if each.start_us == each.work.origin_us}
        # All are played by the beginning of the first.
        cut += [Ready(e, firsts[e.name]) for e in pending if (e.rendition or e.is_sound) and e.name in firsts]
    return sorted(cut, key=lambda each: (each.made.start_us, each.made.task))


def windows_of(name: str, found: Sequence[Made]) -> list[Made]:
    """A rendition's, in order."""
    return [each for each in found if each.name == name]


def rendition_names(snapshot: JobSnapshot) -> list[str]:
    """Of pictures, in the order of the ladder."""
    works = (task.work for task in snapshot.tasks if isinstance(task.work, TranscodeWork))
    return list(dict.fromkeys(each.name for work in works for each in work.video))


def passed_on(snapshot: JobSnapshot) -> list[JobFile]:
    """Files that are what is asked for as they are: MP4 that a node has muxed, and captions."""
    streamed = output_of(snapshot).container is not Container.MP4
    files = []
    for each in made(snapshot):
        if each.work.direct and each.rendition:
            files.append(_as_file(f"{each.name}.mp4", each, _MP4_TYPE))
        elif each.is_text:
            files.append(_as_file(f"{each.name}/{CAPTIONS}" if streamed else f"{each.name}.vtt", each, _TEXT_TYPE))
    return files


def early(snapshot: JobSnapshot) -> list[JobFile]:
    """Those that players may have before the job is done: text of streams, but where it is yet to be changed."""
    output = output_of(snapshot)
    streamed = output.container is not Container.MP4 and output.segment_format is not SegmentFormat.TS
    return [file for file in passed_on(snapshot) if streamed and file.media_type == _TEXT_TYPE]


def _as_file(path: str, each: Made, media_type: str) -> JobFile:
    return JobFile(path=path, artifact=each.file.artifact, media_type=media_type, size=each.file.size)


@dataclass(frozen=True, slots=True)
class Joinable:
    """What is to be joined to one MP4."""

    windows: list[Made]
    sounds: list[Made]
    texts: list[Made]


def joinable(snapshot: JobSnapshot) -> dict[str, Joinable]:
    """By rendition."""
    if output_of(snapshot).container is not Container.MP4:
        return {}
    found = made(snapshot)
    sounds = {each.name: each for each in found if each.is_sound}
    pictures = {each.name: each.rendition for each in found if each.rendition is not None and not each.work.direct}
    texts = [each for each in found if each.is_text]
    return {
        name: Joinable(windows_of(name, found), [sounds[heard] for heard in rendition.audio], texts)
        for name, rendition in pictures.items()
    }


def still_texts(snapshot: JobSnapshot, packages: Sequence[Package]) -> dict[str, str]:
    """WebVTT that says which picture of the thumbnails, or which part of a sprite, belongs to which time."""
    counts = {package.name: len(package.segments) for package in packages if package.track is None}
    texts = {}
    for work in {each.task: each.work for each in made(snapshot) if each.is_images}.values():
        asked = {"thumbnails": work.stills.thumbnails, "sprite": work.stills.sprite} if work.stills else {}
        for name, each in asked.items():
            if each is not None:
                texts[f"{name}.vtt"] = image_index(name, each, counts.get(name, 0), work.duration_us)
    return texts


def presentation(snapshot: JobSnapshot, packages: Sequence[Package], *, ended: bool) -> Presentation | None:
    """What can be played of a stream; None: not every track has begun yet."""
    whole = _whole(snapshot)
    if whole is None:
        return None
    output = output_of(snapshot)
    by_name = _in_order(snapshot, packages)
    if not by_name.keys() >= {*(each.name for each in whole.video), *(each.name for each in whole.audio)}:
        return None
    video = [_shown(each, whole, by_name[each.name]) for each in whole.video]
    audio = [Heard(each.name, *_merged(by_name[each.name]), language=each.language) for each in whole.audio]
    there = {file.path for file in (passed_on(snapshot) if ended else early(snapshot))}
    text = [
        Read(each.name, each.language, Fraction(whole.duration_us, _MICRO), there=f"{each.name}/{CAPTIONS}" in there)
        for each in whole.subtitles
    ]
    extension = "ts" if output.segment_format is SegmentFormat.TS else "m4s"
    shown = Presentation(tuple(video), tuple(audio), tuple(text), output.segment_seconds, extension, ended)
    return shown if ended else shown.in_step()


def _whole(snapshot: JobSnapshot) -> TranscodeWork | None:
    """The job as one task again."""
    works = [t.work for t in snapshot.tasks if t.state is not TaskState.CANCELLED and isinstance(t.work, TranscodeWork)]
    video = {each.name: each for work in works for each in work.video}
    audio = {each.name: each for work in works for each in work.audio}
    text = {each.name: each for work in works for each in work.subtitles}
    if not video:
        return None
    changes = {"window": None, "seek_us": None, "stills": None}
    parts = {"video": tuple(video.values()), "audio": tuple(audio.values()), "subtitles": tuple(text.values())}
    return works[0].model_copy(update={**changes, **parts})


def _in_order(snapshot: JobSnapshot, packages: Sequence[Package]) -> dict[str, list[Package]]:
    """The packages of each track up to the first that is missing."""
    found = made(snapshot)
    cut = {(package.task, package.name): package for package in packages}
    chains: dict[str, list[Package]] = {}
    ends: dict[str, int] = {}
    for each in found:
        package = cut.get((each.task, each.name))
        if (
            package is not None
            and package.track is not None
            and each.start_us == ends.get(each.name, each.work.origin_us)
        ):
            chains.setdefault(each.name, []).append(package)
            ends[each.name] = each.end_us
    return chains


def _merged(packages: Sequence[Package]) -> tuple[Track, tuple[Segment, ...]]:
    tracks = [package.track for package in packages if package.track is not None]
    return tracks[0], tuple(segment for package in packages for segment in package.segments)


def _shown(rendition: Rendition, whole: TranscodeWork, packages: Sequence[Package]) -> Shown:
    video = whole.media.video
    rate = rendition.fps or (video.frame_rate if video else (0, 1))
    return Shown(rendition.name, *_merged(packages), audio=rendition.audio, rate=Fraction(*rate))
