"""Signed, short-lived URLs: what lets a node fetch one artifact or put one rendition, and nothing else."""

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlencode

from tandem.clock import Clock
from tandem.protocol.errors import Forbidden
from tandem.protocol.ids import AttemptRef

_MIN_SECRET_BYTES = 16


class UrlSigner:
    """Signs method, path, expiry and bound with HMAC-SHA256 under a secret that every replica shares.

    `base_url` is where nodes reach the orchestrator. `lifetime`, in seconds, should outlast the longest attempt, since
    a node uploads at its end.
    """

    def __init__(self, secret: bytes, base_url: str, clock: Clock, lifetime: float = 6 * 3600.0) -> None:
        if len(secret) < _MIN_SECRET_BYTES:
            raise ValueError(f"expected a secret of at least {_MIN_SECRET_BYTES} bytes, got {len(secret)}")
        self._secret = secret
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._lifetime = lifetime

    def download(self, artifact_id: str) -> str:
        """Where an artifact can be read."""
        return self._sign("GET", f"/v1/node/artifacts/{artifact_id}", {})

    def upload(self, ref: AttemptRef, name: str, limit: int) -> str:
        """Where a rendition of at most `limit` bytes can be put."""
        path = f"/v1/node/attempts/{ref.task}/{ref.number}/outputs/{name}"
        return self._sign("PUT", path, {"limit": str(limit)})

    def verify(self, method: str, path: str, query: Mapping[str, str]) -> None:
        """Raises Forbidden unless the URL was signed here for this method and has not expired."""
        expires = query.get("expires", "")
        good = self._signature(method, path, query.get("limit", ""), expires)
        if not hmac.compare_digest(good.encode(), query.get("signature", "").encode()):
            raise Forbidden("expected a URL as the orchestrator signed it, got one with another signature")
        if self._clock.now() >= int(expires):
            raise Forbidden("expected a signed URL that is still good, got one that has expired")

    def _sign(self, method: str, path: str, query: dict[str, str]) -> str:
        expires = str(int(self._clock.now() + self._lifetime))
        signature = self._signature(method, path, query.get("limit", ""), expires)
        return f"{self._base_url}{path}?{urlencode({**query, 'expires': expires, 'signature': signature})}"

    def _signature(self, method: str, path: str, limit: str, expires: str) -> str:
        message = f"{method}\n{path}\n{limit}\n{expires}"
        return hmac.new(self._secret, message.encode(), hashlib.sha256).hexdigest()
