"""Transcoding by ffmpeg, in a confined child process for each attempt."""

from node.adapters.ffmpeg.binary import Ffmpeg, find_ffmpeg
from node.adapters.ffmpeg.encoders import SOFTWARE, VideoEncoder
from node.adapters.ffmpeg.transcoder import FfmpegTranscoder
from node.adapters.ffmpeg.trial import Trials

__all__ = ["SOFTWARE", "Ffmpeg", "FfmpegTranscoder", "Trials", "VideoEncoder", "find_ffmpeg"]
