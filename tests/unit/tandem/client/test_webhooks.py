"""Signatures: ours against the reference library's, both ways, and what is no signature."""

import json
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tandem.client.webhooks import verify
from tandem.protocol.errors import WebhookInvalid
from tandem.protocol.webhooks import secret_bytes, secret_text, signature

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_614_265_330
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
SIGNED = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
JOB = {
    "id": "job_" + "0" * 28,
    "kind": "inference",
    "state": "running",
    "created_at": "2026-01-01T00:00:00Z",
    "progress": {"percent": 0},
    "price": {"quoted": "5", "charged": "0"},
    "request": {"kind": "inference", "model": "m", "version": "1", "inputs": []},
}
EVENT = {"id": "evt_1", "type": "job.running", "timestamp": "2026-01-01T00:00:00Z", "data": JOB}
BODY = json.dumps(EVENT).encode()


def headers(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> dict[str, str]:
    signed = signature(secret_bytes(secret), "evt_1", at, body)
    return {"Webhook-Id": "evt_1", "Webhook-Timestamp": str(at), "Webhook-Signature": signed}


def test_the_vector_of_the_reference_libraries() -> None:
    assert signature(secret_bytes(SECRET), ID, NOW, SIGNED) == SIGNATURE
    assert secret_text(secret_bytes(SECRET)) == SECRET


def test_the_reference_library_takes_what_we_sign_and_we_what_it_signs() -> None:
    at = int(datetime.now(UTC).timestamp())
    reference = Webhook(SECRET)
    assert reference.verify(BODY, headers(at=at))["type"] == "job.running"
    with pytest.raises(WebhookVerificationError):
        reference.verify(BODY + b" ", headers(at=at))
    signed = reference.sign("evt_1", datetime.fromtimestamp(at, UTC), BODY.decode())
    event = verify(BODY, headers(at=at) | {"Webhook-Signature": signed}, SECRET)
    assert (event.id, event.type, event.data.id) == ("evt_1", "job.running", JOB["id"])


def test_one_good_signature_among_several_is_enough() -> None:
    both = f"v1a,x v1,nonsense {headers()['Webhook-Signature']}"
    assert verify(BODY, headers() | {"Webhook-Signature": both}, SECRET, now=NOW).id == "evt_1"


OTHER = secret_text(bytes(32))
WRONG: list[tuple[bytes, dict[str, str], str]] = [
    (BODY + b" ", headers(), "drop it"),
    (BODY, headers(secret=OTHER), "drop it"),
    (BODY, headers() | {"Webhook-Id": "evt_2"}, "drop it"),
    (BODY, headers() | {"Webhook-Id": ""}, "drop it"),
    (BODY, headers() | {"Webhook-Timestamp": str(NOW + 1)}, "drop it"),
    (BODY, headers() | {"Webhook-Timestamp": "now"}, "seconds since the epoch"),
    (BODY, headers() | {"Webhook-Signature": "\u00e9"}, "drop it"),
    (BODY, {}, "seconds since the epoch"),
    (BODY, headers(at=NOW - 301), "301 s old"),
    (BODY, headers(at=NOW + 301), "-301 s old"),
    (b"{}", headers(b"{}"), "event of Tandem"),
]


@pytest.mark.parametrize(("body", "given", "said"), WRONG)
def test_what_is_not_signed_just_so_is_refused(body: bytes, given: dict[str, str], said: str) -> None:
    with pytest.raises(WebhookInvalid, match=said):
        verify(body, given, SECRET, now=NOW)


def test_the_tolerance_can_be_chosen() -> None:
    assert verify(BODY, headers(at=NOW - 900), SECRET, tolerance=900, now=NOW).id == "evt_1"


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_###", "whsec_c2hvcnQ=", SECRET.removeprefix("whsec_")])
def test_what_is_no_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="webhook secret"):
        secret_bytes(text)
