"""Playlists of HLS (RFC 8216), the manifest of DASH (ISO/IEC 23009-1), and indexes of still pictures (WebVTT).

Every figure is of what was made: durations and peaks of real segments, codecs of real tracks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from xml.sax.saxutils import quoteattr

from orchestrator.core.packaging import Segment, Track
from tandem.protocol.ladder import Sprite, Thumbnails

MASTER = "master.m3u8"
PLAYLIST = "playlist.m3u8"
CAPTIONS = "captions.vtt"
DASH = "manifest.mpd"

_MICRO = 10**6
_UNKNOWN_LANGUAGE = "und"
_HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Shown:
    """A rendition's pictures."""

    name: str
    track: Track
    segments: tuple[Segment, ...]
    audio: tuple[str, ...]
    """The tracks that go with it, the default first."""
    rate: Fraction
    """Frames a second; 0: not known."""


@dataclass(frozen=True, slots=True)
class Heard:
    name: str
    track: Track
    segments: tuple[Segment, ...]
    language: str | None


@dataclass(frozen=True, slots=True)
class Read:
    name: str
    language: str | None
    seconds: Fraction
    there: bool = True
    """Whether its text can be had by now."""


@dataclass(frozen=True, slots=True)
class Presentation:
    """All that plays together."""

    video: tuple[Shown, ...]
    audio: tuple[Heard, ...]
    text: tuple[Read, ...]
    segment_seconds: float
    """As they were asked for."""
    extension: str
    """Of segments: `m4s`, or `ts`, which have no beginning of their own."""
    ended: bool

    @property
    def tracks(self) -> tuple["Shown | Heard", ...]:
        return (*self.video, *self.audio)

    def in_step(self) -> "Presentation":
        """Up to where all tracks have come; so that a player of what still grows sees all grow alike."""
        until = min(_end(each.segments, each.track) for each in self.video)
        video = (replace(each, segments=_before(each.segments, each.track, until)) for each in self.video)
        audio = (replace(each, segments=_before(each.segments, each.track, until)) for each in self.audio)
        return replace(self, video=tuple(video), audio=tuple(audio))

    def heard(self, names: Sequence[str]) -> list[Heard]:
        return [each for name in names for each in self.audio if each.name == name]


def _end(segments: Sequence[Segment], track: Track) -> Fraction:
    return Fraction(segments[-1].start + segments[-1].duration, track.timescale) if segments else Fraction(0)


def _before(segments: Sequence[Segment], track: Track, until: Fraction) -> tuple[Segment, ...]:
    return tuple(segment for segment in segments if Fraction(segment.start, track.timescale) < until)


# HLS.


def texts(shown: Presentation) -> dict[str, str]:
    """All playlists, by their path."""
    media = {f"{each.name}/{PLAYLIST}": _media(shown, each.track, each.segments) for each in shown.tracks}
    text = {f"{each.name}/{PLAYLIST}": _captions(each) for each in shown.text}
    return {MASTER: master(shown), **media, **text}


def master(shown: Presentation) -> str:
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-INDEPENDENT-SEGMENTS"]
    if not shown.ended:
        lines.append("#EXT-X-START:TIME-OFFSET=0,PRECISE=YES")
    for group in dict.fromkeys(each.audio for each in shown.video if each.audio):
        heard = shown.heard(group)
        named = zip(heard, _names(heard), strict=True)
        lines += [_alternative(group[0], *each, is_default=index == 0) for index, each in enumerate(named)]
    for text, called in zip(shown.text, _names(shown.text), strict=True):
        language = f',LANGUAGE="{text.language}"' if text.language else ""
        name = f'NAME="{called}"'
        uri = f'URI="{text.name}/{PLAYLIST}"'
        lines.append(f'#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="text",{name}{language},DEFAULT=NO,AUTOSELECT=YES,{uri}')
    if any(each.track.captions for each in shown.video):
        lines.append('#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID="cc",NAME="CC1",INSTREAM-ID="CC1"')
    for each in shown.video:
        lines += [_variant(shown, each), f"{each.name}/{PLAYLIST}"]
    return "\n".join(lines) + "\n"


def _names(group: Sequence[Heard | Read]) -> list[str]:
    """Of a group's members: by their language where it has one of it, else by their own names (RFC 8216, 4.3.4.1.1)."""
    languages = [each.language for each in group]
    return [each.language if each.language and languages.count(each.language) == 1 else each.name for each in group]


