"""What services ask of the one who visits URLs of submitters, behind the guard of `core.guard`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from orchestrator.core.delivery import Answer


@dataclass(frozen=True, slots=True)
class Part:
    """What has come of a file, by a visit that broke off."""

    received: int
    """Bytes."""
    size: int
    """Bytes of the whole file."""
    validator: str
    """What the server calls this state of it."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that has begun to come."""

    chunks: AsyncIterator[bytes]
    """Its bytes. Raises UrlUnavailable where they end early, stall or take too long."""
    size: int | None
    """Bytes, if the server says."""
    media_type: str
    validator: str | None = None
    """A strong ETag, or the time of the last change; None: the rest of this very file cannot be asked for."""
    goes_on: bool = True
    """Whether it is the rest, where that was wanted; False: the server has no ranges, or another file by now."""


class Visitor(Protocol):
    def check(self, url: str) -> None:
        """Raises UrlForbidden for what is refused without a visit."""
        ...

    def fetch(self, url: str, after: Part | None = None) -> AbstractAsyncContextManager[Fetched]:
        """Follows redirects. `after`: the rest is wanted.

        Raises UrlForbidden, UrlRefused, or UrlUnavailable if another time may be better.
        """
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
