"""From a request for an inference to its response, whichever way it came in."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol

from orchestrator.core.online import OnlineAnswer, OnlineCall
from orchestrator.ports.online import OnlineInference
from orchestrator.web.oip.memory import Claim
from orchestrator.web.oip.replies import HEADER_LENGTH, Reply, inference_reply
from orchestrator.web.oip.requests import Wanted, parse_request
from orchestrator.web.oip.served import Served, ServedModels
from tandem.protocol.errors import InvalidRequest, TooLarge
from tandem.protocol.models import ModelInfo

INLINE_BYTES = 2**16
"""More JSON than this is read and written in a thread, so that the event loop keeps turning."""

_INFLATED_STEP = 2**20
_WINDOW = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_HEADER_LENGTH = HEADER_LENGTH.lower()
_MAX_DIGITS = 15

Headers = Mapping[str, str]
ReadBody = Callable[[Claim], Awaitable[memoryview]]


class Catalogue(Protocol):
    def known(self, owner: str, name: str, version: str | None = None) -> ModelInfo | None:
        """The model that this key means; None: it is to be looked for."""
        ...

    async def find(self, owner: str, name: str, version: str | None = None) -> ModelInfo:
        """The same, wherever it is. Raises NotFound."""
        ...


class Asked(NamedTuple):
    """A request that was read."""

    served: Served
    call: OnlineCall
    wanted: Wanted


class Inferences:
    def __init__(self, online: OnlineInference, models: Catalogue, limit: int) -> None:
        self.online = online
        self._models = models
        self._served = ServedModels()
        self.limit = limit
        """Bytes of a request, inflated or not."""

    def read(self, owner: str, named: tuple[str, str | None], headers: Headers, body: memoryview) -> Asked | None:
        """What is asked, if nothing has to be waited for to know it. Raises a TandemError."""
        header_length = _header_length(headers)
        model = self._models.known(owner, *named)
        size = len(body) if header_length is None else header_length
        if model is None or size > INLINE_BYTES or "content-encoding" in headers:
            return None
        served = self._served.of(model)
        return Asked(served, *parse_request(served, owner, body, header_length))

    async def wait(
        self, owner: str, named: tuple[str, str | None], headers: Headers, read: ReadBody, claim: Claim
    ) -> Asked:
        """What is asked. Raises a TandemError, or TimeoutError for a body that is too slow.

        What it holds of memory is counted into the claim.
        """
        claim.owner = owner
        header_length = _header_length(headers)
        served = self._served.of(await self._models.find(owner, *named))
        body = await self._inflated(headers, await read(claim), claim)
        json_size = len(body) if header_length is None else header_length
        if json_size <= INLINE_BYTES:
            return Asked(served, *parse_request(served, owner, body, header_length))
        return Asked(served, *await asyncio.to_thread(parse_request, served, owner, body, header_length))

    @staticmethod
    def reply(asked: Asked, answer: OnlineAnswer, claim: Claim) -> Reply | None:
        """The response; None: it is large, and for `compose`. Raises InvalidTensor."""
        size = 0
        for tensor in answer.outputs:
            size += len(tensor.data)
        claim.note(size)
        if size <= INLINE_BYTES or all(asked.wanted.binary):
            return inference_reply(asked.served, asked.wanted, answer)
        return None

    @staticmethod
    async def compose(asked: Asked, answer: OnlineAnswer) -> Reply:
        """The response, made in a thread. Raises InvalidTensor."""
        return await asyncio.to_thread(inference_reply, asked.served, asked.wanted, answer)

    async def _inflated(self, headers: Headers, body: memoryview, claim: Claim) -> memoryview:
        encoding = headers.get("content-encoding")
        if encoding is None or encoding == "identity":
            return body
        window = _WINDOW.get(encoding.lower())
        if window is None:
            raise InvalidRequest(f"Content-Encoding: expected gzip, deflate or none, got {encoding[:40]!r}")
        inflating, whole, at = zlib.decompressobj(window), bytearray(), 0
        while not inflating.eof:
            # A piece at a time, since what is not consumed is copied at each step.
            given = inflating.unconsumed_tail or body[at : (at := at + _INFLATED_STEP)]
            try:
                step = await asyncio.to_thread(inflating.decompress, given, _INFLATED_STEP)
            except zlib.error as error:
                raise InvalidRequest(f"Content-Encoding: expected a body of {encoding}: {error}") from error
            if not (step or given):
                break
            claim.take(len(step))
            whole += step
            self.check_size(len(whole), "inflated")
        if not inflating.eof or inflating.unused_data or at < len(body):
            raise InvalidRequest(f"Content-Encoding: expected one whole body of {encoding}, got another length")
        return memoryview(whole)

    def check_size(self, size: int, how: str = "whole") -> None:
        """Raises TooLarge."""
        if size > self.limit:
            raise TooLarge(
                f"expected a request of at most {self.limit} bytes, {how}, got {size}; send fewer inputs at once"
            )


def _header_length(headers: Headers) -> int | None:
    text = headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        raise InvalidRequest(f"{HEADER_LENGTH}: expected bytes of JSON, as digits, got {text[:40]!r}")
    return int(text)
