"""Ethereum JSON-RPC endpoints, tried in turn.

An endpoint's answers are believed once it has said that it serves the expected chain and, where `stall` is set, while
its newest block is as young as that. One that does not answer usefully rests for a while, and the next one is asked.
Endpoints are named by host alone: the rest of a URL may hold a key.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any, cast

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout
from pydantic_core import from_json
from web3.providers.async_base import AsyncJSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse
from yarl import URL

from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import ChainUnavailable

_logger = logging.getLogger(__name__)

_MAX_ANSWER = 16 * 2**20
_MAX_BLOCK_NUMBER = 2**63
_BACKWARDS = 128
"""Blocks that a head may fall behind where it was; no reorganisation is so deep."""
_LOOK_SECONDS = 15.0
_REST_SECONDS, _MAX_REST_SECONDS = 15.0, 600.0
_HTTP_OK, _TOO_MANY_REQUESTS, _SERVER_ERROR = 200, 429, 500
_SEND = "eth_sendRawTransaction"
_ELSEWHERE = frozenset({429, -32005, -32601, -32603})
"""Limit exceeded, method not found, internal error: what one endpoint refuses so, another one may answer."""


class EndpointFailed(Exception):
    """No answer that can be used; the message says why."""

    sent = False
    """Whether the request itself went out, and not only the checks before it."""


class WrongChain(EndpointFailed):
    """An answer from another chain."""


class Endpoint:
    """One URL, and what is known of it. `chain_id` None takes whichever it serves first."""

    def __init__(self, url: str, session: ClientSession, clock: Clock, chain_id: int | None, stall: float) -> None:
        self._url = URL(url)
        self._session = session
        self._clock = clock
        self._stall = stall
        self._lock = asyncio.Lock()
        self._checked = False
        self._look_at = 0.0
        self._best = 0
        self._rest = 0.0
        self._rests_until: float | None = None
        self.failure: EndpointFailed | None = None
        """What the last request failed by."""
        self.chain_id = chain_id
        self.host = f"{self._url.host}:{self._url.port}"

    @property
    def rests(self) -> bool:
        """Whether it failed so recently that others are to be asked first."""
        return self._rests_until is not None and self._clock.monotonic() < self._rests_until

    async def ask(self, body: bytes) -> RPCResponse:
        """The answer to a JSON-RPC request, errors included. Raises `EndpointFailed`."""
        sent = False
        try:
            await self._check()
            sent = True
            answer = await self._post(body)
        except EndpointFailed as failure:
            failure.sent = sent
            self._failed(failure)
            raise
        self._works()
        return answer

    def _works(self) -> None:
        if self.failure is not None:
            log.event(_logger, "chain_endpoint_back", host=self.host)
        self.failure, self._rest, self._rests_until = None, 0.0, None

    def _failed(self, failure: EndpointFailed) -> None:
        if self.failure is None:  # once, until it works again
            log.event(_logger, "chain_endpoint_failed", level=logging.WARNING, host=self.host, detail=str(failure))
        if not self.rests:
            self._rest = min(max(2 * self._rest, _REST_SECONDS), _MAX_REST_SECONDS)
            self._rests_until = self._clock.monotonic() + self._rest
        self.failure, self._checked = failure, False  # whatever comes back may be something else

    async def _check(self) -> None:
        async with self._lock:
            if not self._checked:
                await self._check_chain()
                self._checked, self._look_at = True, 0.0
            if self._stall and self._clock.monotonic() >= self._look_at:
                await self._check_head()
                self._look_at = self._clock.monotonic() + min(_LOOK_SECONDS, self._stall / 4)

    async def _check_chain(self) -> None:
        found = _quantity(await self._result("eth_chainId"))
        if found != (self.chain_id or found):
            raise WrongChain(f"expected chain {self.chain_id}, it serves chain {found}")
        self.chain_id = found

    async def _check_head(self) -> None:
        head = await self._result("eth_getBlockByNumber", "latest", False)  # noqa: FBT003
        if not isinstance(head, dict):
            raise EndpointFailed("it has no newest block")
        number, age = _quantity(head.get("number")), self._clock.now() - _quantity(head.get("timestamp"))
        best, self._best = self._best, number
        if abs(age) > self._stall:
            raise EndpointFailed(f"its newest block is from {age:.0f} s ago by this machine's clock")
        if number < best - _BACKWARDS:
            raise EndpointFailed(f"its newest block was {best} and is {number}")
        self._best = max(best, number)

    async def _result(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": method, "params": params}).encode()
        return cast(dict[str, Any], await self._post(body)).get("result")

    async def _post(self, body: bytes) -> RPCResponse:
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                status, raw = response.status, await _read(response)
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            # not the error's own text: that may hold the whole URL
            raise EndpointFailed(getattr(error, "strerror", None) or type(error).__name__) from None
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            raise EndpointFailed(f"HTTP status {status}")
        return _parse(status, raw)


class FailoverProvider(AsyncJSONBaseProvider):
    """web3's way to several endpoints as if they were one."""

    global_ccip_read_enabled = False  # an answer must not make this process fetch from elsewhere

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        super().__init__()
        self._endpoints = endpoints

    @property
    def rests(self) -> bool:
        return all(endpoint.rests for endpoint in self._endpoints)

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Raises `ChainUnavailable` if no endpoint answers."""
        body = self.encode_rpc_request(method, params)
        failures: list[tuple[Endpoint, EndpointFailed]] = []
        refusal: RPCResponse | None = None
        for endpoint in sorted(self._endpoints, key=lambda endpoint: endpoint.rests):
            try:
                answer = await endpoint.ask(body)
            except EndpointFailed as failure:
                failures.append((endpoint, failure))
                continue
            if method == _SEND and "error" in answer and any(failure.sent for _, failure in failures):
                break  # one that failed may have taken it all the same, whatever this one says
            if not _elsewhere(answer):
                return answer
            refusal = refusal or answer
        if refusal is not None:
            return refusal
        said = "; ".join(f"{endpoint.host}: {failure}" for endpoint, failure in failures)
        raise ChainUnavailable(f"no answer that can be used ({said}): check the endpoint, or use another")


def session(timeout_seconds: float) -> ClientSession:
    """For the endpoints of one connection; `timeout_seconds` is for a whole request."""
    return ClientSession(timeout=ClientTimeout(total=timeout_seconds))


def _elsewhere(answer: RPCResponse) -> bool:
    error = answer.get("error")
    return isinstance(error, dict) and error.get("code") in _ELSEWHERE


async def _read(response: ClientResponse) -> bytes:
    raw = bytearray()
    async for part in response.content.iter_any():
        raw += part
        if len(raw) > _MAX_ANSWER:
            raise EndpointFailed(f"an answer of more than {_MAX_ANSWER} bytes")
    return bytes(raw)


def _parse(status: int, raw: bytes) -> RPCResponse:
    """A JSON-RPC answer; some endpoints send errors with a status other than 200."""
    try:
        answer = from_json(raw)  # unlike json's, this parser bounds how deep it goes
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not _well_formed(answer) or (status != _HTTP_OK and "result" in answer):
        raise EndpointFailed(f"HTTP status {status} and no JSON-RPC answer")
    return cast(RPCResponse, answer)


def _well_formed(answer: dict[str, Any]) -> bool:
    if answer.get("jsonrpc") != "2.0" or "id" not in answer or ("result" in answer) == ("error" in answer):
        return False
    error = answer.get("error", {"code": 0, "message": ""})
    return isinstance(error, dict) and isinstance(error.get("code"), int) and isinstance(error.get("message"), str)


def _quantity(said: object) -> int:
    try:
        number = int(said, 16) if isinstance(said, str) else -1
    except ValueError:
        number = -1
    if not 0 <= number < _MAX_BLOCK_NUMBER:
        raise EndpointFailed("an answer that is no number where one was expected")
    return number
