"""HTTP as the SDK needs it: answers parsed, every failure an error of the tree."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import TypeVar

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout
from pydantic import BaseModel, ValidationError
from yarl import URL

from tandem.protocol.api import PROBLEM_MEDIA_TYPE, Problem
from tandem.protocol.errors import FinalError, TandemError, Unavailable

M = TypeVar("M", bound=BaseModel)
Body = bytes | AsyncIterator[bytes] | None

_OK = 400
_SERVER_ERROR = 500
_TIMEOUT = ClientTimeout(total=None, sock_connect=10, sock_read=180)
"""Longer than the orchestrator looks into a file."""


class Http:
    """One orchestrator, and the key to it."""

    def __init__(self, url: str, key: str | None) -> None:
        self._base = URL(url.rstrip("/"))
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session = ClientSession(headers=headers, timeout=_TIMEOUT)

    async def close(self) -> None:
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        answer: type[M],
        *,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> M:
        """The answer, parsed. Raises the error that came, or Unavailable if nothing did."""
        async with self.open(method, path, body=body, headers=headers, query=query) as response:
            raw = await response.read()
        try:
            return answer.model_validate_json(raw)
        except ValidationError as error:
            raise FinalError(
                f"expected a {answer.__name__} from {self._base}{path}, got something else: {error}"
            ) from error

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[ClientResponse]:
        """The response, its body still to be read. Raises like `call`, also while it is being read."""
        url = (self._base / path.lstrip("/")).with_query(query)
        data = BytesIO(body) if isinstance(body, bytes) else body  # sent in pieces, however long it is
        try:
            async with self._session.request(method, url, data=data, headers=headers) as response:
                if response.status >= _OK:
                    raise await _error(response)
                yield response
        except (ClientError, TimeoutError, ConnectionError) as error:
            raise Unavailable(
                f"expected an answer from {self._base}, got {type(error).__name__}: {error}; is it running there?"
            ) from error


async def _error(response: ClientResponse) -> TandemError:
    raw = await response.read()
    if response.content_type == PROBLEM_MEDIA_TYPE:
        try:
            return Problem.model_validate_json(raw).error()
        except ValidationError:
            pass  # then it is treated like any other answer
    text = f"expected an answer from an orchestrator, got HTTP {response.status}: {raw[:200]!r}"
    return Unavailable(text) if response.status >= _SERVER_ERROR else FinalError(text)
