"""API keys: 256 random bits each, of which only the sha256 is kept.

A key that was found good is not looked up again for a second, so that requests on line cost no look into the store; a
key that another process revokes is refused a second later.
"""

import hashlib
import secrets

from orchestrator.core.records import ApiKeyRecord
from orchestrator.ports.store import Store
from tandem.clock import Clock, SystemClock
from tandem.protocol.errors import Unauthorized

KEY_PREFIX = "tdm_"

LOCAL_OWNER = "local"
"""Owner of what is submitted without a key from the orchestrator's own machine."""

_KEY_BYTES = 32
_ID_BYTES = 8
_TRUSTED_SECONDS = 1.0
_MOST_TRUSTED = 10_000


class Keys:
    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._trusted: dict[bytes, tuple[ApiKeyRecord, float]] = {}
        """By digest, until when."""

    async def create(self, name: str) -> tuple[ApiKeyRecord, str]:
        """A new key with the text of it, which is not kept and cannot be shown again."""
        text = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        record = ApiKeyRecord(
            id=f"key_{secrets.token_hex(_ID_BYTES)}",
            name=name,
            digest=_digest(text),
            created_at=await self._store.now(),
        )
        await self._store.add_key(record)
        return record, text

    def trusted(self, text: str) -> ApiKeyRecord | None:
        """The key that the text is, if it was found good a moment ago."""
        known = self._trusted.get(_digest(text))
        return known[0] if known is not None and self._clock.monotonic() < known[1] else None

    async def authenticate(self, text: str) -> ApiKeyRecord:
        """The key that the text is; raises Unauthorized for one that is not known, or was revoked."""
        known = self.trusted(text)
        if known is not None:
            return known
        digest, now = _digest(text), self._clock.monotonic()
        record = await self._store.key_by_digest(digest)
        if record is None:
            self._trusted.pop(digest, None)
            raise Unauthorized("expected a valid API key, got one that is not known or was revoked; ask for a new one")
        if len(self._trusted) >= _MOST_TRUSTED:
            self._trusted.clear()
        self._trusted[digest] = record, now + _TRUSTED_SECONDS
        return record

    async def revoke(self, key_id: str) -> None:
        """From now on the key is refused, by other processes within a second. Raises NotFound."""
        await self._store.revoke_key(key_id)
        self._trusted.clear()

    async def all(self) -> list[ApiKeyRecord]:
        return await self._store.keys()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()  # headers may hold any byte
