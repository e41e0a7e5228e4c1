"""The table of routes: the router and the OpenAPI document are both made from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydantic import BaseModel, TypeAdapter

from orchestrator.web import artifacts, catalogue, folders, jobs, operation, stream, usage, webhooks
from orchestrator.web.call import Handler
from orchestrator.web.oip import handlers as oip
from tandem.protocol.api import (
    ArtifactView,
    DeliveryList,
    DeliveryView,
    Explanation,
    FileList,
    JobList,
    JobView,
    ModelList,
    ModelView,
    NodeList,
    QuoteView,
    UsageList,
    WebhookView,
)


class Access(Enum):
    """What lets a request in."""

    KEY = "an API key, or a loopback peer where the settings allow it"
    SIGNATURE = "a signed URL"
    PUBLIC = "nothing, or what the handler itself asks for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    handler: Handler
    summary: str
    access: Access = Access.KEY
    body: TypeAdapter[object] | str | None = None
    """The type of a JSON body, or a media type of raw bytes."""
    query: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Optional request headers that it heeds, with what they do."""
    answers: Mapping[int, type[BaseModel] | str] = field(default_factory=dict)
    """By status: the JSON that comes, or its media type."""
    errors: tuple[int, ...] = ()
    """Statuses of its problems, beyond those that every route has."""


_BYTES = "application/octet-stream"
_RANGE = {"Range": "One range of bytes.", "If-Range": "An ETag.", "If-None-Match": "ETags."}
_UPLOAD_ERRORS = (400, 408, 413, 503)

# TypeAdapter is invariant in its type.
_REQUEST: TypeAdapter[object] = jobs.REQUEST  # type: ignore[assignment]
_NEW_MODEL: TypeAdapter[object] = catalogue.NEW_MODEL  # type: ignore[assignment]
_MODEL_CHANGE: TypeAdapter[object] = catalogue.MODEL_CHANGE  # type: ignore[assignment]
_WEBHOOK: TypeAdapter[object] = webhooks.SETTINGS  # type: ignore[assignment]

_TENSORS = {
    "Inference-Header-Content-Length": "Bytes of JSON at the body's beginning, if tensors follow it as bytes.",
    "Content-Encoding": "`gzip` or `deflate`.",
}
_ANY = "application/json"


def _of_model(method: str, path: str, handler: Handler, summary: str, **more: Any) -> tuple[Route, Route]:
    """A path of a model, and the same of one of its versions."""
    more = {"answers": {200: _ANY}, "errors": (404,)} | more
    versions = "/v2/models/{model}/versions/{version}"
    return (
        Route(method=method, path=f"/v2/models/{{model}}{path}", handler=handler, summary=summary, **more),
        Route(method=method, path=f"{versions}{path}", handler=handler, summary=f"{summary} Of one version.", **more),
    )