def _alternative(group: str, heard: Heard, name: str, *, is_default: bool) -> str:
    attributes = ["TYPE=AUDIO", f'GROUP-ID="{group}"', f'NAME="{name}"']
    if heard.language:
        attributes.append(f'LANGUAGE="{heard.language}"')
    attributes += [f"DEFAULT={'YES' if is_default else 'NO'}", "AUTOSELECT=YES"]
    attributes += [f'CHANNELS="{heard.track.channels}"', f'URI="{heard.name}/{PLAYLIST}"']
    return "#EXT-X-MEDIA:" + ",".join(attributes)


def _variant(shown: Presentation, each: Shown) -> str:
    heard = shown.heard(each.audio)
    tracks: list[Shown | Heard] = [each, *sorted(heard, key=lambda one: -_peak(shown, one))[:1]]
    codecs = dict.fromkeys([each.track.codec, *(one.track.codec for one in heard)])
    attributes = [
        f"BANDWIDTH={sum(_peak(shown, one) for one in tracks)}",
        f"AVERAGE-BANDWIDTH={sum(_average(one) for one in tracks)}",
        f'CODECS="{",".join(codecs)}"',
        f"RESOLUTION={each.track.width}x{each.track.height}",
    ]
    if each.rate:
        attributes.append(f"FRAME-RATE={float(each.rate):.3f}")
    if each.track.range != "SDR":
        attributes.append(f"VIDEO-RANGE={each.track.range}")
    if heard:
        attributes.append(f'AUDIO="{each.audio[0]}"')
    if shown.text:
        attributes.append('SUBTITLES="text"')
    if each.track.captions:
        attributes.append('CLOSED-CAPTIONS="cc"')
    elif not any(other.track.captions for other in shown.video):  # NONE is said of all or of none
        attributes.append("CLOSED-CAPTIONS=NONE")
    return "#EXT-X-STREAM-INF:" + ",".join(attributes)


def _peak(shown: Presentation, each: Shown | Heard) -> int:
    """Bits a second of the densest run of segments whose length is about that of one (RFC 8216bis, 4.4.6.2)."""
    target = Fraction(shown.segment_seconds) * each.track.timescale
    rates = list(_runs(each.segments, target / 2, target * 3 / 2))
    return ceil(max(rates) * each.track.timescale * 8) if rates else _average(each)


def _runs(segments: Sequence[Segment], least: Fraction, most: Fraction) -> Iterator[Fraction]:
    """Bytes a tick of every run of segments that lasts so long."""
    for first in range(len(segments)):
        size = duration = 0
        for segment in segments[first:]:
            size, duration = size + segment.size, duration + segment.duration
            if duration > most:
                break
            if duration >= least:
                yield Fraction(size, duration)


def _average(each: Shown | Heard) -> int:
    size, duration = sum(s.size for s in each.segments), sum(s.duration for s in each.segments)
    return ceil(Fraction(size * 8 * each.track.timescale, max(1, duration)))


def _media(shown: Presentation, track: Track, segments: Sequence[Segment]) -> str:
    seconds = [Fraction(segment.duration, track.timescale) for segment in segments]
    target = max(ceil(shown.segment_seconds), *(floor(each + _HALF) for each in seconds))
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", f"#EXT-X-TARGETDURATION:{target}", "#EXT-X-MEDIA-SEQUENCE:0"]
    lines += [f"#EXT-X-PLAYLIST-TYPE:{'VOD' if shown.ended else 'EVENT'}", "#EXT-X-INDEPENDENT-SEGMENTS"]
    if shown.extension == "m4s":
        lines.append('#EXT-X-MAP:URI="init.mp4"')
    for segment, length in zip(segments, seconds, strict=True):
        lines += [f"#EXTINF:{float(length):.6f},", f"{segment.start}.{shown.extension}"]
    return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if shown.ended else [])]) + "\n"


