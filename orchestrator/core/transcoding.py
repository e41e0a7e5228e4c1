"""A transcode's request against its source: every default decided, or a refusal that says why."""

from collections.abc import Mapping, Sequence

from orchestrator.core.ladder import automatic_ladder, decide_rendition, even, size_of
from orchestrator.core.records import ArtifactRecord
from tandem.protocol.errors import InvalidLadder, InvalidRequest
from tandem.protocol.jobs import TranscodeRequest, TranscodeWork
from tandem.protocol.ladder import (
    MAX_AUDIO_RENDITIONS,
    MAX_SAMPLE_RATE,
    MAX_SIDE,
    MIN_SAMPLE_RATE,
    AudioRendition,
    AudioSettings,
    ClipRequest,
    Container,
    Hdr,
    Picture,
    Poster,
    PosterRequest,
    Rendition,
    SegmentFormat,
    Sprite,
    SpriteRequest,
    Stills,
    SubtitleRendition,
    Thumbnails,
    ThumbnailsRequest,
    Watermark,
    Window,
)
from tandem.protocol.media import AudioCodec, AudioStream, MediaInfo, VideoCodec, VideoStream

MAX_STILLS = 20_000
_MAX_SPRITE_SIDE = 16_384
_MICRO = 10**6
_LEAST_CLIP_US = 100_000
_END_TOLERANCE_US = 500_000
_COPY_TOLERANCE_US = 25_000
_AAC_RATES = (48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000)
_OPUS_RATE = 48_000
_BITS_A_CHANNEL = {AudioCodec.AAC: 64_000, AudioCodec.OPUS: 48_000}
_MOST_OPUS_BITS = 256_000
"""A channel: more is refused by libopus."""
_LAYOUTS = (8, 6, 2, 1)
"""Channels of sound that all players know how to place."""


def decide(
    request: TranscodeRequest,
    source: ArtifactRecord,
    media: MediaInfo,
    watermark: Watermark | None = None,
    keyframes: Sequence[int] = (),
) -> TranscodeWork:
    """The job as one task; `keyframes`: where decoding of a clip may begin.

    Raises InvalidLadder for a rendition that cannot be had, InvalidRequest for what else.
    """
    if media.video is None:
        raise InvalidLadder("expected a source with a video stream, got none; only video can be transcoded")
    _check_output(request)
    clip = _clip(request.clip, media) if request.clip else None
    sounds, names = _sounds(request, media)
    video = tuple(
        decide_rendition(media.video, each, request.hdr, names.get(each.audio, ()) if each.audio else ())
        for each in request.ladder or automatic_ladder(media.video, media.complexity)
    )
    subtitles = _subtitles(media) if request.subtitles else ()
    _check_names(video, [*(each.name for each in sounds), *(each.name for each in subtitles)])
    _check_container(request, video, sounds)
    direct = request.output.container is Container.MP4
    return TranscodeWork(
        source=source.id,
        source_size=source.size,
        media=media,
        clip=clip,
        seek_us=max((key for key in keyframes if clip and key < clip.start_us), default=None),
        picture=_picture(request, media.video, watermark),
        video=video,
        audio=sounds,
        subtitles=subtitles,
        stills=_stills(request, media, clip),
        direct=direct,
    )


def _check_output(request: TranscodeRequest) -> None:
    output = request.output
    if output.segment_format is SegmentFormat.TS and output.container is not Container.HLS:
        raise InvalidRequest(f"expected the segment format fmp4 for {output.container}, got ts; only hls has it")
    gops = output.segment_seconds / request.gop_seconds
    if output.container is not Container.MP4 and abs(gops - round(gops)) * request.gop_seconds > 1 / _MICRO:
        raise InvalidRequest(
            f"expected segments of a whole number of GOPs, got {output.segment_seconds:g} s of segment and "
            f"{request.gop_seconds:g} s of GOP"
        )


