"""Which media is opened at all: named formats and decoders, local files, bounded pictures and numbers of streams.

FFmpeg's defaults would follow a playlist that calls itself an mp4 to any file or host, render SVG, and run several
hundred decoders of which the obscure ones are where the exploits are found.
"""

FORMATS = (
    *("mov", "matroska", "webm", "mpegts", "mpeg", "avi", "flv", "ogg", "asf", "mxf"),
    *("mp3", "aac", "wav", "flac", "gif", "h264", "hevc", "ivf", "dv"),
)
VIDEO_DECODERS = (
    *("h264", "hevc", "libdav1d", "libaom-av1", "vp8", "vp9", "libvpx", "libvpx-vp9"),
    *("mpeg1video", "mpeg2video", "mpegvideo", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4"),
    *("h263", "flv", "wmv1", "wmv2", "wmv3", "vc1", "theora", "vp6", "vp6a", "vp6f"),
    *("mjpeg", "prores", "dnxhd", "dvvideo", "ffv1", "gif"),
)
AUDIO_DECODERS = (
    *("aac", "aac_latm", "mp3float", "mp3", "mp2float", "mp2", "mp1float", "mp1", "ac3", "eac3", "dca", "truehd"),
    *("opus", "libopus", "vorbis", "flac", "alac", "wmav1", "wmav2", "wmapro", "amrnb", "amrwb"),
    *("pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be"),
    *("pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_dvd", "pcm_bluray"),
    *("adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "adpcm_swf", "nellymoser", "speex", "libspeex"),
)
SUBTITLE_DECODERS = ("subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text")
MAX_PIXELS = 8192 * 4320
MAX_STREAMS = 64

DEMUXER_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(FORMATS),
    "codec_whitelist": ",".join(VIDEO_DECODERS + AUDIO_DECODERS + SUBTITLE_DECODERS),
    "max_streams": str(MAX_STREAMS),
}