_OPEN_INFERENCE: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/v2",
        handler=oip.server,
        summary="The server's name and the extensions of the Open Inference Protocol that it has.",
        access=Access.PUBLIC,
        answers={200: _ANY},
    ),
    Route(
        method="GET",
        path="/v2/health/live",
        handler=oip.live,
        summary="Whether the process turns.",
        access=Access.PUBLIC,
        answers={200: ""},
    ),
    Route(
        method="GET",
        path="/v2/health/ready",
        handler=oip.ready,
        summary="Whether requests can be taken.",
        access=Access.PUBLIC,
        answers={200: ""},
        errors=(503,),
    ),
    Route(
        method="GET",
        path="/v2/models/stats",
        handler=oip.all_stats,
        summary="Live counters of all models.",
        answers={200: _ANY},
    ),
    *_of_model("GET", "", oip.model, "What the model takes and gives."),
    *_of_model(
        "GET", "/ready", oip.model_ready, "Whether the model can be asked.", answers={200: ""}, errors=(404, 503)
    ),
    *_of_model("GET", "/config", oip.config, "How the model is served, as Triton's configuration."),
    *_of_model("GET", "/stats", oip.stats, "Live counters of the model."),
    *_of_model(
        "POST",
        "/infer",
        oip.infer,
        "Run the model: tensors in and out as JSON, or as bytes behind it.",
        body=_BYTES,
        headers=_TENSORS,
        answers={200: _BYTES},
        errors=(400, 404, 408, 413, 429, 503, 504),
    ),
    Route(
        method="POST",
        path="/v2/repository/index",
        handler=oip.repository_index,
        summary="All models, and whether they are warm.",
        body=_ANY,
        answers={200: _ANY},
        errors=(400, 413),
    ),
    Route(
        method="POST",
        path="/v2/repository/models/{model}/load",
        handler=oip.load,
        summary="Have a model loaded now.",
        body=_ANY,
        answers={200: _ANY},
        errors=(400, 404, 413, 429, 503),
    ),
    Route(
        method="POST",
        path="/v2/repository/models/{model}/unload",
        handler=oip.unload,
        summary="Have all nodes let go of your model.",
        body=_ANY,
        answers={200: _ANY},
        errors=(403, 404),
    ),
    *(
        Route(
            method=method,
            path="/v2/{rest:.+}",
            handler=oip.unsupported,
            summary="Extensions that are not served: shared memory, tracing, logging.",
            errors=(400, 404),
        )
        for method in ("GET", "POST")
    ),
)

ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/artifacts",
        handler=artifacts.upload,
        summary="Upload a file: the raw bytes as the body, its media type as Content-Type.",
        body=_BYTES,
        answers={201: ArtifactView},
        errors=_UPLOAD_ERRORS,
    ),
    Route(
        method="GET",
        path="/v1/artifacts/{id}",
        handler=artifacts.download,
        summary="The bytes of an artifact. Whoever has a key and knows the digest may read it.",
        headers=_RANGE,
        answers={200: _BYTES, 206: _BYTES, 304: ""},
        errors=(404, 416),
    ),
    Route(
        method="POST",
        path="/v1/quotes",
        handler=jobs.quote,
        summary="What a job would cost; nothing is submitted.",
        body=_REQUEST,
        answers={200: QuoteView},
        errors=(400, 404, 413, 503),
    ),
    Route(
        method="POST",
        path="/v1/jobs",
        handler=jobs.submit,
        summary="Submit a job.",
        body=_REQUEST,
        headers={"Idempotency-Key": "The same key again gives the job of the first time."},
        answers={201: JobView},
        errors=(400, 404, 409, 413, 422, 503),
    ),
    Route(
        method="GET",
        path="/v1/jobs",
        handler=jobs.page,
        summary="Your jobs, newest first.",
        query=jobs.PageQuery,
        answers={200: JobList},
        errors=(400,),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}",
        handler=jobs.show,
        summary="One job, with its attempts and its result.",
        answers={200: JobView},
        errors=(404,),
    ),
    Route(
        method="DELETE",
        path="/v1/jobs/{id}",
        handler=jobs.cancel,
        summary="Cancel a job; once more is harmless.",
        answers={200: JobView},
        errors=(404, 409),
    ),
    Route(
        method="POST",
        path="/v1/jobs/{id}/retry",
        handler=jobs.retry,
        summary="Try a failed transcode or batch again: what is done is kept, the rest is made by rendition or shard.",
        answers={200: JobView},
        errors=(404, 409),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}/explanation",
        handler=jobs.explain,
        summary="Why a job is waiting: each waiting task beside each connected node.",
        answers={200: Explanation},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}/files",
        handler=folders.listing,
        summary="What is in the job's folder by now.",
        answers={200: FileList},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}/files/{path:.+}",
        handler=folders.file,
        summary="A file of the job's folder, such as `master.m3u8`. Playlists grow while the job runs.",
        headers=_RANGE,
        answers={200: _BYTES, 206: _BYTES, 304: ""},
        errors=(404, 416),
    ),
    Route(
        method="OPTIONS",
        path="/v1/jobs/{id}/files/{path:.+}",
        handler=folders.preflight,
        summary="For browsers: what a page of another origin may ask for.",
        access=Access.PUBLIC,
        answers={204: ""},
    ),
    Route(
        method="GET",
        path="/v1/folders/{id}/{expires:[0-9]{1,12}}/{signature:[0-9a-f]{64}}/{path:.+}",
        handler=folders.signed_file,
        summary="The same, for players, which send no key: a job's `folder` and a path in it.",
        access=Access.SIGNATURE,
        headers=_RANGE,
        answers={200: _BYTES, 206: _BYTES, 304: ""},
        errors=(404, 416),
    ),
    Route(
        method="OPTIONS",
        path="/v1/folders/{id}/{expires:[0-9]{1,12}}/{signature:[0-9a-f]{64}}/{path:.+}",
        handler=folders.signed_preflight,
        summary="For browsers: what a page of another origin may ask for.",
        access=Access.PUBLIC,
        answers={204: ""},
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}/events",
        handler=stream.events,
        summary="State and progress as server-sent events (`state`, `progress`), until `end`.",
        answers={200: "text/event-stream"},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/webhook",
        handler=webhooks.show,
        summary="Where each state of your jobs is told, unless a job says otherwise.",
        answers={200: WebhookView},
        errors=(404,),
    ),
    Route(
        method="PUT",
        path="/v1/webhook",
        handler=webhooks.configure,
        summary="Say where each state of your jobs is told. The first time the answer holds the secret.",
        body=_WEBHOOK,
        answers={200: WebhookView, 201: WebhookView},
        errors=(400,),
    ),
    Route(
        method="POST",
        path="/v1/webhook/secret",
        handler=webhooks.rotate,
        summary="A new secret for webhooks, shown this once; the one before it signs as well for a day.",
        answers={201: WebhookView},
    ),
    Route(
        method="GET",
        path="/v1/webhook/deliveries",
        handler=webhooks.deliveries,
        summary="What was sent to webhooks, or is to be.",
        query=webhooks.DeliveryQuery,
        answers={200: DeliveryList},
        errors=(400,),
    ),
    Route(
        method="POST",
        path="/v1/webhook/deliveries/{id}/redelivery",
        handler=webhooks.redeliver,
        summary="Send an event to its webhook once more.",
        answers={202: DeliveryView},
        errors=(404,),
    ),
    Route(
        method="POST",
        path="/v1/models",
        handler=catalogue.add_model,
        summary="Register an uploaded ONNX artifact, with its external data, under a name and version.",
        body=_NEW_MODEL,
        answers={201: ModelView, 200: ModelView},
        errors=(400, 403, 404, 409, 413, 503),
    ),
    Route(
        method="GET",
        path="/v1/models",
        handler=catalogue.models,
        summary="The models that this key may use: its own, and public ones.",
        answers={200: ModelList},
    ),
    Route(
        method="GET",
        path="/v1/models/{name}",
        handler=catalogue.versions,
        summary="All versions of a model.",
        answers={200: ModelList},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/models/{name}/versions/{version}",
        handler=catalogue.model,
        summary="One version of a model.",
        answers={200: ModelView},
        errors=(404,),
    ),
    Route(
        method="PATCH",
        path="/v1/models/{name}/versions/{version}",
        handler=catalogue.change_model,
        summary="Change how a model is served, who may use it, or whether it answers for its name.",
        body=_MODEL_CHANGE,
        answers={200: ModelView},
        errors=(400, 403, 404, 409, 413),
    ),
    Route(
        method="DELETE",
        path="/v1/models/{name}/versions/{version}",
        handler=catalogue.delete_model,
        summary="Delete a version of a model; jobs that use it go on to their end.",
        answers={204: ""},
        errors=(403, 404),
    ),
    Route(
        method="POST",
        path="/v1/models/{name}/versions/{version}/unload",
        handler=catalogue.unload_model,
        summary="Have all nodes let go of a model; the next request, or its replicas, load it again.",
        answers={204: ""},
        errors=(403, 404),
    ),
    Route(
        method="GET",
        path="/v1/usage",
        handler=usage.page,
        summary="What you used on line, by day and model, the newest day first.",
        query=usage.UsageQuery,
        answers={200: UsageList},
        errors=(400,),
    ),
    Route(
        method="GET",
        path="/v1/nodes",
        handler=catalogue.nodes,
        summary="The nodes that are connected, what they offer and what they have earned.",
        answers={200: NodeList},
    ),
    Route(
        method="GET",
        path="/v1/node/artifacts/{id}",
        handler=artifacts.signed_download,
        summary="For nodes: the bytes of an artifact.",
        access=Access.SIGNATURE,
        headers=_RANGE,
        answers={200: _BYTES, 206: _BYTES, 304: ""},
        errors=(404, 416),
    ),
    Route(
        method="PUT",
        path=r"/v1/node/attempts/{task:job_[0-9a-f]{28}\.[0-9]{1,6}}/{number:[1-9][0-9]{0,8}}/outputs/{name}",
        handler=artifacts.signed_upload,
        summary="For nodes: put a rendition.",
        access=Access.SIGNATURE,
        body=_BYTES,
        answers={201: ArtifactView},
        errors=(*_UPLOAD_ERRORS, 404, 409),
    ),
    Route(
        method="GET",
        path="/healthz",
        handler=operation.health,
        summary="Whether the process turns.",
        access=Access.PUBLIC,
        answers={200: operation.Health},
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=operation.ready,
        summary="Whether jobs can be taken.",
        access=Access.PUBLIC,
        answers={200: operation.Health},
        errors=(503,),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=operation.metrics,
        summary="Metrics for Prometheus.",
        access=Access.PUBLIC,
        answers={200: "text/plain"},
    ),
    *_OPEN_INFERENCE,
)