def _check_container(request: TranscodeRequest, video: Sequence[Rendition], sounds: Sequence[AudioRendition]) -> None:
    if request.output.segment_format is not SegmentFormat.TS:
        return
    others = {each.codec.value for each in video if each.codec is not VideoCodec.H264}
    others |= {each.codec.value for each in sounds if each.codec is not AudioCodec.AAC}
    if others:
        raise InvalidLadder(
            f"expected h264 and aac in ts segments, which is what players take, got {', '.join(sorted(others))}; "
            "ask for fmp4"
        )


def _check_names(video: Sequence[Rendition], others: Sequence[str]) -> None:
    names = [each.name for each in video]
    taken = {*others, "thumbnails", "sprite", "poster"}
    if len(set(names)) != len(names) or taken & set(names):
        raise InvalidLadder(
            f"expected every rendition to have a name of its own, and none of {sorted(taken)}, got {names}"
        )


def _clip(asked: ClipRequest, media: MediaInfo) -> Window:
    start = round(asked.start * _MICRO)
    end = media.duration_us if asked.end is None else round(asked.end * _MICRO)
    given = f"the source's {media.duration_us / _MICRO:g} s, got {start / _MICRO:g} to {end / _MICRO:g}"
    if end > media.duration_us + _END_TOLERANCE_US:
        raise InvalidRequest(f"clip: expected an end within {given}; leave it out to have all from the start on")
    if min(end, media.duration_us) - start < _LEAST_CLIP_US:
        raise InvalidRequest(f"clip: expected at least 0.1 s within {given}")
    return Window(start_us=media.origin_us + start, end_us=media.origin_us + min(end, media.duration_us))


def _picture(request: TranscodeRequest, video: VideoStream, watermark: Watermark | None) -> Picture:
    return Picture(
        gop_us=round(request.gop_seconds * _MICRO),
        deinterlace=video.field_order.interlaced,
        tone_map=video.color.hdr and request.hdr is Hdr.TONE_MAP,
        watermark=watermark,
    )


def _sounds(
    request: TranscodeRequest, media: MediaInfo
) -> tuple[tuple[AudioRendition, ...], Mapping[AudioSettings, tuple[str, ...]]]:
    """The audio renditions, each once however many renditions go with it; and their names by what was asked."""
    tracks = _tracks(request, media)
    asked = dict.fromkeys(each.audio for each in request.ladder or () if each.audio is not None)
    settings = tuple(asked) if request.ladder else (AudioSettings(),)
    if len(tracks) * len(settings) > MAX_AUDIO_RENDITIONS:
        raise InvalidLadder(
            f"expected at most {MAX_AUDIO_RENDITIONS} audio renditions, got {len(tracks) * len(settings)}: "
            f"{len(tracks)} tracks with {len(settings)} different settings each; give renditions the same `audio`"
        )
    sounds: list[AudioRendition] = []
    names: dict[AudioSettings, tuple[str, ...]] = {}
    for each in settings if tracks else ():
        group = [
            _sound(f"audio{len(sounds) + index}", track, media, each, clipped=request.clip is not None)
            for index, track in enumerate(tracks)
        ]
        sounds += group
        names[each] = tuple(sound.name for sound in group)
    return tuple(sounds), names


def _tracks(request: TranscodeRequest, media: MediaInfo) -> tuple[int, ...]:
    if request.audio_tracks is None:
        usable = [index for index, each in enumerate(media.audio) if each.decodable]
        marked = [index for index in usable if media.audio[index].default]
        return tuple((marked or usable)[:1])
    missing = [track for track in request.audio_tracks if track >= len(media.audio) or not media.audio[track].decodable]
    if missing or len(set(request.audio_tracks)) != len(request.audio_tracks):
        raise InvalidRequest(
            f"audio_tracks: expected decodable ones of the source's {len(media.audio)} tracks, each once, from 0, "
            f"got {list(request.audio_tracks)}"
        )
    return request.audio_tracks


