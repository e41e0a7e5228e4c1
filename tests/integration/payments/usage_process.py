"""One side of on-line work as a process of its own, to be killed: services and store, and a socket in between.

`orchestrator` accepts whatever it is answered, and says `window` when it has settled one. `node` serves without an end;
told to stop, it waits until all is settled and says what it has served since it began.
"""

import asyncio
import signal
import sys
from asyncio import StreamReader, StreamWriter
from pathlib import Path

from prometheus_client import CollectorRegistry

from node.adapters.ticket_store import SqliteTicketStore
from node.service import usage as counting
from node.service.books import Books
from node.service.link import Link
from orchestrator.adapters.store import open_store
from orchestrator.service.nodes import ConnectedNode, Nodes
from orchestrator.service.usage import Usage
from tandem.clock import SystemClock
from tandem.protocol.codec import Envelope, Frame, decode, encode
from tandem.protocol.messages import OrchestratorMessage, UsageReceipt, UsageWindow
from tandem.protocol.models import ModelInfo
from tandem.waiting import Bell
from tests.fixtures.node import DOMAIN, NODE, OFFER, SENDER

MAX_UNPAID = 10**9
WINDOW = 0.05
_ANSWER, _OPENED = b"answer\n", b"opened\n"
_MODEL = ModelInfo(
    name="digits", version="1", artifact=f"sha256:{0:064x}", size=1, inputs=(), outputs=(), cost_us=1, memory=1
)


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class Wire:
    def __init__(self, writer: StreamWriter) -> None:
        self._writer = writer

    def send(self, message: OrchestratorMessage, _tensors: object = ()) -> None:
        frame = encode(Envelope(message))
        assert isinstance(frame, str)
        self._writer.write(frame.encode() + b"\n")

    def request(self, _head: bytes, _body: object, _reply: object) -> int:
        raise AssertionError("nothing is asked here")

    def cancel(self, _stream: int) -> None:
        raise AssertionError("nothing is asked here")

    def close(self, _code: str, _reason: str) -> None:
        self._writer.close()


async def orchestrator(folder: Path) -> None:
    clock, nodes = SystemClock(), Nodes()
    async with open_store(f"sqlite:///{folder / 'orchestrator.db'}", clock) as store:
        usage = Usage(store, nodes, clock, WINDOW, lambda: say("window"), CollectorRegistry())

        async def session(reader: StreamReader, writer: StreamWriter) -> None:
            wire = Wire(writer)
            offer = OFFER.model_copy(update={"max_unpaid": MAX_UNPAID})
            node = ConnectedNode(NODE.address, wire, offer, clock.now())
            nodes.add(node)
            for window in await usage.resume(NODE.address):
                wire.send(window)
            writer.write(_OPENED)
            while line := await reader.readline():
                if line == _ANSWER:
                    usage.add(NODE.address, "local", _MODEL, 1)
                elif line.endswith(b"\n"):
                    message = decode(line.decode()).message
                    assert isinstance(message, UsageReceipt)
                    await usage.receipt(node, message.id)
            nodes.remove(NODE.address, wire)
            usage.settle_soon()
            writer.close()

        (folder / "socket").unlink(missing_ok=True)
        async with await asyncio.start_unix_server(session, folder / "socket"):
            await usage.run()


async def node(folder: Path) -> None:
    clock, stop, served = SystemClock(), asyncio.Event(), 0
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with SqliteTicketStore(folder / "node.db", NODE.address, DOMAIN) as store, asyncio.TaskGroup() as group:
        books, link = Books(store, Bell(clock)), Link()
        await books.open(SENDER.address)
        usage = counting.Usage(books, link, clock, MAX_UNPAID)
        booking = group.create_task(usage.run())
        while not stop.is_set() or books.at_stake:
            try:
                reader, writer = await asyncio.open_unix_connection(folder / "socket")
            except OSError:
                await clock.sleep(0.01)
                continue
            served += await _converse(reader, writer, books, usage, link, stop)
        await usage.written()
        booking.cancel()
    say(served)


async def _converse(
    reader: StreamReader, writer: StreamWriter, books: Books, usage: counting.Usage, link: Link, stop: asyncio.Event
) -> int:
    """One session; how much was served in it."""
    windows: list[UsageWindow] = []
    while (line := await reader.readline()).endswith(b"}\n"):
        windows.append(_window(line))
    if line != _OPENED:
        return 0
    said, served = asyncio.Queue[Frame](), 0
    link.attach(said)
    usage.opened(SENDER.address, windows)
    reading = asyncio.create_task(_hear(reader, usage))
    while not reading.done():
        if not stop.is_set():
            usage.begin(SENDER.address, 1)
            usage.served(SENDER.address, 1)
            writer.write(_ANSWER)
            served += 1
        elif not books.at_stake:
            reading.cancel()
        while not said.empty():
            frame = said.get_nowait()
            assert isinstance(frame, str)
            writer.write(frame.encode() + b"\n")
        await asyncio.sleep(0.001)
    link.detach(said)
    writer.close()
    return served


async def _hear(reader: StreamReader, usage: counting.Usage) -> None:
    while (line := await reader.readline()).endswith(b"\n"):
        usage.receive(SENDER.address, _window(line))


def _window(line: bytes) -> UsageWindow:
    message = decode(line.decode()).message
    assert isinstance(message, UsageWindow)
    return message


if __name__ == "__main__":
    sides = {"orchestrator": orchestrator, "node": node}
    asyncio.run(sides[sys.argv[1]](Path(sys.argv[2])))
