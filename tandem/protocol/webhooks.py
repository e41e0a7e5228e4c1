"""Webhooks as Standard Webhooks has them (https://www.standardwebhooks.com, 1.0.0): headers, secret and signature.

A request carries `webhook-id`, `webhook-timestamp` (seconds since the epoch) and `webhook-signature`, a list of
`v1,` and the base64 of HMAC-SHA256 over id, timestamp and body, joined by dots, under the bytes of the secret.
"""

import base64
import binascii
import hashlib
import hmac
from enum import StrEnum

from tandem.protocol.ids import Frozen
from tandem.protocol.urls import WebUrl

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
SECRET_BYTES = 32

_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64


class DeliveryStatus(StrEnum):
    WAITING = "waiting"
    """For an earlier event of the same job."""
    PENDING = "pending"
    """To be sent, now or again later."""
    DELIVERED = "delivered"
    FAILED = "failed"
    """Given up, until somebody asks for it again."""


class WebhookTarget(Frozen):
    url: WebUrl


def secret_text(secret: bytes) -> str:
    return _PREFIX + base64.b64encode(secret).decode()


def secret_bytes(text: str) -> bytes:
    """Raises ValueError for what is no secret of 24 to 64 bytes."""
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(_PREFIX) or not _LEAST_BYTES <= len(secret) <= _MOST_BYTES:
        raise ValueError("expected a webhook secret, `whsec_` and the base64 of 24 to 64 bytes, got something else")
    return secret


def signature(secret: bytes, event_id: str, timestamp: int, body: bytes) -> str:
    """One entry of the signature header."""
    signed = hmac.digest(secret, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(signed).decode()
