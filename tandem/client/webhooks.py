"""For those who receive webhooks.

event = verify(await request.read(), request.headers, SECRET)
if event.type == "job.succeeded":
    ...

An event may come more than once, always under the same id: remember the ids of those that were dealt with.
"""

import hmac
import time
from collections.abc import Mapping

from pydantic import ValidationError

from tandem.protocol.api import WebhookEvent
from tandem.protocol.errors import WebhookInvalid
from tandem.protocol.webhooks import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, secret_bytes, signature

TOLERANCE_SECONDS = 300.0


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secret: str,
    *,
    tolerance: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> WebhookEvent:
    """The event in a request's raw body, if it was signed with the secret and sent within `tolerance` seconds of now.

    Raises WebhookInvalid otherwise, and ValueError if the secret is none.
    """
    given = {name.lower(): value for name, value in headers.items()}
    event_id, timestamp = given.get(ID_HEADER, ""), given.get(TIMESTAMP_HEADER, "")
    if not timestamp.isascii() or not timestamp.isdecimal():
        raise WebhookInvalid(f"expected {TIMESTAMP_HEADER} in seconds since the epoch, got {timestamp[:40]!r}")
    good = signature(secret_bytes(secret), event_id, int(timestamp), body).encode()
    offered = [each.encode() for each in given.get(SIGNATURE_HEADER, "").split(" ")]
    if not event_id or not any([hmac.compare_digest(good, each) for each in offered]):  # noqa: C419 - all are compared
        raise WebhookInvalid("expected a webhook that was signed with the secret, got another; drop it")
    age = (time.time() if now is None else now) - int(timestamp)
    if abs(age) > tolerance:
        raise WebhookInvalid(f"expected a webhook sent within {tolerance:g} s, got one {age:.0f} s old: a replay?")
    try:
        return WebhookEvent.model_validate_json(body)
    except ValidationError as error:
        raise WebhookInvalid(f"expected an event of Tandem, got something else: {error}") from error
