"""Whether a result is what was asked, judged from facts that the orchestrator found itself."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from orchestrator.core.comparing import Fact, judged
from tandem.inspection.compared import Likeness
from tandem.protocol.errors import InvalidTensor, MalformedMessage, ResultRejected
from tandem.protocol.jobs import BatchWork, InferenceWork, TranscodeWork
from tandem.protocol.ladder import AudioRendition, Rendition, Sprite, Stills, Thumbnails
from tandem.protocol.media import AudioStream, SoundCount, Source, VideoCodec, VideoStream
from tandem.protocol.outputs import BatchOutput, FileResult
from tandem.protocol.rows import Row
from tandem.protocol.sounding import PACKET_SAMPLES, sound_span
from tandem.protocol.tensors import Tensor, check_tensors, element_size, elements
from tandem.protocol.timing import PICTURE_OFFSET_TICKS
from tandem.protocol.units import ceil_div

_FRAME_TOLERANCE = 2
_DURATION_TOLERANCE_US = 500_000
_TIME_TOLERANCE_US = 2_000
_DOUBTFUL_GAPS = 3
"""So many times as far from each other frames may be where some are left out."""
_SOUND_START_TOLERANCE_US = 60_000
"""A packet or two of priming."""
_PACKET_TOLERANCE = 3
"""At its ends."""
_CONTAINERS = {VideoCodec.H264: "mpegts", VideoCodec.HEVC: "mpegts", VideoCodec.VP9: "ivf", VideoCodec.AV1: "ivf"}
_SHOWN_TOLERANCE = 2
"""Pixels: scaling to even sizes may leave pixels a hair from square."""
_OVERHEAD_BYTES = 2**20
_MOST_BITS = 240_000_000
"""A second, of what has no bitrate to go by."""
_BITRATE_HEADROOM = 4
MAX_TEXT_BYTES = 2**24
"""Of captions."""
_BYTES_A_PIXEL = 2
"""Of stills: noise takes less."""
_BITRATE_REACH = Fraction(5, 2)
"""How far the average of a short piece may pass the bitrate, its container included."""
_SMALL_FILE = 2**18
_BITS_PER_BYTE = 8
_LEAST_ANSWERS = 2**26
_MOST_GROWTH = 64
"""Of a shard's answers over its inputs, where the model leaves open how much it gives."""
_MICRO = 10**6
_OFFSET_US = PICTURE_OFFSET_TICKS * 100 // 9


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in one file: media, or JPEG pictures by their sizes, or text."""

    size: int
    """Bytes."""
    source: Source | None = None
    likeness: Likeness | None = None
    """To the source's pictures; None: they were not compared."""
    pictures: tuple[tuple[int, int], ...] = ()
    text: bool = False
    """Whether it is WebVTT."""


def upload_limit(work: TranscodeWork | BatchWork, name: str) -> int:
    """The most bytes that a file of the output may have: well above what is likely, so that only a flood is cut."""
    if isinstance(work, BatchWork):
        least = sum(
            (element_size(spec.datatype) or 1) * elements([abs(n) for n in spec.shape]) for spec in work.outputs
        )
        return _LEAST_ANSWERS + _MOST_GROWTH * (work.span[1] - work.span[0] + work.rows * least)
    if any(each.name == name for each in work.subtitles):
        return MAX_TEXT_BYTES
    if work.stills is not None and name in work.stills.names:
        (width, height), count, tolerance = _stills_of(work, work.stills, name)
        return _OVERHEAD_BYTES + (count + tolerance) * width * height * _BYTES_A_PIXEL
    rate = _rate(work, name)
    bits = _MOST_BITS if rate is None else _BITRATE_HEADROOM * rate
    return _OVERHEAD_BYTES + bits * work.duration_us // (_BITS_PER_BYTE * _MICRO)


def _rate(work: TranscodeWork, name: str) -> int | None:
    """Bits a second that a file is to have, with the sound that comes in it; None if that is not bounded."""
    parts: list[Rendition | AudioRendition] = [*work.video, *work.audio]
    for each in parts:
        most = each.bitrate if isinstance(each, AudioRendition) else each.bitrate or each.max_bitrate
        if each.name == name and most is not None:
            sounds = [track.bitrate for track in work.audio if work.direct and track.name in getattr(each, "audio", ())]
            return None if None in sounds else most + sum(rate or 0 for rate in sounds)
    return None


