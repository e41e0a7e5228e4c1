"""API keys: 256 random bits each, of which only the sha256 is kept."""

import hashlib
import secrets

from orchestrator.core.records import ApiKeyRecord
from orchestrator.ports.store import Store
from tandem.protocol.errors import Unauthorized

KEY_PREFIX = "tdm_"

LOCAL_OWNER = "local"
"""Owner of what is submitted without a key from the orchestrator's own machine."""

_KEY_BYTES = 32
_ID_BYTES = 8


class Keys:
    def __init__(self, store: Store) -> None:
        self._store = store

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

    async def authenticate(self, text: str) -> ApiKeyRecord:
        """The key that the text is; raises Unauthorized for one that is not known, or was revoked."""
        record = await self._store.key_by_digest(_digest(text))
        if record is None:
            raise Unauthorized("expected a valid API key, got one that is not known or was revoked; ask for a new one")
        return record

    async def revoke(self, key_id: str) -> None:
        """From now on the key is refused. Raises NotFound."""
        await self._store.revoke_key(key_id)

    async def all(self) -> list[ApiKeyRecord]:
        return await self._store.keys()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()  # headers may hold any byte
