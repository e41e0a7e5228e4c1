"""What becomes of a webhook after an answer, or without one."""

from dataclasses import dataclass, replace
from http import HTTPStatus

from orchestrator.core.records import DeliveryRecord, WebhookRecord
from orchestrator.core.views import webhook_event
from tandem.protocol.api import JobView
from tandem.protocol.errors import TandemError, UrlForbidden
from tandem.protocol.webhooks import (
    ID_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    DeliveryStatus,
    secret_bytes,
    signature,
)

MAX_BODY = 65_536
"""Bytes. Receivers expect little, and can ask for the job."""

_MAX_ERROR = 300


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    concurrency: int = 32
    """Requests at the same time."""
    per_endpoint: int = 4
    """Of them to one scheme, host and port, so that one that is dead does not hold up the others."""
    backoff: float = 5.0
    """Seconds before the second try; doubled for each one after."""
    backoff_max: float = 7200.0
    give_up: float = 259_200.0
    """Seconds after which a webhook is not tried again."""
    timeout: float = 15.0
    """Seconds that a receiver has to answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    """Of HTTP."""
    retry_after: float | None = None
    """Seconds that the receiver asks to be left alone."""


def body_of(delivery: DeliveryRecord, job: JobView) -> bytes:
    """What is sent, given the job as it stands now."""
    body = webhook_event(delivery, job).model_dump_json().encode()
    if len(body) <= MAX_BODY:
        return body
    return webhook_event(delivery, job.model_copy(update={"attempts": (), "result": None})).model_dump_json().encode()


def headers_of(delivery: DeliveryRecord, webhook: WebhookRecord, now: float, body: bytes) -> dict[str, str]:
    """Signed with the secret, and with the one before it while that is good too."""
    secrets = [webhook.secret]
    if webhook.previous is not None and now < webhook.previous_until:
        secrets.append(webhook.previous)
    signatures = [signature(secret_bytes(secret), delivery.id, int(now), body) for secret in secrets]
    return {
        "Content-Type": "application/json",
        ID_HEADER: delivery.id,
        TIMESTAMP_HEADER: str(int(now)),
        SIGNATURE_HEADER: " ".join(signatures),
    }


def is_gone(answer: Answer | TandemError) -> bool:
    """Whether the receiver wants no more of anything."""
    return isinstance(answer, Answer) and answer.status == HTTPStatus.GONE


def after_answer(
    delivery: DeliveryRecord, answer: Answer | TandemError, now: float, policy: DeliveryPolicy, jitter: float
) -> DeliveryRecord:
    """The delivery after a try. `jitter` is out of [0, 1): pauses are up to a half longer by it."""
    tried = replace(delivery, tries=delivery.tries + 1)
    if isinstance(answer, Answer) and HTTPStatus(200) <= answer.status < HTTPStatus(300):
        return replace(tried, status=DeliveryStatus.DELIVERED, delivered_at=now, error=None)
    tried = replace(tried, error=_error(answer))
    pause = min(policy.backoff_max, policy.backoff * 2.0 ** min(delivery.tries, 32)) * (1 + jitter / 2)
    if isinstance(answer, Answer) and answer.retry_after is not None:
        pause = min(max(pause, answer.retry_after), policy.backoff_max)
    if is_gone(answer) or isinstance(answer, UrlForbidden) or now + pause > delivery.since + policy.give_up:
        return replace(tried, status=DeliveryStatus.FAILED)
    return replace(tried, not_before=now + pause)


def _error(answer: Answer | TandemError) -> str:
    if isinstance(answer, Answer):
        return f"expected HTTP 2xx, got HTTP {answer.status}"
    return f"{answer.code}: {answer.detail}"[:_MAX_ERROR]
