"""Signed, short-lived URLs: what lets a node fetch one artifact or put one rendition, and nothing else."""

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlencode

from tandem.clock import Clock
from tandem.protocol.errors import Forbidden
from tandem.protocol.ids import AttemptRef

_MIN_SECRET_BYTES = 16
_FOLDER_SECONDS = 7 * 24 * 3600


class UrlSigner:
    """Signs method, path, expiry and bound with HMAC-SHA256 under a secret that every replica shares.

    `base_url` is where nodes reach the orchestrator. A URL is good `until` a time in seconds since the epoch.
    """

    def __init__(self, secret: bytes, base_url: str, clock: Clock) -> None:
        if len(secret) < _MIN_SECRET_BYTES:
            raise ValueError(f"expected a secret of at least {_MIN_SECRET_BYTES} bytes, got {len(secret)}")
        self._secret = secret
        self._base_url = base_url.rstrip("/")
        self._clock = clock

    def download(self, artifact_id: str, until: float) -> str:
        """Where an artifact can be read."""
        return self._sign("GET", f"/v1/node/artifacts/{artifact_id}", {}, until)

    def upload(self, ref: AttemptRef, name: str, limit: int, until: float) -> str:
        """Where a rendition of at most `limit` bytes can be put."""
        path = f"/v1/node/attempts/{ref.task}/{ref.number}/outputs/{name}"
        return self._sign("PUT", path, {"limit": str(limit)}, until)

    def folder(self, job: str) -> str:
        """The path of a job's folder, good for a week. What is signed is a part of it, and relative names keep it."""
        expires = str(int(self._clock.now()) + _FOLDER_SECONDS)
        return f"/v1/folders/{job}/{expires}/{self._signature('GET', f'/v1/folders/{job}', '', expires)}/"

    def verify_folder(self, job: str, expires: str, signature: str) -> None:
        """Raises Forbidden as `verify`."""
        self.verify("GET", f"/v1/folders/{job}", {"expires": expires, "signature": signature})

    def verify(self, method: str, path: str, query: Mapping[str, str]) -> None:
        """Raises Forbidden unless the URL was signed here for this method and has not expired."""
        expires = query.get("expires", "")
        good = self._signature(method, path, query.get("limit", ""), expires)
        if not hmac.compare_digest(good.encode(), query.get("signature", "").encode()):
            raise Forbidden("expected a URL as the orchestrator signed it, got one with another signature")
        if self._clock.now() >= int(expires):
            raise Forbidden("expected a signed URL that is still good, got one that has expired")

    def _sign(self, method: str, path: str, query: dict[str, str], until: float) -> str:
        expires = str(int(until))
        signature = self._signature(method, path, query.get("limit", ""), expires)
        return f"{self._base_url}{path}?{urlencode({**query, 'expires': expires, 'signature': signature})}"

    def _signature(self, method: str, path: str, limit: str, expires: str) -> str:
        message = f"{method}\n{path}\n{limit}\n{expires}"
        return hmac.new(self._secret, message.encode(), hashlib.sha256).hexdigest()