def check_files(work: TranscodeWork | BatchWork, files: Sequence[FileResult]) -> None:
    """Raises ResultRejected unless exactly the files that were asked for came, none of them a flood."""
    wanted, given = sorted(work.names), sorted(file.name for file in files)
    if wanted != given:
        raise ResultRejected(f"expected the files {wanted}, got {given}")
    for file in files:  # which need not have come by the URL whose bound is signed
        most = upload_limit(work, file.name)
        if file.size > most:
            raise ResultRejected(f"{file.name}: expected at most {most} bytes, got {file.size}")


def check_content(work: TranscodeWork, found: Mapping[str, Found]) -> None:
    """Raises ResultRejected unless every file is what was asked for."""
    for name, facts in _all_facts(work, found):
        for fact, expected, got, fine in facts:
            if not fine:
                raise ResultRejected(f"{name}: expected {fact} {expected}, got {got}")


def _all_facts(work: TranscodeWork, found: Mapping[str, Found]) -> Iterator[tuple[str, list[Fact]]]:
    for rendition in work.video:
        file = found[rendition.name]
        yield (
            f"rendition {rendition.name}",
            [
                *_picture_facts(work, rendition, file),
                *_size_facts(work, rendition.name, file),
                *(() if file.likeness is None else judged(work, rendition, file.likeness)),
            ],
        )
    for sound in () if work.direct else work.audio:
        file = found[sound.name]
        yield sound.name, [*_sound_facts(work, sound, file), *_size_facts(work, sound.name, file)]
    for subtitles in work.subtitles:
        yield subtitles.name, [("WebVTT", "text", "something else", found[subtitles.name].text)]
    if work.stills is not None:
        for name in work.stills.names:
            yield name, _still_facts(work, work.stills, name, found[name].pictures)


def _picture_facts(work: TranscodeWork, asked: Rendition, file: Found) -> list[Fact]:
    media = file.source.media if file.source is not None else None
    if media is None or media.video is None or file.source is None:
        return [("a video stream", "in the file", "none", False)]
    video, fault, container = media.video, media.unsplittable, "mp4" if work.direct else _CONTAINERS[asked.codec]
    size, shown = (video.width, video.height), video.display_size
    off = max(abs(shown[0] - size[0]), abs(shown[1] - size[1]))
    depth = asked.pixel_format.bit_depth
    return [
        ("container", container, media.format, container in media.format.split(",")),
        ("codec", asked.codec.value, video.codec, video.codec == asked.codec.value),
        ("size", (asked.width, asked.height), size, size == (asked.width, asked.height)),
        ("size as shown", size, shown, off <= _SHOWN_TOLERANCE),
        ("bits a sample", depth, video.bit_depth, video.bit_depth == depth),
        ("times that rise", "throughout", fault, fault is None),
        *_time_facts(work, asked, video),
        *_track_facts(work, asked, file.source),
        *_keyframe_facts(work, asked, video, file.source.keyframes),
    ]


def _time_facts(work: TranscodeWork, asked: Rendition, video: VideoStream) -> list[Fact]:
    """Pieces of a variable rate have as many frames as they have, but none longer than the longest of the source."""
    begin = _begin(work)
    start, least = video.start_us - _origin_us(work) - begin, -_TIME_TOLERANCE_US if begin else 0
    late, off = _gap_us(work, asked) + _TIME_TOLERANCE_US, abs(video.duration_us - work.duration_us)
    facts: list[Fact] = [
        ("a start in µs from", 0, start, least <= start <= late),
        ("duration in µs", work.duration_us, video.duration_us, off <= _DURATION_TOLERANCE_US + _longest_us(work)),
    ]
    if not _irregular(work, asked):
        wanted = work.frames_of(asked)
        fine = -_left_out(work) <= video.frames - wanted <= _FRAME_TOLERANCE
        return [("frames", wanted, video.frames, fine), *facts]
    most = work.media.video.frames if work.media.video else 0
    fine = 1 <= video.frames <= most + _FRAME_TOLERANCE
    steady = ("µs between frames", late, video.longest_us, video.longest_us <= late or not work.media.splittable)
    return [("frames", f"1 to {most}", video.frames, fine), steady, *facts]


def _begin(work: TranscodeWork) -> int:
    """When the task's pictures begin, in microseconds of the job's time."""
    return work.window.start_us - work.origin_us if work.window is not None else 0


def _origin_us(work: TranscodeWork) -> int:
    """Where the job's beginning is in the file."""
    return 0 if work.direct else _OFFSET_US