def _sound(name: str, track: int, media: MediaInfo, asked: AudioSettings, *, clipped: bool) -> AudioRendition:
    source = media.audio[track]
    copied = asked.passthrough and not clipped and _copyable(source, asked, media.origin_us)
    channels = source.channels if copied else next(n for n in _LAYOUTS if n <= min(source.channels, asked.channels))
    if asked.codec is AudioCodec.OPUS and (asked.bitrate or 0) > _MOST_OPUS_BITS * channels:
        raise InvalidLadder(
            f"expected at most {_MOST_OPUS_BITS * channels} bits a second of opus for {channels} channels, "
            f"got {asked.bitrate}"
        )
    return AudioRendition(
        name=name,
        track=track,
        codec=asked.codec,
        bitrate=None if copied else asked.bitrate or _BITS_A_CHANNEL[asked.codec] * channels,
        channels=channels,
        sample_rate=source.sample_rate if copied else _sample_rate(asked.codec, source.sample_rate),
        loudness=asked.loudness,
        language=source.language,
    )


def _copyable(source: AudioStream, asked: AudioSettings, origin_us: int) -> bool:
    """Sound that is copied cannot be moved by less than a packet, nor filled with silence."""
    return (
        source.codec == asked.codec
        and source.channels <= asked.channels
        and MIN_SAMPLE_RATE <= source.sample_rate <= MAX_SAMPLE_RATE
        and asked.loudness is None
        and abs(source.start_us - origin_us) <= _COPY_TOLERANCE_US
    )


def _sample_rate(codec: AudioCodec, source: int) -> int:
    if codec is AudioCodec.OPUS:
        return _OPUS_RATE
    return source if source in _AAC_RATES else _AAC_RATES[0]


def _subtitles(media: MediaInfo) -> tuple[SubtitleRendition, ...]:
    return tuple(
        SubtitleRendition(name=f"subtitles{index}", track=index, language=each.language)
        for index, each in enumerate(media.subtitles)
        if each.text
    )


def _stills(request: TranscodeRequest, media: MediaInfo, clip: Window | None) -> Stills | None:
    if media.video is None or not (request.thumbnails or request.sprite or request.poster):
        return None
    source = media.video.display_size
    span = clip or Window(start_us=media.origin_us, end_us=media.origin_us + max(1, media.duration_us))
    return Stills(
        thumbnails=_thumbnails(request.thumbnails, source, span) if request.thumbnails else None,
        sprite=_sprite(request.sprite, source, span) if request.sprite else None,
        poster=_poster(request.poster, media.video, span) if request.poster else None,
    )


def _still_size(source: tuple[int, int], height: int | None) -> tuple[int, int]:
    """Of a very long picture, less than what is asked for: no side may be longer than a rendition's."""
    shorter, longer = sorted(source)
    return size_of(source, even(min(height or shorter, shorter, shorter * MAX_SIDE // longer)))


def _thumbnails(asked: ThumbnailsRequest, source: tuple[int, int], span: Window) -> Thumbnails:
    if span.duration_us > asked.interval * _MICRO * MAX_STILLS:
        raise InvalidRequest(f"expected at most {MAX_STILLS} thumbnails, got more; ask for a longer interval")
    width, height = _still_size(source, asked.height)
    return Thumbnails(interval_us=round(asked.interval * _MICRO), width=width, height=height)


def _sprite(asked: SpriteRequest, source: tuple[int, int], span: Window) -> Sprite:
    each = _thumbnails(asked, source, span)
    size = (each.width * asked.columns, each.height * asked.rows)
    if max(size) > _MAX_SPRITE_SIDE:
        raise InvalidRequest(
            f"sprite: expected at most {_MAX_SPRITE_SIDE} pixels a side, got {size[0]}x{size[1]}; ask for fewer "
            "columns or rows, or a lower height"
        )
    return Sprite(**dict(each), columns=asked.columns, rows=asked.rows)


def _poster(asked: PosterRequest, video: VideoStream, span: Window) -> Poster:
    at = span.duration_us // 10 if asked.at is None else round(asked.at * _MICRO)
    if at >= span.duration_us:
        raise InvalidRequest(f"poster: expected a time within {span.duration_us / _MICRO:g} s, got {at / _MICRO:g}")
    width, height = _still_size(video.display_size, asked.height)
    begins = max(0, min(at, span.duration_us - video.longest_us))  # the last picture may long have begun by then
    return Poster(at_us=span.start_us + begins, width=width, height=height)
