"""What services ask of the one who visits URLs of submitters, behind the guard of `core.guard`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from orchestrator.core.delivery import Answer


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that has begun to come."""

    chunks: AsyncIterator[bytes]
    """Its bytes. Raises UrlUnavailable where they end early, stall or take too long."""
    size: int | None
    """Bytes, if the server says."""
    media_type: str


class Visitor(Protocol):
    def check(self, url: str) -> None:
        """Raises UrlForbidden for what is refused without a visit."""
        ...

    def fetch(self, url: str) -> AbstractAsyncContextManager[Fetched]:
        """Follows redirects. Raises UrlForbidden, UrlRefused, or UrlUnavailable if another time may be better."""
        ...

    async def put(self, url: str, chunks: AsyncIterator[bytes], size: int, media_type: str) -> None:
        """Writes a file of so many bytes. Raises UrlForbidden, UrlRefused, or UrlUnavailable."""
        ...

    async def post_form(self, url: str, fields: Mapping[str, str], chunks: AsyncIterator[bytes], size: int) -> None:
        """Writes a file of so many bytes as the last part of a form. Raises as `put` does."""
        ...

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        """The answer within so many seconds; a redirect is one, and of none is more than the head read.

        Raises UrlForbidden, UrlRefused, UrlUnavailable.
        """
        ...