def _irregular(work: TranscodeWork, asked: Rendition) -> bool:
    video = work.media.video
    partial = work.window is not None or work.clip is not None
    return partial and asked.fps is None and video is not None and (video.variable_rate or not video.frame_rate[0])


def _left_out(work: TranscodeWork) -> int:
    """Frames that may be missing: those whose times do not rise are shown or not, as an ffmpeg likes."""
    video = work.media.video
    return _FRAME_TOLERANCE + (video.doubtful if video and not work.media.splittable else 0)


def _longest_us(work: TranscodeWork) -> int:
    """How long the last frame is shown is lost in transport streams."""
    return work.media.video.longest_us if work.media.video else 0


def _gap_us(work: TranscodeWork, asked: Rendition) -> int:
    """Between frames."""
    rate = asked.fps or (work.media.video.frame_rate if work.media.video else (0, 1))
    mean = ceil_div(_MICRO * rate[1], rate[0]) if rate[0] else _MICRO
    return mean if asked.fps else max(mean, _longest_us(work))


def _keyframe_facts(work: TranscodeWork, asked: Rendition, video: VideoStream, keys: Sequence[int]) -> list[Fact]:
    """One at the first frame, and at the first of each cell of the job's GOPs: else pieces could not be switched."""
    times = [key - _origin_us(work) for key in keys]
    start = video.start_us - _origin_us(work)
    begins = bool(times) and abs(times[0] - start) <= _TIME_TOLERANCE_US
    gap = _gap_us(work, asked) * (1 if work.media.splittable else _DOUBTFUL_GAPS)
    gop, slack = work.picture.gop_us, gap + _TIME_TOLERANCE_US
    first, end = ceil_div(start, gop), start + video.duration_us - slack
    cells = [cell * gop for cell in range(first, ceil_div(max(0, end), gop))]
    missing = [cell for cell in cells if not _any_within(times, cell - _TIME_TOLERANCE_US, cell + slack)]
    return [
        ("a keyframe", "at the start", times[:1], begins),
        ("a keyframe at each GOP, from µs", missing[:1], "none", not missing),
    ]


def _any_within(times: Sequence[int], first: int, last: int) -> bool:
    """Of ascending ones."""
    index = bisect_left(times, first)
    return index < len(times) and times[index] <= last


def _track_facts(work: TranscodeWork, asked: Rendition, source: Source) -> list[Fact]:
    heard = [each for each in work.audio if each.name in asked.audio] if work.direct else []
    sound, codecs = [each.codec.value for each in heard], [stream.codec for stream in source.media.audio]
    counts = len(source.sounds)
    facts: list[Fact] = [
        ("audio", sound, codecs, codecs == sound),
        ("tracks of sound that are counted", len(sound), counts, counts == len(sound)),
    ]
    if codecs == sound and counts == len(sound):
        facts += [
            fact
            for each, stream, count in zip(heard, source.media.audio, source.sounds, strict=True)
            for fact in _heard_facts(work, each, stream, count)
        ]
    return facts


def _heard_facts(work: TranscodeWork, asked: AudioRendition, got: AudioStream, count: SoundCount) -> list[Fact]:
    track = work.media.audio[asked.track]
    end, span = track.start_us + track.duration_us - work.origin_us, sound_span(work, asked)
    ends = [end, *([work.clip.duration_us] if work.clip else []), *([_us(span.last, asked)] if span.last else [])]
    wanted = max(0, min(ends) - _us(span.first, asked))
    off = abs(got.start_us + got.duration_us - wanted)
    return [
        ("channels", asked.channels, got.channels, got.channels == asked.channels),
        ("Hz", asked.sample_rate, got.sample_rate, got.sample_rate == asked.sample_rate),
        ("sound that starts in µs near", 0, got.start_us, abs(got.start_us) <= _SOUND_START_TOLERANCE_US),
        ("sound that ends in µs near", wanted, got.start_us + got.duration_us, off <= _DURATION_TOLERANCE_US),
        *_packet_facts(asked, got, count),
    ]


def _packet_facts(asked: AudioRendition, got: AudioStream, count: SoundCount) -> list[Fact]:
    """Sound that is encoded is without a gap, since its gaps are filled with silence; what is copied is as it was."""
    if asked.bitrate is None:
        return []
    least = got.duration_us * got.sample_rate // (_MICRO * PACKET_SAMPLES[asked.codec]) - _PACKET_TOLERANCE
    return [
        ("packets of sound at least", least, count.packets, count.packets >= least),
        ("packets that cannot be decoded", 0, count.broken, not count.broken),
    ]


