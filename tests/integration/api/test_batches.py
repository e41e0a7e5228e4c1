"""Batches over HTTP, with their shards done by hand."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.adapters.batches import ChildBatches
from orchestrator.core.lifecycle import Broken, Event
from orchestrator.core.records import Failure
from orchestrator.service.assembly import Assembly, Makers
from orchestrator.service.batches import BatchFiles
from tandem.clock import SystemClock
from tandem.protocol.capacity import Sandbox
from tandem.protocol.jobs import BatchWork, JobState, TaskState
from tandem.protocol.outputs import BatchOutput, FileResult
from tandem.protocol.rows import Row, pack_row, read_rows
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures.api import DIGITS, NODE, Api

ROWS = 3000


def line(number: int, size: int = 64) -> str:
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, size], "data": [number % 17] * size}
    return json.dumps({"id": f"image {number}", "inputs": [tensor]})


async def submit(api: Api, content: bytes, **more: Any) -> str:
    model = await api.upload(DIGITS.read_bytes())
    await api.call("POST", "/v1/models", json={"name": "digits", "artifact": model})
    request = {"kind": "batch_inference", "model": "digits", "input": {"artifact": await api.upload(content)}, **more}
    status, job = await api.call("POST", "/v1/jobs", json=request)
    assert (status, job["state"]) == (201, "preparing"), job
    return str(job["id"])


async def deliver(api: Api, job: str, index: int) -> None:
    """A shard, as a node would answer it: every label is the number of the image."""
    task = (await api.store.job(job)).tasks[index]
    assert isinstance(task.work, BatchWork)
    async with api.artifacts.local(task.work.source) as path:
        with path.open("rb") as file:
            file.seek(task.work.span[0])
            rows = [row for row in read_rows(file, task.work.span[1]) if row.fault is None]
    labels = (int(np.frombuffer(row.tensors[0].data, np.float32)[0]) for row in rows)
    tensors = (Tensor("label", Datatype.INT64, (1,), label.to_bytes(8, "little")) for label in labels)
    answers = b"".join(pack_row(Row((tensor,))) for tensor in tensors)
    ref = await api.assign(job, index=index)
    result = FileResult(name="rows", artifact=await api.upload(answers), size=len(answers))
    await api.finish(job, ref, BatchOutput(file=result, provider="CPUExecutionProvider"))


def assembly(api: Api, folder: Path) -> Assembly:
    rooms = ChildBatches(folder / "joining", sandbox=Sandbox.LIMITS, clock=SystemClock())
    makers: Any = Makers(None, BatchFiles(api.store, api.artifacts, rooms), None)  # type: ignore[arg-type]

    async def apply(job: str, event: Event) -> object:
        return await api.apply(event, job)

    return Assembly(api.store, api.artifacts, makers, apply, asyncio.Queue(), SystemClock())


async def test_a_batch_fails_at_a_shard_is_retried_and_put_together_after_a_kill(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line(n) for n in range(ROWS)]
    lines[7] = line(7, size=3)
    content = "\n".join(lines).encode()
    job = await submit(api, content, outputs=["label"])
    assert await api.next_job() == job
    tasks = (await api.store.job(job)).tasks
    assert len(tasks) > 1
    await deliver(api, job, 0)
    ref = await api.assign(job, index=1)
    for _ in range(2):
        await api.apply(Broken(ref, NODE, Failure("invalid_model", "no", retryable=False)), job)
        if (await api.store.job(job)).job.state is not JobState.FAILED:
            ref = await api.assign(job, index=1)
    _, view = await api.call("GET", f"/v1/jobs/{job}")
    assert (view["state"], view["result"]) == ("failed", None)

    status, view = await api.call("POST", f"/v1/jobs/{job}/retry")
    assert status == 200, view
    snapshot = await api.store.job(job)
    fresh = [n for n, task in enumerate(snapshot.tasks) if task.state is TaskState.WAITING]
    assert len(fresh) == len(tasks) - 1, "what is done is done"
    for index in reversed(fresh):
        await deliver(api, job, index)

    joining = assembly(api, tmp_path)

    class Killed(BaseException):
        pass

    async def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(joining, "_apply", dies)
        with pytest.raises(Killed):
            await joining.advance(job)
    before = {path.name for path in api.files()}
    await assembly(api, tmp_path).advance(job)
    assert {path.name for path in api.files()} == before, "what is the same has the same name"
    _, view = await api.call("GET", f"/v1/jobs/{job}")
    assert view["state"] == "succeeded", view["error"]
    assert (view["result"]["rows"], view["result"]["failed"], view["result"]["format"]) == (ROWS, 1, "jsonl")
    assert (view["progress"]["rows"], view["progress"]["rows_total"]) == (ROWS, ROWS)
    async with api.http.get(api.url + view["result"]["url"]) as response:
        answers = [json.loads(each) for each in (await response.text()).splitlines()]
    assert [each["id"] for each in answers] == [f"image {n}" for n in range(ROWS)]
    assert [each["outputs"][0]["data"] for n, each in enumerate(answers) if n != 7] == [
        [n % 17] for n in range(ROWS) if n != 7
    ]
    assert answers[7]["error"]["detail"].startswith("row 8: tensor 'image'")


async def test_a_quote_counts_rows_and_what_is_no_batch_is_refused(api: Api) -> None:
    model = await api.upload(DIGITS.read_bytes())
    await api.call("POST", "/v1/models", json={"name": "digits", "artifact": model})
    content = "\n".join(line(n) for n in range(3)).encode()
    request = {"kind": "batch_inference", "model": "digits", "input": {"artifact": await api.upload(content)}}
    status, quote = await api.call("POST", "/v1/quotes", json=request)
    assert (status, quote["rows"], quote["faulty_rows"], quote["tasks"]) == (200, 3, 0, 1)
    assert int(quote["price"]) > 0
    for changes, code in (
        ({"input": {"artifact": await api.upload(b"no rows")}}, "unreadable_batch"),
        ({"outputs": ["no such"]}, "invalid_tensor"),
        ({"model": "none"}, "not_found"),
        ({"max_price": "1"}, "price_exceeded"),
    ):
        _, refused = await api.call("POST", "/v1/quotes", json=request | changes)
        assert refused["code"] == code, refused
