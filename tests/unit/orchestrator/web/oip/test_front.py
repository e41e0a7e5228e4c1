"""Connections as clients make them, good ones and others."""
# ruff: noqa: ASYNC110 - what is waited for is a number of the server's, which rings no bell

import asyncio
import gzip
import json
import os
import socket
import struct
import time
import tracemalloc
import weakref
import zlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.web.oip.front import Pace
from tandem.protocol.errors import Overloaded, Unauthorized
from tests.fixtures.oip import LIMIT, described, model, request, response, run_protocol

DATA = struct.pack("<2f", 1, 2)
BODY = {
    "inputs": [described("x", "FP32", [1, 2], 8)],
    "parameters": {"binary_data_output": True},
}
GOOD = request(BODY, DATA)
BRISK = Pace(keep_alive=1.0, grace=0.01, bytes_per_second=2**40, linger=0.01)


def big(size: int) -> bytes:
    """A request of so many bytes of tensor."""
    return request(
        {"inputs": [described("x", "FP32", [size // 8, 2], size)]} | {"parameters": {"binary_data_output": True}},
        bytes(size),
    )


def data_of(answer: tuple[int, dict[str, str], bytes]) -> bytes:
    status, headers, body = answer
    assert status == 200, body
    return body[int(headers["inference-header-content-length"]) :]


def error_of(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["error"]


async def test_requests_one_after_the_other_on_one_connection() -> None:
    async with run_protocol() as protocol:
        reader, writer = await protocol.open()
        for _ in range(3):
            writer.write(GOOD)
            assert data_of(await response(reader)) == DATA
        writer.write(GOOD * 3)
        for _ in range(3):
            assert data_of(await response(reader)) == DATA
        writer.close()


async def test_a_request_that_comes_byte_by_byte() -> None:
    async with run_protocol() as protocol:
        reader, writer = await protocol.open()
        for at in range(len(GOOD)):
            writer.write(GOOD[at : at + 1])
            await asyncio.sleep(0)
        assert data_of(await response(reader)) == DATA
        writer.close()


@pytest.mark.parametrize("size", [2**17, 2**19, LIMIT - 2**10])
async def test_large_bodies_and_answers(size: int) -> None:
    async with run_protocol() as protocol:
        assert len(data_of(await protocol.send(big(size)))) == size


async def test_a_connection_that_stays_holds_nothing_of_its_last_request() -> None:
    async with run_protocol() as protocol:
        reader, writer = await protocol.open()
        writer.write(big(2**21))
        assert len(data_of(await response(reader))) == 2**21
        (connection,) = protocol.hub.connections
        body = weakref.ref(protocol.echo.calls.pop().inputs[0].data.obj)  # type: ignore[union-attr]
        await asyncio.sleep(0)
        assert (connection.busy, body()) == (False, None)
        writer.close()


async def test_the_connection_is_closed_when_the_client_wants_it() -> None:
    async with run_protocol() as protocol:
        reader, writer = await protocol.open()
        writer.write(request(BODY, DATA, headers={"Connection": "close"}))
        _, headers, _ = await response(reader)
        assert headers["connection"] == "close"
        assert await reader.read() == b""
        writer.close()


async def test_a_client_that_waits_before_it_sends_the_body_is_told_to_go_on() -> None:
    async with run_protocol() as protocol:
        reader, writer = await protocol.open()
        whole = request(BODY, DATA, headers={"Expect": "100-continue"})
        head, _, body = whole.partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert data_of(await response(reader)) == DATA
        writer.close()


@pytest.mark.parametrize(
    ("line", "handed"),
    [
        (b"GET /v1/jobs HTTP/1.1", b"other: GET /v1/jobs HTTP/1.1 keep"),
        (b"GET /v2/models/echo HTTP/1.1", b"other: GET /v2/models/echo HTTP/1.1 close"),
        (b"\x16\x03\x01", b"other: \x16\x03\x01 keep"),
    ],
)
async def test_all_else_is_handed_over_with_the_connection(line: bytes, handed: bytes) -> None:
    async with run_protocol() as protocol:
        reader, writer = await protocol.open()
        writer.write(GOOD)
        await response(reader)
        writer.write(line + b"\r\nHost: a\r\n\r\n")
        assert (await response(reader))[2] == handed
        writer.close()


async def test_a_head_without_end_is_handed_over() -> None:
    async with run_protocol() as protocol:
        answer = await protocol.send(b"POST /v2/models/echo/infer HTTP/1.1\r\n" + b"x" * 20_000 + b"\r\n")
        assert answer[2].startswith(b"other")


async def test_errors_of_what_is_asked_leave_the_connection_open() -> None:
    async with run_protocol() as protocol:
        reader, writer = await protocol.open()
        writer.write(request(BODY, b"1234"))
        assert error_of(await response(reader)) == (
            400,
            "tensor 'x': expected 8 bytes in the body, as its binary_data_size says, got 4",
        )
        writer.write(request(BODY, DATA, path="/v2/models/none/infer"))
        assert (await response(reader))[0] == 404
        protocol.echo.error = Overloaded("expected fewer", 3)
        writer.write(GOOD)
        status, headers, _ = await response(reader)
        assert (status, headers["retry-after"]) == (429, "3")
        protocol.echo.error = None
        writer.write(GOOD)
        assert data_of(await response(reader)) == DATA
        writer.close()


@pytest.mark.parametrize("length", ["-1", "x", "9" * 16, "1.5", "0x1", "\xb2"])
async def test_a_length_of_json_that_is_none(length: str) -> None:
    async with run_protocol() as protocol:
        whole = request(BODY, DATA, headers={"Inference-Header-Content-Length": "LENGTH"}).replace(
            b"LENGTH", length.encode("latin-1")
        )
        status, told = error_of(await protocol.send(whole))
        assert (status, told.partition(":")[0]) == (400, "Inference-Header-Content-Length")


async def test_json_longer_than_the_body() -> None:
    async with run_protocol() as protocol:
        status, told = error_of(
            await protocol.send(request(BODY, DATA, headers={"Inference-Header-Content-Length": "100000"}))
        )
        assert (status, told.partition(":")[0]) == (400, "Inference-Header-Content-Length")


async def test_a_key_is_asked_for_before_the_body_is_read() -> None:
    async def nobody(_headers: Mapping[str, str], _peer: str) -> str:
        raise Unauthorized("expected an API key")

    async with run_protocol(owner=nobody) as protocol:
        head = big(LIMIT - 2**10).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        status, headers, _ = await protocol.send(head)
        assert (status, headers["www-authenticate"], headers["connection"]) == (401, "bearer", "close")
        assert protocol.hub.memory.used == 0


async def test_two_gigabytes_are_refused_at_once() -> None:
    async with run_protocol() as protocol:
        head = request(BODY).replace(b"Content-Length: ", b"Content-Length: 2147483648\r\nX: ")
        begun = time.perf_counter()
        status, told = error_of(await protocol.send(head))
        assert (status, time.perf_counter() - begun < 1) == (413, True)
        assert "2147483648" in told


async def test_a_client_that_sends_on_after_a_refusal_reads_it_all_the_same() -> None:
    async with run_protocol(limit=2**16) as protocol:
        assert (await protocol.send(big(2**23)))[0] == 413


async def test_bodies_at_one_time_are_bounded_and_small_ones_still_pass() -> None:
    async with run_protocol(memory=2**22) as protocol:
        protocol.echo.held = asyncio.Event()
        reader, writer = await protocol.open()
        writer.write(big(3 * 2**20))
        await protocol.echo.asked.wait()
        status, headers, _ = await protocol.send(big(2**21))
        assert (status, "retry-after" in headers) == (429, True)
        small = asyncio.create_task(protocol.send(GOOD))
        protocol.echo.held.set()
        assert data_of(await small) == DATA
        assert len(data_of(await response(reader))) == 3 * 2**20
        writer.close()


@pytest.mark.parametrize("sent", [0, 100, 2**19])
async def test_an_upload_that_is_broken_off_leaves_nothing(sent: int) -> None:
    async with run_protocol() as protocol:
        _, writer = await protocol.open()
        whole = big(2**20)
        writer.write(whole[: whole.index(b"\r\n\r\n") + 4 + sent])
        await writer.drain()
        while not protocol.hub.memory.used:
            await asyncio.sleep(0)
        writer.close()
        while protocol.hub.connections or protocol.hub.memory.used:
            await asyncio.sleep(0)
        assert not protocol.echo.calls


async def test_an_upload_that_is_too_slow_is_told_so() -> None:
    async with run_protocol(pace=BRISK) as protocol:
        reader, writer = await protocol.open()
        writer.write(big(2**20)[:5000])
        status, told = error_of(await response(reader))
        assert (status, "too slowly" in told) == (408, True)
        writer.close()


async def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    async with run_protocol(pace=BRISK) as protocol:
        _, writer = await protocol.open()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(big(LIMIT - 2**10))
        await protocol.echo.asked.wait()
        while protocol.hub.connections or protocol.hub.memory.used:
            await asyncio.sleep(0.01)
        writer.close()


async def test_a_client_that_does_not_read_its_last_answer_is_cut_off() -> None:
    async with run_protocol(pace=BRISK) as protocol:
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        own.connect(("127.0.0.1", protocol.port))
        _, writer = await asyncio.open_connection(sock=own)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        while not protocol.hub.connections:
            await asyncio.sleep(0)
        (front,) = protocol.hub.connections
        front._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        writer.write(big(2**15).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        while protocol.hub.connections:
            await asyncio.sleep(0.01)
        writer.close()


async def test_an_idle_connection_is_closed() -> None:
    async with run_protocol(pace=Pace(keep_alive=0.01)) as protocol:
        reader, writer = await protocol.open()
        writer.write(b"POST /v2/models/")
        assert await reader.read() == b""
        writer.close()


async def test_a_client_that_goes_away_cancels_its_request_at_once() -> None:
    async with run_protocol() as protocol:
        protocol.echo.held = asyncio.Event()
        _, writer = await protocol.open()
        writer.write(GOOD)
        await protocol.echo.asked.wait()
        begun = time.perf_counter()
        writer.close()
        await protocol.echo.gone.wait()
        assert time.perf_counter() - begun < 0.05


async def test_a_thousand_clients_that_go_away_disturb_no_other() -> None:
    async with run_protocol() as protocol:
        protocol.echo.held = asyncio.Event()
        reader, writer = await protocol.open()
        writer.write(GOOD)
        await protocol.echo.asked.wait()
        for _ in range(10):
            leaving = [await protocol.open() for _ in range(100)]
            for index, (_, leaver) in enumerate(leaving):
                leaver.write(GOOD[: index * 3] if index % 2 else GOOD)
            await asyncio.sleep(0)
            for _, leaver in leaving:
                leaver.transport.abort()
        while len(protocol.hub.connections) > 1:
            await asyncio.sleep(0.001)
        protocol.echo.held.set()
        assert data_of(await response(reader)) == DATA
        assert protocol.echo.cancelled == len(protocol.echo.calls) - 1
        writer.close()


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_requests(encoding: str, pack: Any) -> None:
    async with run_protocol() as protocol:
        text = json.dumps(BODY).encode()
        headers = {"Content-Encoding": encoding, "Inference-Header-Content-Length": str(len(text))}
        assert data_of(await protocol.send(request(pack(text + DATA), headers=headers))) == DATA


async def test_a_long_request_is_inflated_without_being_copied_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.web.oip.inferences._INFLATED_STEP", 2**10)
    text, data = json.dumps(BODY | {"inputs": [described("x", "FP32", [2**14, 2], 2**17)]}).encode(), os.urandom(2**17)
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": str(len(text))}
    given: list[int] = []

    class Counted:
        def __init__(self, window: int) -> None:
            self.real = zlib.decompressobj(window)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def decompress(self, piece: memoryview, most: int) -> bytes:
            given.append(len(piece))
            return self.real.decompress(piece, most)

    decompressing = SimpleNamespace(decompressobj=Counted, error=zlib.error)
    monkeypatch.setattr("orchestrator.web.oip.inferences.zlib", decompressing)
    async with run_protocol() as protocol:
        assert data_of(await protocol.send(request(gzip.compress(text + data, 1), headers=headers))) == data
    assert max(given) <= 2**10
    assert sum(given) < 3 * 2**17


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"x", 400),
        ("gzip", b"x", 400),
        ("gzip", gzip.compress(b"{}")[:-1], 400),
        ("gzip", gzip.compress(b"{}") + b"more", 400),
        ("deflate", b"", 400),
        ("gzip", gzip.compress(bytes(LIMIT + 1)), 413),
    ],
    ids=["unknown", "none", "cut", "more", "empty", "bomb"],
)
async def test_what_does_not_inflate(encoding: str, body: bytes, status: int) -> None:
    async with run_protocol() as protocol:
        answer = await protocol.send(request(body, headers={"Content-Encoding": encoding}))
        assert answer[0] == status, answer


async def test_a_bomb_takes_no_more_memory_than_is_allowed() -> None:
    bomb = gzip.compress(bytes(2**28), 9)
    async with run_protocol() as protocol:
        tracemalloc.start()
        try:
            await protocol.send(request(bomb, headers={"Content-Encoding": "gzip"}))
            assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
        finally:
            tracemalloc.stop()


async def test_long_json_is_read_while_others_are_answered() -> None:
    async with run_protocol(model(("x", "FP32", (-1, 2)))) as protocol:
        rows = 50_000
        slow = asyncio.create_task(
            protocol.send(request({"inputs": [described("x", "FP32", [rows, 2], data=[0.5] * 2 * rows)]}))
        )
        answers = 0
        while not slow.done():
            await protocol.send(GOOD)
            answers += 1
        status, _, body = await slow
        assert (status, len(json.loads(body)["outputs"][0]["data"]), answers > 1) == (200, 2 * rows, True)
