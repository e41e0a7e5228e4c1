"""Transcoding by ffmpeg, in a confined child process for each attempt."""

from node.adapters.ffmpeg.arguments import VideoEncoder
from node.adapters.ffmpeg.binary import Ffmpeg, find_ffmpeg
from node.adapters.ffmpeg.transcoder import FfmpegTranscoder
from node.adapters.ffmpeg.trial import measure_encode_speed, trial_encode

__all__ = ["Ffmpeg", "FfmpegTranscoder", "VideoEncoder", "find_ffmpeg", "measure_encode_speed", "trial_encode"]
