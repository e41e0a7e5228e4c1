"""Requests that are tedious to write out."""

from collections.abc import Sequence

from tandem.protocol.jobs import ArtifactInput, OutputRequest, TranscodeRequest, UrlInput
from tandem.protocol.ladder import Container, RenditionRequest
from tandem.protocol.webhooks import WebhookTarget


def transcode(
    source: str,
    ladder: Sequence[RenditionRequest] | None = None,
    *,
    container: Container = Container.MP4,
    max_price: int | None = None,
    webhook: str | None = None,
) -> TranscodeRequest:
    """A transcode of an uploaded file, or of the file at an http or https URL, which the orchestrator fetches.

    Without a ladder one is chosen that never upscales. `max_price` is in wei; `webhook` is a URL that is told of
    each state. Raises ValueError for another source.
    """
    given = UrlInput(url=source) if "://" in source else ArtifactInput(artifact=source)
    return TranscodeRequest(
        kind="transcode",
        input=given,
        ladder=tuple(ladder) if ladder else None,
        max_price=max_price,
        webhook=WebhookTarget(url=webhook) if webhook else None,
        output=OutputRequest(container=container),
    )
