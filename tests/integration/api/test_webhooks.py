"""Webhooks to receivers that are real, and not always well."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.lifecycle import Assigned
from tandem.client import TandemClient
from tandem.client.webhooks import verify
from tandem.protocol.api import WebhookEvent
from tandem.protocol.errors import NotFound
from tandem.protocol.media import Source
from tandem.protocol.webhooks import DeliveryStatus
from tests.conformance.store.samples import MEDIA
from tests.fixtures.api import NODE, Api, Json, run_api
from tests.fixtures.origin import Origin, answer, redirect, run_origin
from tests.integration.api.test_cli import tandem

OK = answer(b"thanks")


@pytest.fixture
async def hook() -> AsyncIterator[Origin]:
    async with run_origin() as running:
        running.pages["/hook"] = OK
        yield running


async def secret_of(api: Api) -> str:
    status, body = await api.call("POST", "/v1/webhook/secret")
    assert status == 201
    return str(body["secret"])


async def transcode(api: Api) -> Json:
    """Of a file that needs no probe."""
    artifact = await api.upload(b"video")
    await api.store.save_media(artifact, Source(media=MEDIA))
    return {"kind": "transcode", "input": {"artifact": artifact}}


async def submit(api: Api, url: str | None, **headers: Any) -> str:
    request = await transcode(api) | ({"webhook": {"url": url}} if url else {})
    status, body = await api.call("POST", "/v1/jobs", json=request, **headers)
    assert status == 201, body
    return str(body["id"])


def headers(head: str) -> Mapping[str, str]:
    lines = (line.partition(": ") for line in head.split("\r\n")[1:])
    return {name: value for name, _, value in lines if name}


async def received(hook: Origin, count: int) -> list[tuple[Mapping[str, str], bytes]]:
    """So many webhooks, in the order of their arrival."""
    async with asyncio.timeout(10):
        async with hook.news:
            await hook.news.wait_for(lambda: len(hook.bodies) >= count)
    return [(headers(head), body) for head, body in hook.sent]


async def settled(api: Api, count: int, status: DeliveryStatus, **more: Any) -> list[Json]:
    """Deliveries, newest first, once so many have the status."""
    async with asyncio.timeout(10):
        while True:
            _, body = await api.call("GET", "/v1/webhook/deliveries", params={"status": status}, **more)
            if len(body["deliveries"]) >= count:
                return list(body["deliveries"])
            await asyncio.sleep(0.01)


async def events(hook: Origin, secret: str, count: int) -> list[WebhookEvent]:
    return [verify(body, head, secret) for head, body in await received(hook, count)]


async def test_each_state_is_told_in_order_and_signed(api: Api, hook: Origin) -> None:
    secret = await secret_of(api)
    job = await submit(api, hook.url("/hook"))
    await api.assign(job)
    await api.call("DELETE", f"/v1/jobs/{job}")
    found = await events(hook, secret, 3)
    assert [event.type for event in found] == ["job.queued", "job.running", "job.cancelled"]
    assert [event.id for event in found] == [f"evt_{job[4:]}_{number}" for number in (1, 2, 3)]
    assert {event.data.id for event in found} == {job}
    async with TandemClient(api.url) as client:
        assert found[-1].data == await client.job(job)
    head = headers(hook.heads[0])
    assert hook.heads[0].startswith("POST /hook HTTP/1.1\r\n")
    assert head["Content-Type"] == "application/json"
    assert head["webhook-id"] == found[0].id


async def test_what_does_not_arrive_is_sent_again_and_the_next_waits_for_it(api: Api, hook: Origin) -> None:
    secret = await secret_of(api)
    hook.scripts["/hook"] = [answer(b"", status="500 Broken"), answer(b"", length=7, status="503 No")]
    job = await submit(api, hook.url("/hook"))
    await api.assign(job)
    found = await events(hook, secret, 4)
    assert [event.type for event in found] == ["job.queued"] * 3 + ["job.running"]
    assert len({event.id for event in found[:3]}) == 1
    delivered = await settled(api, 2, DeliveryStatus.DELIVERED)
    assert [(each["type"], each["tries"]) for each in delivered] == [("job.running", 1), ("job.queued", 3)]


async def test_one_that_is_given_up_can_be_asked_for_again(tmp_path: Path, hook: Origin) -> None:
    async with run_api(tmp_path, give_up=0.01) as api:
        await give_up_and_redeliver(api, hook)


async def give_up_and_redeliver(api: Api, hook: Origin) -> None:
    secret = await secret_of(api)
    hook.pages["/hook"] = redirect("/elsewhere")
    await submit(api, hook.url("/hook"))
    (failed,) = await settled(api, 1, DeliveryStatus.FAILED)
    assert failed["error"] == "expected HTTP 2xx, got HTTP 302"
    tries = len(hook.heads)
    assert tries == failed["tries"] == 1
    hook.pages["/hook"] = OK
    listed = await tandem(api, "webhooks", "list", "--status", "failed")
    assert failed["id"] in listed.stdout
    again = await tandem(api, "webhooks", "redeliver", "--failed", "--json")
    assert [each["id"] for each in json.loads(again.stdout)["deliveries"]] == [failed["id"]]
    assert (await events(hook, secret, tries + 1))[-1].id == failed["id"]
    await settled(api, 1, DeliveryStatus.DELIVERED)
    assert (await tandem(api, "webhooks", "redeliver", failed["id"])).exit_code == 0
    await received(hook, tries + 2)
    assert (await tandem(api, "webhooks", "redeliver", "evt_x")).exit_code == 3
    assert (await tandem(api, "webhooks", "redeliver")).exit_code == 2


async def test_410_ends_it(api: Api, hook: Origin) -> None:
    await api.call("PUT", "/v1/webhook", json={"url": hook.url("/hook")})
    hook.pages["/hook"] = answer(b"", status="410 Gone")
    job = await submit(api, None)
    assert [each["tries"] for each in await settled(api, 1, DeliveryStatus.FAILED)] == [1]
    await api.assign(job)
    assert (await api.call("GET", "/v1/webhook"))[1]["url"] is None
    await submit(api, None)
    assert len((await api.call("GET", "/v1/webhook/deliveries"))[1]["deliveries"]) == 1
    assert len(hook.heads) == 1


async def test_a_dead_receiver_holds_up_nobody_else(api: Api, hook: Origin) -> None:
    secret = await secret_of(api)
    async with run_origin() as dead:
        silent = asyncio.Event()

        async def nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            silent.set()
            await asyncio.Event().wait()

        dead.pages["/"] = nothing
        for _ in range(4):
            await submit(api, dead.url("/"))
        await silent.wait()
        job = await submit(api, hook.url("/hook"))
        (event,) = await events(hook, secret, 1)
        assert event.data.id == job
        assert len(dead.heads) == 2, "no more than per endpoint"


async def test_a_key_has_a_webhook_and_a_secret_of_its_own(api: Api, hook: Origin) -> None:
    key = (await api.keys.create("mine"))[1]
    async with TandemClient(api.url, key) as client:
        with pytest.raises(NotFound):
            await client._http.call("GET", "/v1/webhook", WebhookEvent)
        first = await client.set_webhook(hook.url("/hook"))
        assert first.secret
        assert (await client.set_webhook(hook.url("/hook"))).secret is None
        second = await client.rotate_webhook_secret()
        job = await submit(api, None, headers={"Authorization": f"Bearer {key}"})
        for secret in (first.secret, second.secret or ""):
            (event,) = await events(hook, secret, 1)
            assert event.data.id == job
        await settled(api, 1, DeliveryStatus.DELIVERED, headers={"Authorization": f"Bearer {key}"})
        page = await client.deliveries(job=job)
        assert [each.type for each in page.deliveries] == ["job.queued"]
        again = await client.redeliver(page.deliveries[0].id)
        assert again.id == event.id
    await submit(api, None)
    await received(hook, 2)
    assert (await api.call("GET", "/v1/webhook/deliveries"))[1]["deliveries"] == []
    status, _ = await api.call("POST", f"/v1/webhook/deliveries/{event.id}/redelivery")
    assert status == 404, "it is another key's"


async def test_of_first_settings_at_the_same_time_one_gets_the_secret(api: Api, hook: Origin) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(api.call("PUT", "/v1/webhook", json={"url": hook.url("/")})) for _ in range(8)]
    answers = [each.result() for each in asked]
    secrets = [body["secret"] for _, body in answers if body["secret"]]
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]
    webhook = await api.store.webhook("local")
    assert webhook is not None
    assert secrets == [webhook.secret]


async def test_a_new_secret_and_a_new_url_at_the_same_time_are_both_kept(api: Api, hook: Origin) -> None:
    await secret_of(api)
    for _ in range(4):
        await api.call("PUT", "/v1/webhook", json={"url": None})
        async with asyncio.TaskGroup() as group:
            made = group.create_task(secret_of(api))
            group.create_task(api.call("PUT", "/v1/webhook", json={"url": hook.url("/hook")}))
        webhook = await api.store.webhook("local")
        assert webhook is not None
        assert (webhook.secret, webhook.url) == (made.result(), hook.url("/hook"))


async def test_the_command_sets_it_and_makes_secrets(api: Api, hook: Origin) -> None:
    shown = await tandem(api, "webhooks", "set", hook.url("/hook"))
    assert "whsec_" in shown.stdout
    assert (await tandem(api, "webhooks", "secret")).stdout.startswith("whsec_")
    assert "no URL but their own" in (await tandem(api, "webhooks", "set", "--none")).stdout
    assert (await tandem(api, "webhooks", "set")).exit_code == 2
    assert (await tandem(api, "webhooks", "set", "http://10.0.0.1/")).exit_code == 3


WRONG: list[tuple[Json, int, str]] = [
    ({"url": "http://127.0.0.2/"}, 400, "url_forbidden"),
    ({"url": "ftp://x/"}, 400, "invalid_request"),
    ({"url": "http://u:p@x/"}, 400, "invalid_request"),
    ({}, 400, "invalid_request"),
]


async def test_a_wrong_webhook_is_refused(api: Api, hook: Origin) -> None:
    request = await transcode(api)
    status, body = await api.call("POST", "/v1/jobs", json=request | {"webhook": {"url": hook.url("/hook")}})
    assert (status, body["code"]) == (409, "conflict")
    assert "tandem webhooks secret" in body["detail"]
    await secret_of(api)
    for webhook, expected, code in WRONG:
        for method, path, sent in (
            ("POST", "/v1/jobs", request | {"webhook": webhook}),
            ("PUT", "/v1/webhook", webhook),
        ):
            status, body = await api.call(method, path, json=sent)
            assert (status, body["code"]) == (expected, code)
    status, body = await api.call("GET", "/v1/webhook/deliveries?after=x")
    assert (status, body["code"]) == (400, "invalid_request")
    assert (await api.call("GET", "/v1/jobs"))[1]["jobs"] == []


async def test_what_a_dead_process_left_is_sent_by_the_next(tmp_path: Path, hook: Origin) -> None:
    """The state is committed and nobody was told of it: as after SIGKILL between the two."""
    async with run_api(tmp_path, deliver=False) as api:
        secret = await secret_of(api)
        job = await submit(api, hook.url("/hook"))
        await api.apply(Assigned(f"{job}.0", NODE, 5, 60), job)
    assert hook.heads == []
    async with run_api(tmp_path):
        assert [event.type for event in await events(hook, secret, 2)] == ["job.queued", "job.running"]