def _captions(each: Read) -> str:
    """The whole text is one segment."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", f"#EXT-X-TARGETDURATION:{max(1, ceil(each.seconds))}"]
    lines.append(f"#EXT-X-PLAYLIST-TYPE:{'VOD' if each.there else 'EVENT'}")
    if each.there:
        lines += [f"#EXTINF:{float(each.seconds):.6f},", CAPTIONS, "#EXT-X-ENDLIST"]
    return "\n".join(lines) + "\n"


# DASH.


def manifest(shown: Presentation) -> str:
    """Of a presentation that has ended and is of CMAF."""
    seconds = max(_end(each.segments, each.track) for each in shown.tracks)
    longest = max(
        Fraction(segment.duration, each.track.timescale) for each in shown.tracks for segment in each.segments
    )
    profile = "urn:mpeg:dash:profile:isoff-live:2011"
    times = f'mediaPresentationDuration="PT{float(seconds):.6f}S" maxSegmentDuration="PT{float(longest):.6f}S"'
    buffer = f'minBufferTime="PT{max(2.0, shown.segment_seconds):g}S"'
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="{profile}" type="static" {times} {buffer}>',
        '<Period id="0" start="PT0S">',
        *_video_sets(shown),
        *(line for each in shown.audio for line in _audio_set(shown, each)),
        *(line for each in shown.text for line in _text_set(each)),
        "</Period>",
        "</MPD>",
    ]
    return "\n".join(lines) + "\n"


def _video_sets(shown: Presentation) -> Iterator[str]:
    """Renditions between which a player may switch are of one codec."""
    for codec in dict.fromkeys(each.track.codec.partition(".")[0] for each in shown.video):
        yield '<AdaptationSet contentType="video" mimeType="video/mp4" segmentAlignment="true" startWithSAP="1">'
        for each in shown.video:
            if each.track.codec.partition(".")[0] == codec:
                rate = f' frameRate="{each.rate.numerator}/{each.rate.denominator}"' if each.rate else ""
                size = f'width="{each.track.width}" height="{each.track.height}"'
                yield _representation(shown, each, f' {size} sar="1:1"{rate}')
                yield from _timeline(each)
                yield "</Representation>"
        yield "</AdaptationSet>"


def _audio_set(shown: Presentation, each: Heard) -> Iterator[str]:
    language = quoteattr(each.language or _UNKNOWN_LANGUAGE)
    yield f'<AdaptationSet contentType="audio" mimeType="audio/mp4" lang={language} segmentAlignment="true">'
    yield _representation(shown, each, f' audioSamplingRate="{each.track.sample_rate}"')
    scheme = "urn:mpeg:dash:23003:3:audio_channel_configuration:2011"
    yield f'<AudioChannelConfiguration schemeIdUri="{scheme}" value="{each.track.channels}"/>'
    yield from _timeline(each)
    yield "</Representation>"
    yield "</AdaptationSet>"


def _text_set(each: Read) -> Iterator[str]:
    language = quoteattr(each.language or _UNKNOWN_LANGUAGE)
    yield f'<AdaptationSet contentType="text" mimeType="text/vtt" lang={language}>'
    yield f'<Representation id="{each.name}" bandwidth="1000"><BaseURL>{each.name}/{CAPTIONS}</BaseURL>'
    yield "</Representation>"
    yield "</AdaptationSet>"


def _representation(shown: Presentation, each: Shown | Heard, more: str) -> str:
    return f'<Representation id="{each.name}" codecs="{each.track.codec}" bandwidth="{_peak(shown, each)}"{more}>'


def _timeline(each: Shown | Heard) -> Iterator[str]:
    yield (
        f'<SegmentTemplate timescale="{each.track.timescale}" initialization="{each.name}/init.mp4" '
        f'media="{each.name}/$Time$.m4s">'
    )
    yield "<SegmentTimeline>"
    yield from _runs_of_equal(each.segments)
    yield "</SegmentTimeline>"
    yield "</SegmentTemplate>"


def _runs_of_equal(segments: Sequence[Segment]) -> Iterator[str]:
    """An element for each run of segments of equal length without a gap."""
    index = 0
    while index < len(segments):
        first, repeats = segments[index], 0
        while index + 1 < len(segments) and (
            segments[index + 1].duration == first.duration
            and segments[index + 1].start == segments[index].start + first.duration
        ):
            index, repeats = index + 1, repeats + 1
        index += 1
        repeated = f' r="{repeats}"' if repeats else ""
        yield f'<S t="{first.start}" d="{first.duration}"{repeated}/>'


# Still pictures.


def image_index(name: str, asked: Thumbnails | Sprite, count: int, duration_us: int) -> str:
    """Which picture, or which part of which sprite, belongs to which time. `count`: of the files."""
    columns, rows = (asked.columns, asked.rows) if isinstance(asked, Sprite) else (1, 1)
    lines = ["WEBVTT", ""]
    for number in range(count * columns * rows):
        start = number * asked.interval_us
        if start >= duration_us:
            break
        image, place = divmod(number, columns * rows)
        part = ""
        if isinstance(asked, Sprite):
            x, y = place % columns * asked.width, place // columns * asked.height
            part = f"#xywh={x},{y},{asked.width},{asked.height}"
        end = min(start + asked.interval_us, duration_us)
        lines += [f"{_clock(start)} --> {_clock(end)}", f"{name}/{image}.jpg{part}", ""]
    return "\n".join(lines)


def _clock(us: int) -> str:
    milliseconds = us // 1000
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
