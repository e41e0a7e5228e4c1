"""What nodes fetch and put by signed URLs."""

import io

from orchestrator.core.lifecycle import Cancelled
from tandem.protocol.ids import AttemptRef
from tests.fixtures.api import Api, Json


async def running(api: Api, clip: bytes) -> AttemptRef:
    artifact = await api.upload(clip, "video/mp4")
    _, job = await api.call("POST", "/v1/jobs", json={"kind": "transcode", "input": {"artifact": artifact}})
    return await api.assign(job["id"])


async def put(api: Api, url: str, data: bytes = b"rendition") -> tuple[int, Json]:
    return await api.call("PUT", url.removeprefix("http://orchestrator"), data=io.BytesIO(data))


async def test_a_node_reads_what_it_was_given_a_url_for(api: Api) -> None:
    path = api.signer.download(await api.upload(b"source"), api.clock.now() + 60).removeprefix("http://orchestrator")
    async with api.http.get(api.url + path, headers={"Range": "bytes=2-"}) as response:
        assert (response.status, await response.read()) == (206, b"urce")
    async with api.http.head(api.url + path) as response:
        assert response.status == 200
    api.clock.advance(61)
    status, body = await api.call("GET", path)
    assert (status, body["code"]) == (403, "forbidden")


async def test_without_a_signature_there_is_nothing(api: Api, clip: bytes) -> None:
    ref = await running(api, clip)
    artifact = await api.upload(b"source")
    for method, path in [
        ("GET", f"/v1/node/artifacts/{artifact}"),
        ("GET", f"/v1/node/artifacts/{artifact}?expires=1&signature=00"),
        ("PUT", f"/v1/node/attempts/{ref.task}/{ref.number}/outputs/120p?limit=5"),
    ]:
        assert (await api.call(method, path))[0] == 403


async def test_a_rendition_is_put_while_the_attempt_runs(api: Api, clip: bytes) -> None:
    ref = await running(api, clip)
    status, body = await put(api, api.signer.upload(ref, "120p", 100, api.clock.now() + 60))
    assert (status, body["size"], body["media_type"]) == (201, 9, "video/mp4")
    await api.apply(Cancelled(), ref.task.partition(".")[0])
    status, body = await put(api, api.signer.upload(ref, "120p", 100, api.clock.now() + 60), b"late")
    assert (status, body["code"]) == (409, "stale_attempt")


async def test_a_node_does_not_send_ever_other_content(api: Api, clip: bytes) -> None:
    ref = await running(api, clip)
    url = api.signer.upload(ref, "120p", 100, api.clock.now() + 60)
    found = [(await put(api, url, b"%d" % number))[0] for number in range(33)]
    assert found == [201] * 32 + [400]


async def test_an_attempt_that_never_was_is_stale(api: Api, clip: bytes) -> None:
    ref = await running(api, clip)
    status, body = await put(
        api, api.signer.upload(AttemptRef(task=ref.task, number=2), "120p", 100, api.clock.now() + 60)
    )
    assert (status, body["code"]) == (409, "stale_attempt")


async def test_a_rendition_over_the_signed_bound_leaves_nothing(api: Api, clip: bytes) -> None:
    ref = await running(api, clip)
    before = api.files()
    status, body = await put(api, api.signer.upload(ref, "120p", 8, api.clock.now() + 60))
    assert (status, body["code"]) == (413, "too_large")
    assert api.files() == before


async def test_a_rendition_that_was_not_asked_for_is_refused(api: Api, clip: bytes) -> None:
    status, body = await put(api, api.signer.upload(await running(api, clip), "999p", 100, api.clock.now() + 60))
    assert (status, body["code"]) == (404, "not_found")
