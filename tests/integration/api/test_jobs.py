"""Quotes and jobs over HTTP."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.lifecycle import Broken
from orchestrator.core.records import Failure
from orchestrator.core.scheduling import NodeState
from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.media import MediaInfo, Source, VideoStream
from tandem.protocol.messages import Offer
from tandem.protocol.outputs import FileResult, InferenceOutput, TranscodeOutput
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures.api import DIGITS, NODE, PRICES, Api, Json
from tests.fixtures.media import ffmpeg

UNKNOWN = "sha256:" + "0" * 64


async def transcode(api: Api, clip: bytes, **more: Any) -> dict[str, Any]:
    return {"kind": "transcode", "input": {"artifact": await api.upload(clip, "video/mp4")}, **more}


async def inference(api: Api) -> dict[str, Any]:
    artifact = await api.upload(DIGITS.read_bytes())
    await api.call("POST", "/v1/models", json={"name": "digits", "artifact": artifact})
    return {"kind": "inference", "model": "digits", "inputs": [tensor()]}


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [1, 64], "datatype": "FP32", "data": [0.5] * 64, **changes}


async def submit(api: Api, request: Json, **arguments: Any) -> Json:
    status, body = await api.call("POST", "/v1/jobs", json=request, **arguments)
    assert status == 201, body
    return body


async def test_a_transcode_is_quoted_and_taken_with_a_default_ladder(api: Api, clip: bytes) -> None:
    request = await transcode(api, clip)
    status, quote = await api.call("POST", "/v1/quotes", json=request)
    price = 160 * 120 * 10 * 10**9 // 10**6
    assert (status, quote["kind"], quote["price"]) == (200, "transcode", str(price))
    assert [(each["name"], each["width"], each["height"]) for each in quote["ladder"]] == [("120p", 160, 120)]
    assert api.wakes.count == 0

    job = await submit(api, request)
    assert job["state"] == "queued"
    assert job["price"] == {"quoted": str(price), "charged": "0"}
    assert job["request"]["input"] == request["input"]
    assert job["result"] is None
    assert job["created_at"].endswith("Z")
    assert api.wakes.count == 1
    assert await api.call("GET", f"/v1/jobs/{job['id']}") == (200, job)


async def test_a_transcode_ends_with_renditions_as_they_were_measured(api: Api, clip: bytes) -> None:
    job = (await submit(api, await transcode(api, clip, ladder=[{"height": 96, "name": "small"}])))["id"]
    ref = await api.assign(job, price=7)
    rendition = FileResult(name="small", artifact=await api.upload(b"small", "video/mp4"), size=5)
    video = VideoStream(codec="h264", width=128, height=96, frame_rate=(10, 1), frames=10)
    await api.store.save_media(
        rendition.artifact, Source(media=MediaInfo(format="mp4", duration_us=10**6, video=video))
    )
    await api.finish(job, ref, TranscodeOutput(files=(rendition,)))

    _, body = await api.call("GET", f"/v1/jobs/{job}")
    assert (body["state"], body["progress"]["percent"], body["price"]["charged"]) == ("succeeded", 100, "7")
    (found,) = body["result"]["renditions"]
    assert (found["name"], found["width"], found["height"], found["frames"]) == ("small", 128, 96, 10)
    assert found["bitrate"] == 40
    async with api.http.get(api.url + found["url"]) as response:
        assert await response.read() == b"small"
    assert [(each["number"], each["node"], each["state"]) for each in body["attempts"]] == [(1, NODE, "accepted")]


async def test_an_inference_ends_with_its_outputs(api: Api) -> None:
    job = await submit(api, await inference(api))
    assert job["request"]["inputs"] == [{"name": "image", "shape": [1, 64], "datatype": "FP32"}]
    ref = await api.assign(job["id"])
    label = Tensor(name="label", datatype=Datatype.INT64, shape=(1,), data=(4).to_bytes(8, "little"))
    output = InferenceOutput(outputs=(label.meta,), provider="CPUExecutionProvider")
    await api.finish(job["id"], ref, output, (label,))
    _, body = await api.call("GET", f"/v1/jobs/{job['id']}")
    assert body["result"] == {
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [1], "data": [4]}],
        "provider": "CPUExecutionProvider",
    }


async def test_a_failed_job_tells_why(api: Api) -> None:
    job = (await submit(api, await inference(api)))["id"]
    failure = Failure("execution_failed", "no such operator", retryable=False)
    state = "queued"
    while state == "queued":
        ref = await api.assign(job)
        await api.apply(Broken(ref, NODE, failure), job)
        _, body = await api.call("GET", f"/v1/jobs/{job}")
        state = body["state"]
    assert state == "failed"
    assert body["error"]["type"].startswith("urn:tandem:error:")
    assert body["attempts"][0]["error"]["detail"] == "no such operator"
    assert body["price"]["charged"] == "0"


LADDERS: list[tuple[Any, str]] = [
    ([{"height": 1080}], "never upscaled"),
    ([{"height": 97}], "even"),
    ([{"height": 96}, {"height": 96}], "name"),
    ([], "ladder: "),
    ([{"height": 1}], "ladder.0.height: "),
    ([{"height": 96, "name": "../x"}], "ladder.0.name: "),
    ([{"height": 96, "video": {"codec": "mpeg2"}}], "ladder.0.video.codec: "),
    ([{"height": 96, "video": {"bitrate": -1}}], "ladder.0.video.bitrate: "),
    ([{"height": 96, "filter": "x"}], "ladder.0.filter: "),
]


async def test_a_wrong_ladder_is_refused(api: Api, clip: bytes) -> None:
    request = await transcode(api, clip)
    for ladder, detail in LADDERS:
        for path in ("/v1/quotes", "/v1/jobs"):
            status, body = await api.call("POST", path, json=request | {"ladder": ladder})
            assert (status, body["code"]) == (400, "invalid_ladder")
            assert detail in body["detail"]
            assert body["detail"].count("ladder") <= 1, "what follows from another problem is not told"
    assert (await api.call("GET", "/v1/jobs"))[1]["jobs"] == []


TENSORS: list[tuple[list[Any], str]] = [
    ([tensor(shape=[1, 63], data=[0] * 63)], "expected shape"),
    ([tensor(data=[0] * 63)], "in place of 64 elements"),
    ([tensor(datatype="INT64", data=[0] * 64)], "expected datatype"),
    ([tensor(data=["a"] * 64)], "expected elements of FP32"),
    ([tensor(name="picture")], "expected the tensors ['image']"),
    ([tensor(), tensor()], "each once"),
    ([tensor(datatype="FP8")], "inputs.0.datatype: "),
    ([tensor(shape=[-1, 64])], "inputs.0.shape.0: "),
    ([{"name": "image"}], "inputs.0.data: "),
    ([], "inputs: "),
]


async def test_a_wrong_tensor_is_refused(api: Api) -> None:
    request = await inference(api)
    for inputs, detail in TENSORS:
        status, body = await api.call("POST", "/v1/jobs", json=request | {"inputs": inputs})
        assert (status, body["code"]) == (400, "invalid_tensor")
        assert detail in body["detail"]
    assert (await api.call("GET", "/v1/jobs"))[1]["jobs"] == []


NOT_REQUESTS = [
    (b"", "body: "),
    (b"{", "body: "),
    (b"\xff\xfe", "body: "),
    (b"[]", "body: "),
    (b"{}", "kind"),
    (b'{"kind": "mine"}', "kind"),
    (b'{"kind": "transcode"}', "input: "),
    (b'{"kind": "transcode", "input": {"artifact": "../etc"}}', "input.artifact: "),
    (b'{"kind": "transcode", "input": {"url": "file:///etc/passwd"}}', "input.url: "),
    (b'{"kind": "transcode", "input": {"url": "http://me:pw@x/"}}', "input.url: "),
    (b'{"kind": "transcode", "input": {"url": "http://x/", "artifact": "y"}}', "input.artifact: "),
    (b"[" * 10_000, "body: "),
]


async def test_what_is_not_a_request_is_refused(api: Api) -> None:
    for raw, detail in NOT_REQUESTS:
        status, body = await api.call("POST", "/v1/jobs", data=raw)
        assert (status, body["code"]) == (400, "invalid_request")
        assert detail in body["detail"]


async def test_an_unknown_artifact_or_model_is_404(api: Api) -> None:
    for request in (
        {"kind": "transcode", "input": {"artifact": UNKNOWN}},
        {"kind": "inference", "model": "nobody", "inputs": [tensor()]},
    ):
        status, body = await api.call("POST", "/v1/jobs", json=request)
        assert (status, body["code"]) == (404, "not_found")


async def test_an_unreadable_upload_is_refused(api: Api) -> None:
    status, body = await api.call("POST", "/v1/jobs", json=await transcode(api, b"not a video" * 100))
    assert (status, body["code"]) == (400, "unreadable_media")
    assert len(api.files()) == 1


async def test_a_body_over_the_limit_is_refused(api: Api) -> None:
    status, body = await api.call("POST", "/v1/jobs", data=b" " * (2**16 + 1))
    assert (status, body["code"]) == (413, "too_large")


async def test_the_same_idempotency_key_gives_the_same_job(api: Api, clip: bytes) -> None:
    request, headers = await transcode(api, clip), {"Idempotency-Key": "once"}
    async with asyncio.TaskGroup() as together:
        calls = [together.create_task(submit(api, request, headers=headers)) for _ in range(4)]
    assert len({call.result()["id"] for call in calls}) == 1
    status, body = await api.call("POST", "/v1/jobs", json=request | {"ladder": [{"height": 96}]}, headers=headers)
    assert (status, body["code"]) == (422, "idempotency_conflict")
    somebody = await submit(api, request, headers=headers | await api.bearer())
    assert somebody["id"] != calls[0].result()["id"]


async def test_a_repeat_is_the_first_job_whatever_has_become_of_its_model(api: Api) -> None:
    request, headers = await inference(api), {"Idempotency-Key": "once"}
    batch = {"kind": "batch_inference", "model": "digits", "input": {"artifact": await api.upload(b"{}")}}
    jobs = [(each, headers | {"Idempotency-Key": str(each["kind"])}) for each in (request, batch)]
    first = [(await submit(api, each, headers=key))["id"] for each, key in jobs]
    model = (await api.models.all("local"))[0].artifact
    assert (await api.call("POST", "/v1/models", json={"name": "digits", "version": "2", "artifact": model}))[0] == 201
    assert [(await submit(api, each, headers=key))["id"] for each, key in jobs] == first
    for version in ("1", "2"):
        async with api.http.delete(f"{api.url}/v1/models/digits/versions/{version}") as response:
            assert response.status == 204
    assert [(await submit(api, each, headers=key))["id"] for each, key in jobs] == first


async def test_a_useless_idempotency_key_is_refused(api: Api) -> None:
    for key in ("", "x" * 256):
        status, body = await api.call("POST", "/v1/jobs", data=b"{}", headers={"Idempotency-Key": key})
        assert (status, body["code"]) == (400, "invalid_request")
        assert "Idempotency-Key" in body["detail"]


async def test_jobs_come_in_pages_newest_first(api: Api, clip: bytes) -> None:
    request = await transcode(api, clip)
    made = [(await submit(api, request))["id"] for _ in range(5)]
    await api.call("DELETE", f"/v1/jobs/{made[0]}")
    seen, query = [], "?limit=2"
    while True:
        _, page = await api.call("GET", f"/v1/jobs{query}")
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        query = f"?limit=2&after={page['next']}"
    assert sorted(seen) == sorted(made)
    assert seen[-1] == made[0]
    _, cancelled = await api.call("GET", "/v1/jobs?state=cancelled")
    assert [job["id"] for job in cancelled["jobs"]] == [made[0]]


@pytest.mark.parametrize("query", ["limit=0", "limit=many", "state=lost", "color=red"])
async def test_a_wrong_query_names_the_parameter(api: Api, query: str) -> None:
    status, body = await api.call("GET", f"/v1/jobs?{query}")
    assert (status, body["code"]) == (400, "invalid_request")
    assert body["detail"].startswith(query.split("=", maxsplit=1)[0])


async def test_cancelling_twice_is_harmless_and_too_late_is_a_conflict(api: Api, clip: bytes) -> None:
    request = await transcode(api, clip)
    job = (await submit(api, request))["id"]
    for _ in range(2):
        status, body = await api.call("DELETE", f"/v1/jobs/{job}")
        assert (status, body["state"]) == (200, "cancelled")
        assert body["finished_at"] is not None
    done = (await submit(api, request))["id"]
    rendition = FileResult(name="120p", artifact=await api.upload(b"x"), size=1)
    await api.finish(done, await api.assign(done), TranscodeOutput(files=(rendition,)))
    status, body = await api.call("DELETE", f"/v1/jobs/{done}")
    assert (status, body["code"]) == (409, "conflict")


async def test_a_failed_job_is_tried_again_and_keeps_what_is_done(api: Api, clip: bytes) -> None:
    ladder = [{"height": 96}, {"height": 64}]
    job = (await submit(api, await transcode(api, clip) | {"ladder": ladder}))["id"]
    status, body = await api.call("POST", f"/v1/jobs/{job}/retry")
    assert (status, body["code"]) == (409, "conflict")
    await api.fail(job)
    assert (await api.call("GET", f"/v1/jobs/{job}"))[1]["state"] == "failed"
    status, body = await api.call("POST", f"/v1/jobs/{job}/retry")
    assert (status, body["state"], body["error"], body["finished_at"]) == (200, "queued", None, None)
    tasks = (await api.store.job(job)).tasks
    assert [(task.state, task.work.names) for task in tasks if isinstance(task.work, TranscodeWork)] == [
        ("cancelled", ("96p", "64p")),
        ("waiting", ("96p",)),
        ("waiting", ("64p",)),
    ]
    for index, name in ((1, "96p"), (2, "64p")):
        file = FileResult(name=name, artifact=await api.upload(name.encode()), size=3)
        await api.finish(job, await api.assign(job, index=index), TranscodeOutput(files=(file,)))
    _, body = await api.call("GET", f"/v1/jobs/{job}")
    assert body["state"] == "succeeded"
    assert [each["name"] for each in body["result"]["renditions"]] == ["96p", "64p"]


async def test_without_its_files_a_job_is_not_tried_again_nor_its_results_read(api: Api, clip: bytes) -> None:
    done, failed = [
        (await submit(api, await transcode(api, clip) | {"ladder": [{"height": 96}]}))["id"] for _ in range(2)
    ]
    rendition = FileResult(name="96p", artifact=await api.upload(b"rendition"), size=9)
    await api.finish(done, await api.assign(done), TranscodeOutput(files=(rendition,)))
    await api.fail(failed)
    folder = (await api.call("GET", f"/v1/jobs/{done}"))[1]["folder"]
    async with api.http.get(f"{api.url}{folder}96p.mp4") as response:
        assert (response.status, await response.read()) == (200, b"rendition")
    assert await api.store.let_go(0) == 2
    assert len(await api.store.delete_orphans(0)) == 2
    for method, path, expected in (("POST", f"/v1/jobs/{failed}/retry", 409), ("GET", f"{folder}96p.mp4", 404)):
        status, body = await api.call(method, path)
        assert status == expected, body
    assert "submit it anew" in (await api.call("POST", f"/v1/jobs/{failed}/retry"))[1]["detail"]
    assert (await api.call("GET", f"/v1/jobs/{done}"))[1]["state"] == "succeeded"


READABLE = ("events", "explanation", "files", "files/master.m3u8")


async def test_somebody_elses_job_does_not_exist(api: Api, clip: bytes) -> None:
    mine, theirs = await api.bearer("me"), await api.bearer("them")
    job = (await submit(api, await transcode(api, clip), headers=mine))["id"]
    for headers in (theirs, {}):
        for method, path in [
            ("GET", ""),
            ("DELETE", ""),
            *(("GET", f"/{each}") for each in READABLE),
            ("POST", "/retry"),
        ]:
            status, body = await api.call(method, f"/v1/jobs/{job}{path}", headers=headers)
            assert (status, body["code"]) == (404, "not_found")
        assert (await api.call("GET", "/v1/jobs", headers=headers))[1]["jobs"] == []
    assert (await api.call("GET", f"/v1/jobs/{job}", headers=mine))[0] == 200


async def test_an_unknown_job_is_404(api: Api) -> None:
    for job in ("job_" + "0" * 28, "nonsense", "job_%00"):
        status, body = await api.call("GET", f"/v1/jobs/{job}")
        assert (status, body["code"]) == (404, "not_found")


async def test_a_waiting_job_is_explained(api: Api) -> None:
    job = await submit(api, await inference(api))
    api.states.append(
        NodeState(NODE, Offer(capability=Capability(), capacity=Capacity(), prices=PRICES, max_unpaid=0), {})
    )
    status, explanation = await api.call("GET", f"/v1/jobs/{job['id']}/explanation")
    assert status == 200
    assert explanation["state"] == "queued"
    (waiting,) = explanation["waiting"]
    assert waiting["task"] == f"{job['id']}.0"
    (node,) = waiting["nodes"]
    assert node["node"] == NODE
    assert [each["obstacle"] for each in node["obstacles"]] == ["cannot", "exposure", "capacity"]
    await api.call("DELETE", f"/v1/jobs/{job['id']}")
    assert (await api.call("GET", f"/v1/jobs/{job['id']}/explanation"))[1] == {"state": "cancelled", "waiting": []}


async def test_a_watermark_is_an_image_that_was_uploaded(api: Api, clip: bytes, tmp_path: Path) -> None:
    logo = tmp_path / "logo.png"
    ffmpeg("-f", "lavfi", "-i", "color=white:size=20x20", "-frames:v", "1", logo)
    mark = {"artifact": await api.upload(logo.read_bytes(), "image/png"), "position": "top_left"}
    request = await transcode(api, clip, ladder=[{"height": 96}], watermark=mark)
    job = (await submit(api, request))["id"]
    (task,) = (await api.store.job(job)).tasks
    assert isinstance(task.work, TranscodeWork)
    assert task.work.picture.watermark is not None
    assert (task.work.picture.watermark.format, task.work.picture.watermark.scale) == ("png", 0.15)
    wrong = await transcode(api, clip, ladder=[{"height": 96}], watermark={"artifact": await api.upload(b"<svg/>")})
    status, body = await api.call("POST", "/v1/jobs", json=wrong)
    assert (status, body["code"]) == (400, "invalid_request")
    assert "PNG or JPEG" in body["detail"]
