"""Requests that are tedious to write out."""

from collections.abc import Sequence

from tandem.protocol.jobs import (
    ArtifactInput,
    BatchFormat,
    BatchRequest,
    BucketForm,
    JobInput,
    OutputRequest,
    TranscodeRequest,
    UrlInput,
)
from tandem.protocol.ladder import Container, RenditionRequest
from tandem.protocol.webhooks import WebhookTarget


def transcode(
    source: str,
    ladder: Sequence[RenditionRequest] | None = None,
    *,
    container: Container = Container.MP4,
    max_price: int | None = None,
    webhook: str | None = None,
    bucket: BucketForm | None = None,
) -> TranscodeRequest:
    """A transcode of an uploaded file, or of the file at an http or https URL, which the orchestrator fetches.

    Without a ladder one is chosen that never upscales. `max_price` is in wei; `webhook` is a URL that is told of
    each state; `bucket` is a presigned POST by which all that is made is written. Raises ValueError for what is no
    such request.
    """
    return TranscodeRequest(
        kind="transcode",
        input=_input(source),
        ladder=tuple(ladder) if ladder else None,
        max_price=max_price,
        webhook=WebhookTarget(url=webhook) if webhook else None,
        output=OutputRequest(container=container, upload=bucket or {}),
    )


def batch_inference(
    source: str,
    model: str,
    *,
    version: str | None = None,
    kind: BatchFormat | None = None,
    outputs: Sequence[str] = (),
    max_price: int | None = None,
    webhook: str | None = None,
) -> BatchRequest:
    """A run of a model for each row of an uploaded file, or of the file at a URL. Without `outputs`, all are wanted.

    `kind` is told from the content if it is not given. Raises ValueError for what is no such request.
    """
    return BatchRequest(
        kind="batch_inference",
        model=model,
        version=version,
        input=_input(source),
        format=kind,
        outputs=tuple(outputs) or None,
        max_price=max_price,
        webhook=WebhookTarget(url=webhook) if webhook else None,
    )


def _input(source: str) -> JobInput:
    return UrlInput(url=source) if "://" in source else ArtifactInput(artifact=source)
