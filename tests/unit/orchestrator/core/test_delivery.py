"""Webhooks after an answer, and what is sent."""

import json
from dataclasses import replace

import pytest

from orchestrator.core.delivery import MAX_BODY, Answer, DeliveryPolicy, after_answer, body_of, headers_of
from orchestrator.core.records import DeliveryRecord, JobSnapshot, WebhookRecord
from orchestrator.core.views import job_view
from tandem.client.webhooks import verify
from tandem.protocol.api import AttemptView
from tandem.protocol.errors import UrlForbidden, UrlRefused, UrlUnavailable
from tandem.protocol.jobs import AttemptState, JobState
from tandem.protocol.webhooks import DeliveryStatus, secret_text
from tests.conformance.store.samples import START, job_number, transcode

POLICY = DeliveryPolicy(backoff=4.0, backoff_max=60.0, give_up=100.0)
DELIVERY = DeliveryRecord(
    job=job_number(1),
    number=2,
    owner="local",
    state=JobState.RUNNING,
    at=START,
    url="https://hook.example/x",
    status=DeliveryStatus.PENDING,
    since=START,
)
FIRST, SECOND = secret_text(b"1" * 32), secret_text(b"2" * 32)


def after(answer: Answer | Exception, now: float = START, tries: int = 0, jitter: float = 0.0) -> DeliveryRecord:
    return after_answer(replace(DELIVERY, tries=tries), answer, now, POLICY, jitter)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_any_success_is_delivered(status: int) -> None:
    found = after(Answer(status), START + 1)
    assert (found.status, found.delivered_at, found.tries, found.error) == ("delivered", START + 1, 1, None)


@pytest.mark.parametrize(
    "answer", [Answer(100), Answer(301), Answer(404), Answer(503), UrlUnavailable("x"), UrlRefused("x")]
)
def test_anything_else_is_tried_again_ever_later(answer: Answer | Exception) -> None:
    pauses = [after(answer, tries=tries).not_before - START for tries in range(6)]
    assert pauses == [4, 8, 16, 32, 60, 60]
    assert after(answer, jitter=0.5).not_before == START + 5
    found = after(answer)
    assert (found.status, found.tries) == (DeliveryStatus.PENDING, 1)
    assert found.error


def test_a_receiver_may_ask_for_a_longer_pause_but_not_for_any() -> None:
    pauses = [after(Answer(429, seconds)).not_before - START for seconds in (1.0, 30.0, 9999.0)]
    assert pauses == [4, 30, 60]


def test_it_is_given_up_after_a_time_by_410_and_for_a_url_that_is_forbidden() -> None:
    assert after(Answer(500), START + 96).status is DeliveryStatus.PENDING
    assert after(Answer(500), START + 97).status is DeliveryStatus.FAILED
    assert after(Answer(410)).status is DeliveryStatus.FAILED
    forbidden = after(UrlForbidden("no"))
    assert (forbidden.status, forbidden.error) == (DeliveryStatus.FAILED, "url_forbidden: no")


def test_an_old_secret_signs_beside_the_new_one_for_a_while() -> None:
    webhook = WebhookRecord("local", None, SECOND, START, previous=FIRST, previous_until=START + 10)
    job = job_view(JobSnapshot(transcode(1).job, (), ()), ())
    body = body_of(DELIVERY, job)
    during, later = (headers_of(DELIVERY, webhook, START + seconds, body) for seconds in (9, 10))
    for secret in (FIRST, SECOND):
        assert verify(body, during, secret, now=START).id == DELIVERY.id
    assert during["webhook-signature"].split(" ")[0] != during["webhook-signature"]
    assert len(later["webhook-signature"].split(" ")) == 1
    assert verify(body, later, SECOND, now=START).type == "job.running"


def test_a_body_does_not_contradict_its_state() -> None:
    failed = replace(transcode(1).job, state=JobState.CANCELLED, finished_at=START + 5)
    body = json.loads(body_of(DELIVERY, job_view(JobSnapshot(failed, (), ()), ())))
    assert (body["id"], body["type"]) == (DELIVERY.id, "job.running")
    assert (body["data"]["state"], body["data"]["finished_at"]) == ("running", None)
    now = replace(DELIVERY, state=JobState.CANCELLED)
    body = json.loads(body_of(now, job_view(JobSnapshot(failed, (), ()), ())))
    assert (body["data"]["state"], body["data"]["finished_at"] is None) == ("cancelled", False)


def test_a_body_is_never_large() -> None:
    job = job_view(JobSnapshot(transcode(1).job, (), ()), ())
    attempt = AttemptView(
        task="t", number=1, node="n" * 500, state=AttemptState.FAILED, price=1, started_at=job.created_at
    )
    full = body_of(DELIVERY, job.model_copy(update={"attempts": (attempt,) * 10}))
    cut = body_of(DELIVERY, job.model_copy(update={"attempts": (attempt,) * 1000}))
    assert len(json.loads(full)["data"]["attempts"]) == 10
    assert json.loads(cut)["data"]["attempts"] == []
    assert len(cut) < MAX_BODY
