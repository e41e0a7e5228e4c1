"""From a request for an inference to its response, whichever way it came in."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from orchestrator.ports.online import OnlineInference
from orchestrator.web.oip.memory import Claim
from orchestrator.web.oip.replies import HEADER_LENGTH, Reply, inference_reply
from orchestrator.web.oip.requests import parse_request
from orchestrator.web.oip.served import ServedModels
from tandem.protocol.errors import InvalidRequest, TooLarge
from tandem.protocol.models import ModelInfo

INLINE_BYTES = 2**16
"""More JSON than this is read and written in a thread, so that the event loop keeps turning."""

_INFLATED_STEP = 2**20
_WINDOW = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_HEADER_LENGTH = HEADER_LENGTH.lower()
_MAX_DIGITS = 15

ReadBody = Callable[[Claim], Awaitable[memoryview]]


class Catalogue(Protocol):
    async def find(self, owner: str, name: str, version: str | None = None) -> ModelInfo:
        """The model that this key means. Raises NotFound."""
        ...


class Inferences:
    def __init__(self, online: OnlineInference, models: Catalogue, limit: int) -> None:
        self._online = online
        self._models = models
        self._served = ServedModels()
        self.limit = limit
        """Bytes of a request, inflated or not."""

    async def answer(
        self,
        owner: str,
        named: tuple[str, str | None],
        headers: Mapping[str, str],
        read: ReadBody,
        claim: Claim,
    ) -> Reply:
        """Runs the model of this name and version. Raises a TandemError, or TimeoutError for a body that is too slow.

        What it holds of memory is counted into the claim.
        """
        claim.owner = owner
        header_length = _header_length(headers)
        served = self._served.of(await self._models.find(owner, *named))
        body = await self._inflated(headers, await read(claim), claim)
        json_size = len(body) if header_length is None else header_length
        if json_size <= INLINE_BYTES:
            call, wanted = parse_request(served, owner, body, header_length)
        else:
            call, wanted = await asyncio.to_thread(parse_request, served, owner, body, header_length)
        answer = await self._online.infer(call)
        size = sum(len(tensor.data) for tensor in answer.outputs)
        claim.note(size)
        if size <= INLINE_BYTES or all(wanted.binary):
            return inference_reply(served, wanted, answer)
        return await asyncio.to_thread(inference_reply, served, wanted, answer)

    async def _inflated(self, headers: Mapping[str, str], body: memoryview, claim: Claim) -> memoryview:
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


def _header_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        raise InvalidRequest(f"{HEADER_LENGTH}: expected bytes of JSON, as digits, got {text[:40]!r}")
    return int(text)
