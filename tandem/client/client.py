"""An orchestrator, as a submitter's program sees it."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote as escape

from pydantic import BaseModel, ValidationError

from tandem.client.files import ProgressCallback, holds, inside, read_file, write_verified
from tandem.client.http import Http
from tandem.client.inference import Inference, answer, batch_result, inference_request
from tandem.client.models import files_of
from tandem.client.requests import batch_inference
from tandem.client.updates import EventReader, JobUpdate
from tandem.clock import Clock, SystemClock
from tandem.protocol.api import (
    ArtifactView,
    DeliveryList,
    DeliveryView,
    Explanation,
    FileList,
    JobList,
    JobView,
    ModelChange,
    ModelList,
    ModelView,
    NewModel,
    NodeList,
    QuoteView,
    UsageList,
    WebhookSettings,
    WebhookView,
)
from tandem.protocol.errors import InvalidRequest, Unavailable
from tandem.protocol.jobs import AnyRequest, JobState
from tandem.protocol.models import MODEL_FILE, ModelSettings
from tandem.protocol.webhooks import DeliveryStatus
from tandem.protocol.wording import wording

_BACKOFF = (0.25, 0.5, 1.0, 2.0, 4.0)
_POLL_SECONDS = 1.0
_CHUNK_BYTES = 2**18


class TandemClient:
    """To be used as `async with`. Every method raises errors of `tandem.protocol.errors`.

    An orchestrator that does not answer is asked again for `patience` seconds where that is safe: submitting, watching.
    """

    def __init__(self, url: str, key: str | None = None, *, patience: float = 60.0, clock: Clock | None = None) -> None:
        self._url = url
        self._key = key
        self._patience = patience
        self._clock = clock or SystemClock()

    async def __aenter__(self) -> Self:
        self._http = Http(self._url, self._key)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    def at(self, path: str) -> str:
        """The URL of a path that the orchestrator gave, such as a job's folder."""
        return self._url.rstrip("/") + path

    async def upload(
        self,
        source: Path | AsyncIterator[bytes],
        media_type: str = "application/octet-stream",
        progress: ProgressCallback | None = None,
    ) -> ArtifactView:
        """Streams a file (or any bytes) up. `progress` is told of a file only."""
        headers = {"Content-Type": media_type}
        if isinstance(source, Path):
            headers["Content-Length"] = str((await asyncio.to_thread(source.stat)).st_size)
            source = read_file(source, progress)
        return await self._http.call("POST", "/v1/artifacts", ArtifactView, body=source, headers=headers)

    async def download(self, artifact_id: str, target: Path, progress: ProgressCallback | None = None) -> Path:
        """Streams an artifact into a file, which appears whole and verified or not at all."""
        async with self._http.open("GET", f"/v1/artifacts/{artifact_id}") as response:
            chunks = response.content.iter_chunked(_CHUNK_BYTES)
            await write_verified(aiter(chunks), artifact_id, target, response.content_length, progress)
        return target

    async def files(self, job_id: str) -> FileList:
        """What is in a job's folder by now."""
        return await self._http.call("GET", f"/v1/jobs/{escape(job_id)}/files", FileList)

    async def download_folder(self, job_id: str, target: Path, progress: ProgressCallback | None = None) -> list[Path]:
        """Streams the files of a job's folder into one here, each whole and verified; what is there already stays."""
        found = (await self.files(job_id)).files
        total, done, paths = sum(file.size for file in found), 0, []
        for file in found:
            path = inside(target, file.path)
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            if not await asyncio.to_thread(holds, path, file.artifact):
                await self.download(file.artifact, path)
            paths.append(path)
            done += file.size
            if progress is not None:
                progress(done, total)
        return paths

    async def quote(self, request: AnyRequest) -> QuoteView:
        return await self._http.call("POST", "/v1/quotes", QuoteView, **_json(request))

    async def submit(self, request: AnyRequest, idempotency_key: str | None = None) -> JobView:
        """Submits once, however often it has to be said: without a key from the caller it makes one up."""
        body = _json(request)
        body["headers"]["Idempotency-Key"] = idempotency_key or uuid.uuid4().hex
        waits = self._waits()
        while True:
            try:
                return await self._http.call("POST", "/v1/jobs", JobView, **body)
            except Unavailable as error:
                await self._wait_or_raise(waits, error)

    async def job(self, job_id: str) -> JobView:
        return await self._http.call("GET", f"/v1/jobs/{escape(job_id)}", JobView)

    async def explain(self, job_id: str) -> Explanation:
        """Why the job is waiting."""
        return await self._http.call("GET", f"/v1/jobs/{escape(job_id)}/explanation", Explanation)

    async def jobs(self, *, state: JobState | None = None, after: str | None = None, limit: int = 50) -> JobList:
        """One page, newest first; its `next` is the `after` of the following one."""
        query = {"state": state, "after": after, "limit": str(limit)}
        return await self._http.call("GET", "/v1/jobs", JobList, query=_given(query))

    async def cancel(self, job_id: str) -> JobView:
        return await self._http.call("DELETE", f"/v1/jobs/{escape(job_id)}", JobView)

    async def retry(self, job_id: str) -> JobView:
        """Has a failed transcode or batch tried again; what is done is kept. Raises Conflict unless it has failed."""
        return await self._http.call("POST", f"/v1/jobs/{escape(job_id)}/retry", JobView)

    async def watch(self, job_id: str) -> AsyncGenerator[JobUpdate, None]:
        """How the job stands, now and at each change, until it is over.

        A stream that breaks is opened again; between the two, and where streams never get through, the job is polled.
        """
        waits = self._waits()
        while True:
            with suppress(Unavailable):  # whether it is more than the stream that fails, polling shows
                async with aclosing(self._stream(job_id)) as updates:
                    async for update in updates:
                        yield update
                        if update.final:
                            return
            try:
                update = JobUpdate.of(await self.job(job_id))
            except Unavailable as error:
                await self._wait_or_raise(waits, error)
                continue
            waits = self._waits()
            yield update
            if update.final:
                return
            await self._clock.sleep(_POLL_SECONDS)

    async def wait(self, job_id: str) -> JobView:
        """The job once it is over, in whichever way."""
        async with aclosing(self.watch(job_id)) as updates:
            async for _ in updates:
                pass
        return await self.job(job_id)

    async def add_model(
        self,
        name: str,
        version: str,
        artifact: str,
        *,
        files: Mapping[str, str] | None = None,
        settings: ModelSettings | None = None,
        public: bool = False,
    ) -> ModelView:
        """Registers what was uploaded: an ONNX file, and by name the files of its external data."""
        try:
            request = NewModel(
                name=name,
                version=version,
                artifact=artifact,
                files=files or {},
                settings=settings or ModelSettings(),
                public=public,
            )
        except ValidationError as error:
            raise InvalidRequest(wording(error)) from error
        return await self._http.call("POST", "/v1/models", ModelView, **_json(request))

    async def upload_model(
        self,
        path: Path,
        name: str,
        version: str = "1",
        *,
        settings: ModelSettings | None = None,
        public: bool = False,
        progress: Callable[[str], ProgressCallback] | None = None,
    ) -> ModelView:
        """Uploads an ONNX file and the external data that it refers to, and registers it.

        `progress` is asked for a callback for each file, by its name. Raises InvalidModel if the file cannot be read,
        or if one that it refers to is not beside it.
        """
        artifacts = {
            each: (await self.upload(place, progress=progress(each) if progress else None)).id
            for each, place in (await asyncio.to_thread(files_of, path)).items()
        }
        artifact = artifacts.pop(MODEL_FILE)
        return await self.add_model(name, version, artifact, files=artifacts, settings=settings, public=public)

    async def change_model(self, name: str, version: str, change: ModelChange) -> ModelView:
        """Changes what is named in it; the rest stays, of the settings too."""
        body = json.dumps(change.model_dump(exclude_unset=True)).encode()
        headers = {"Content-Type": "application/json"}
        return await self._http.call("PATCH", _model_path(name, version), ModelView, body=body, headers=headers)

    async def unload_model(self, name: str, version: str) -> None:
        """Has all nodes let go of it; the next request, or its replicas, load it again."""
        async with self._http.open("POST", f"{_model_path(name, version)}/unload"):
            pass

    async def delete_model(self, name: str, version: str) -> None:
        """Jobs that use it go on to their end."""
        async with self._http.open("DELETE", _model_path(name, version)):
            pass

    async def models(self) -> tuple[ModelView, ...]:
        return (await self._http.call("GET", "/v1/models", ModelList)).models

    async def model(self, name: str, version: str | None = None) -> ModelView:
        """Without a version, the one that answers for the name."""
        if version is not None:
            return await self._http.call("GET", _model_path(name, version), ModelView)
        versions = (await self._http.call("GET", f"/v1/models/{escape(name)}", ModelList)).models
        return next(each for each in versions if each.answers)

    async def infer(self, model: str, inputs: Mapping[str, Sequence[Any]], version: str | None = None) -> Inference:
        """Runs a model on lists of values and waits for the answer; raises what the job failed of."""
        request = inference_request(await self.model(model, version), inputs)
        return answer(await self.wait((await self.submit(request)).id))

    async def infer_batch(self, model: str, source: Path, target: Path, version: str | None = None) -> JobView:
        """Runs a model on each row of a file (JSON Lines, .npz or Arrow IPC); the answers appear in `target`, in order.

        Raises what the job failed of. Rows that failed by themselves are counted in the result.
        """
        artifact = await self.upload(source)
        job = await self.wait((await self.submit(batch_inference(artifact.id, model, version=version))).id)
        await self.download(batch_result(job).artifact, target)
        return job

    async def nodes(self) -> NodeList:
        return await self._http.call("GET", "/v1/nodes", NodeList)

    async def usage(self, *, after: str | None = None, limit: int = 50) -> UsageList:
        """One page of what was used on line, by day and model; its `next` is the `after` of the following one."""
        return await self._http.call("GET", "/v1/usage", UsageList, query=_given({"after": after, "limit": limit}))

    async def set_webhook(self, url: str | None) -> WebhookView:
        """Has each state of jobs that name no webhook told at the URL. The first answer holds the secret."""
        return await self._http.call("PUT", "/v1/webhook", WebhookView, **_json(WebhookSettings(url=url)))

    async def rotate_webhook_secret(self) -> WebhookView:
        """A new secret, shown in this answer alone; the old one signs as well for a day."""
        return await self._http.call("POST", "/v1/webhook/secret", WebhookView)

    async def deliveries(
        self,
        *,
        job: str | None = None,
        status: DeliveryStatus | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> DeliveryList:
        """One page of what was sent to webhooks or is to be; its `next` is the `after` of the following one."""
        query = {"job": job, "status": status, "after": after, "limit": str(limit)}
        return await self._http.call("GET", "/v1/webhook/deliveries", DeliveryList, query=_given(query))

    async def redeliver(self, event_id: str) -> DeliveryView:
        """Has an event sent to its webhook once more."""
        return await self._http.call("POST", f"/v1/webhook/deliveries/{escape(event_id)}/redelivery", DeliveryView)

    async def _stream(self, job_id: str) -> AsyncGenerator[JobUpdate, None]:
        reader, update = EventReader(), JobUpdate(JobState.QUEUED)
        async with self._http.open("GET", f"/v1/jobs/{escape(job_id)}/events") as response:
            async for line in response.content:
                event = reader.feed(line.decode(errors="replace").rstrip("\r\n"))
                if event is not None:
                    update = update.after(*event)
                    yield update

    def _waits(self) -> "_Waits":
        return _Waits(self._clock.monotonic() + self._patience)

    async def _wait_or_raise(self, waits: "_Waits", error: Unavailable) -> None:
        if self._clock.monotonic() >= waits.until:
            raise error
        await self._clock.sleep(waits.next())


class _Waits:
    """Pauses between tries, growing, up to a moment."""

    def __init__(self, until: float) -> None:
        self.until = until
        self._count = 0

    def next(self) -> float:
        pause = _BACKOFF[min(self._count, len(_BACKOFF) - 1)]
        self._count += 1
        return pause


def _model_path(name: str, version: str) -> str:
    return f"/v1/models/{escape(name)}/versions/{escape(version)}"


def _given(query: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in query.items() if value is not None}


def _json(request: BaseModel) -> dict[str, Any]:
    # Not by pydantic, which would turn NaN and the infinities of a tensor into null.
    body = json.dumps(request.model_dump()).encode()
    return {"body": body, "headers": {"Content-Type": "application/json"}}