def _size_facts(work: TranscodeWork, name: str, file: Found) -> list[Fact]:
    rate = _rate(work, name)
    if rate is None:
        return []
    most = _SMALL_FILE + int(_BITRATE_REACH * rate * work.duration_us) // (_BITS_PER_BYTE * _MICRO)
    return [("bytes at most", most, file.size, file.size <= most)]


def _sound_facts(work: TranscodeWork, asked: AudioRendition, file: Found) -> list[Fact]:
    media = file.source.media if file.source is not None else None
    counts = file.source.sounds if file.source is not None else ()
    if media is None or media.video is not None or len(media.audio) != 1 or len(counts) != 1:
        return [("an audio stream", "and nothing else", "something else", False)]
    (got,), (count,) = media.audio, counts
    return [
        ("container", "mp4", media.format, "mp4" in media.format.split(",")),
        ("codec", asked.codec.value, got.codec, got.codec == asked.codec.value),
        *_heard_facts(work, asked, got, count),
    ]


def _us(samples: int, asked: AudioRendition) -> int:
    return samples * _MICRO // asked.sample_rate


def _stills_of(work: TranscodeWork, stills: Stills, name: str) -> tuple[tuple[int, int], int, int]:
    """Width and height of each picture, how many there are to be, and how many fewer or more will do."""
    asked = {"thumbnails": stills.thumbnails, "sprite": stills.sprite, "poster": stills.poster}[name]
    assert asked is not None  # noqa: S101 - it is one of the names
    size, count, tolerance = (asked.width, asked.height), 1, 0
    if isinstance(asked, Thumbnails):
        count, tolerance = ceil_div(work.duration_us, asked.interval_us), 1
    if isinstance(asked, Sprite):
        size = (asked.width * asked.columns, asked.height * asked.rows)
        count = ceil_div(count, asked.columns * asked.rows)
    return size, count, tolerance


def _still_facts(work: TranscodeWork, stills: Stills, name: str, pictures: Sequence[tuple[int, int]]) -> list[Fact]:
    size, count, tolerance = _stills_of(work, stills, name)
    wrong = [each for each in pictures if each != size]
    return [
        ("pictures", count, len(pictures), abs(len(pictures) - count) <= tolerance and bool(pictures)),
        ("pictures of the size", size, wrong[:1], not wrong),
    ]


def check_outputs(work: InferenceWork, tensors: Sequence[Tensor]) -> None:
    """Raises ResultRejected unless the tensors are those that the model gives."""
    try:
        check_tensors(work.outputs, tensors)
    except InvalidTensor as error:
        raise ResultRejected(error.detail) from error


def check_answers(work: BatchWork, output: BatchOutput, rows: Iterable[Row]) -> None:
    """Raises ResultRejected unless there is an answer to each row of the shard, and each is what the model gives."""
    names = [spec.name for spec in work.outputs]
    count, failed = 0, []
    try:
        for row in rows:
            if row.fault is not None:
                failed.append(count)
            else:
                _check_answer(work, names, row.tensors)
            count += 1
    except (InvalidTensor, MalformedMessage) as error:
        raise ResultRejected(f"answer {count} of the shard: {error.detail}") from error
    if count != work.rows:
        raise ResultRejected(f"expected answers to {work.rows} rows, got {count}")
    if tuple(failed) != output.failed or (failed and not work.lenient):
        wanted = list(output.failed) if work.lenient else "none"
        raise ResultRejected(f"expected of the rows that failed {wanted}, got {failed!s:.200}")


def _check_answer(work: BatchWork, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    if [tensor.name for tensor in tensors] != names:
        raise InvalidTensor(f"expected the outputs {names} in this order, got {[t.name for t in tensors]!s:.300}")
    check_tensors(work.outputs, tensors)


def check_confirmed(output: BatchOutput, earlier: Sequence[BatchOutput]) -> None:
    """Rows are taken for failed only once another attempt says the same: else failing would be an easy way to earn.

    Raises ResultRejected, upon which the shard is run again, elsewhere if there is another node.
    """
    said = {row for each in earlier for row in each.failed}
    fresh = [row for row in output.failed if row not in said]
    if fresh:
        raise ResultRejected(
            f"expected every row to be answered, got a failure on {len(fresh)} of the shard, first on row {fresh[0]}; "
            "if the next attempt fails on them too, they are taken to be at fault"
        )
