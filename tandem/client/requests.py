"""Requests that are tedious to write out."""

from collections.abc import Sequence

from tandem.protocol.jobs import ArtifactInput, TranscodeRequest
from tandem.protocol.ladder import RenditionRequest


def transcode(artifact: str, ladder: Sequence[RenditionRequest] | None = None) -> TranscodeRequest:
    """A transcode of an uploaded file; without a ladder one is chosen that never upscales."""
    return TranscodeRequest(
        kind="transcode", input=ArtifactInput(artifact=artifact), ladder=tuple(ladder) if ladder else None
    )
