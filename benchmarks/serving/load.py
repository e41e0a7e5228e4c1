"""A closed loop of clients, each with one connection and one request at a time: as little of it as HTTP allows.

The same for all servers, and on the same cores as they. The requests are bytes made beforehand, and of an answer only
the status and the length are looked at.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_JSON_LENGTH = b"inference-header-content-length:"
_OK = 200


@dataclass(frozen=True, slots=True)
class Target:
    """One server, and the request that is sent to it over and over."""

    name: str
    url: str
    request: bytes


@dataclass(slots=True)
class Outcome:
    """What one round gave. Seconds."""

    seconds: float
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


class UnexpectedAnswer(Exception):
    """The server answered anything but 200, or closed the connection."""


def binary_request(url: str, sample: NDArray[np.float32], headers: Mapping[str, str]) -> bytes:
    """`POST <url>` in the Open Inference Protocol, with the binary tensor extension both ways."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "input",
                    "datatype": "FP32",
                    "shape": sample.shape,
                    "parameters": {"binary_data_size": sample.nbytes},
                }
            ],
            "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
        }
    ).encode()
    kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return _post(url, head + sample.tobytes(), {**headers, **kind})


def json_request(url: str, sample: NDArray[np.float32], headers: Mapping[str, str]) -> bytes:
    """The same in JSON alone."""
    tensor = {"name": "input", "datatype": "FP32", "shape": sample.shape, "data": sample.ravel().tolist()}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "output"}]}).encode()
    return _post(url, body, {**headers, "Content-Type": "application/json"})


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + _END + body


def output_of(answer: bytes) -> NDArray[np.float32]:
    """The output's elements, flat, from a whole answer of either form."""
    head, _, body = answer.partition(_END)
    size = _field(head, _JSON_LENGTH)
    if size is not None:
        return np.frombuffer(body[size:], "<f4")
    return np.array(json.loads(body)["outputs"][0]["data"], np.float32).ravel()


def _field(head: bytes, name: bytes) -> int | None:
    start = head.lower().find(name)
    if start < 0:
        return None
    return int(head[start + len(name) :].split(b"\r\n", 1)[0])


async def ask(target: Target) -> bytes:
    """The whole answer to one request."""
    kept: list[bytes] = []

    def keep(answer: bytes) -> bool:
        kept.append(answer)
        return False

    await _clients(target, 1, keep, [])
    return kept[0]


async def drive(target: Target, clients: int, seconds: float) -> Outcome:
    """So many clients for so long, from when all are connected."""
    latencies: list[float] = []
    last = time.perf_counter() + seconds

    def go_on(_: bytes) -> bool:
        return time.perf_counter() < last

    begun = time.perf_counter()
    await _clients(target, clients, go_on, latencies)
    return Outcome(time.perf_counter() - begun, latencies)


async def _clients(target: Target, count: int, go_on: Callable[[bytes], bool], latencies: list[float]) -> None:
    parts = urlsplit(target.url)
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(count):
        _, client = await loop.create_connection(
            lambda: _Client(target, go_on, latencies), parts.hostname or "", parts.port or 80
        )
        clients.append(client)
    try:
        for client in clients:
            client.ask()
        for client in clients:
            await client.done
    finally:
        for client in clients:
            client.close()


class _Client(asyncio.Protocol):
    """Asks again as soon as it is answered, while `go_on(answer)` says so."""

    def __init__(self, target: Target, go_on: Callable[[bytes], bool], latencies: list[float]) -> None:
        self._target = target
        self._go_on = go_on
        self._latencies = latencies
        self._received = b""
        self._expected = 0
        self._asked = 0.0
        self._transport: asyncio.Transport | None = None
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP connection is one
        self._transport = transport

    def ask(self) -> None:
        assert self._transport is not None  # noqa: S101 - it is connected first
        self._received, self._expected = b"", 0
        self._asked = time.perf_counter()
        self._transport.write(self._target.request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._expected and _END in self._received:
            head = self._received.partition(_END)[0]
            self._expected = len(head) + len(_END) + (_field(head, _LENGTH) or 0)
            if int(head.split(b" ", 2)[1]) != _OK:
                self._fail(head.decode(errors="replace"))
        if self._expected and len(self._received) >= self._expected and not self.done.done():
            self._latencies.append(time.perf_counter() - self._asked)
            if self._go_on(self._received):
                self.ask()
            else:
                self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection was closed: {error}")

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(UnexpectedAnswer(f"{self._target.name}: expected 200, got {reason}"))
