"""The WebSocket that nodes dial, on a real server: who is let in, who is not, and what either leaves behind."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web
from prometheus_client import CollectorRegistry

from node.core.session import Challenged, Expectation, NodeSession
from orchestrator.adapters.artifacts import open_artifacts
from orchestrator.adapters.inspection import ChildInspector
from orchestrator.adapters.store import open_store
from orchestrator.core.blame import RetryPolicy
from orchestrator.core.paying import PayingPolicy
from orchestrator.core.session import Identity, Proven
from orchestrator.ports.nodes import NodeLink
from orchestrator.service.events import JobEvents
from orchestrator.service.lifecycle import Bells, Lifecycle
from orchestrator.service.nodes import Nodes
from orchestrator.service.online import Online, OnlinePolicy
from orchestrator.service.paying import Payer
from orchestrator.service.replicas import ReplicaPolicy, Replicas
from orchestrator.service.scheduling import Timeouts
from orchestrator.service.sessions import Collaborators, Sessions
from orchestrator.service.tracking import Tracker
from orchestrator.service.usage import Usage
from orchestrator.service.verification import Verifier
from orchestrator.web.call import Call
from orchestrator.web.session import NodeSessions
from orchestrator.web.signing import UrlSigner
from tandem.clock import SystemClock
from tandem.protocol.capacity import Sandbox
from tandem.protocol.codec import Envelope, Frame, decode, encode
from tandem.protocol.errors import Unavailable
from tandem.protocol.messages import Heartbeat, HeartbeatReply, Message, Offer, Problem, Verdict, Welcome
from tandem.protocol.models import ModelInfo
from tandem.protocol.signing import SigningKey
from tandem.waiting import Bell
from tests.fixtures.online import unchecked
from tests.fixtures.protocol import DOMAIN, NODE, ORIGIN, REF, SENDER, SIGNER, STRANGER, offer

IDENTITY = Identity(SIGNER, SENDER.address, DOMAIN, ORIGIN)
PAYING = PayingPolicy(max_ahead=10**6, max_face_value=10**6)
EXPECTATION = Expectation(ORIGIN, DOMAIN)


class Doors(Sessions):
    """Knows when the last node has left; may fail to take one in, or judge its work while it comes in."""

    broken = False
    verdict: Verdict | None = None

    async def opened(self, proven: Proven, link: NodeLink) -> Welcome:
        welcome = await super().opened(proven, link)
        if self.verdict is not None:
            link.send(self.verdict)
        if self.broken:
            raise Unavailable("expected the store to answer")
        return welcome


@dataclass
class Served:
    url: str
    http: ClientSession
    nodes: Nodes
    doors: Doors
    endpoint: NodeSessions

    def dial(self) -> AbstractAsyncContextManager[ClientWebSocketResponse]:
        return self.http.ws_connect(self.url)


async def no_models() -> list[ModelInfo]:
    return []


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    clock, nodes, events, tracker = SystemClock(), Nodes(), JobEvents(), Tracker()
    async with (
        open_store(f"sqlite:///{tmp_path / 'db'}", clock) as store,
        open_artifacts(tmp_path / "artifacts") as disk,
        ClientSession() as http,
    ):
        waiting, owed = Bell(clock), Bell(clock)
        lifecycle = Lifecycle(store, nodes, events, tracker, RetryPolicy(), Bells(waiting.ring, owed.ring))
        inspector = ChildInspector(sandbox=Sandbox.LIMITS, clock=clock)
        verifier = Verifier(store, disk, inspector, unchecked, lifecycle, clock)
        payer = Payer(store, nodes, IDENTITY, PAYING, owed)
        usage = Usage(store, nodes, clock, 1.0, owed.ring, CollectorRegistry())
        replicas = partial(Replicas, nodes, UrlSigner(bytes(32), ORIGIN, clock), clock, ReplicaPolicy(1))
        online = Online(nodes, replicas, usage, no_models, clock, price=1, policy=OnlinePolicy())
        timeouts = Timeouts(lease=30, start_to_finish_base=60, start_to_finish_factor=1)
        doors = Doors(
            Collaborators(
                store, nodes, lifecycle, verifier, payer, usage, online, events, tracker, waiting, clock, timeouts
            )
        )
        endpoint = NodeSessions(IDENTITY, doors, heartbeat=15)

        async def handle(request: web.Request) -> web.StreamResponse:
            return await endpoint.handle(Call(request, "", None))  # type: ignore[arg-type]

        app = web.Application()
        app.router.add_get("/session", handle)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        try:
            yield Served(f"http://{host}:{port}/session", http, nodes, doors, endpoint)
        finally:
            await endpoint.close()
            await runner.cleanup()


async def send(socket: ClientWebSocketResponse, message: Message) -> None:
    frame: Frame = encode(Envelope(message))
    assert isinstance(frame, str)
    await socket.send_str(frame)


async def prove(socket: ClientWebSocketResponse, key: SigningKey = NODE, offered: Offer | None = None) -> Message:
    """Opens as `NODE` would, but signs as `key`; what is answered to the proof."""
    machine = NodeSession(EXPECTATION, NODE, b"n" * 32)
    machine._key = key
    hello = machine.hello().message
    await send(socket, hello.model_copy(update={"address": NODE.address}))
    machine._key = NODE
    (challenged,) = machine.receive(decode((await socket.receive()).data))
    assert isinstance(challenged, Challenged)
    machine._key = key
    (proof,) = machine.prove(offered or offer(), ())
    await send(socket, proof.message)
    answer = await socket.receive()
    assert answer.type is WSMsgType.TEXT, answer
    return decode(answer.data).message


async def gone(socket: ClientWebSocketResponse) -> None:
    """Reads until the end."""
    async for _ in socket:
        pass


async def test_a_node_that_proves_itself_is_there_until_it_leaves(served: Served) -> None:
    async with served.dial() as socket:
        welcome = await prove(socket)
        assert isinstance(welcome, Welcome)
        assert welcome.limits == PAYING.limits
        assert [node.address for node in served.nodes] == [NODE.address]
        await send(socket, Heartbeat(attempts=(REF,)))
        assert decode((await socket.receive()).data).message == HeartbeatReply(lost=(REF,))
        await served.endpoint.close()
        await gone(socket)
    assert len(served.nodes) == 0


async def test_nothing_is_said_to_a_node_before_its_welcome(served: Served) -> None:
    served.doors.verdict = Verdict(ref=REF, accepted=True)
    async with served.dial() as socket:
        assert isinstance(await prove(socket), Welcome)
        assert decode((await socket.receive()).data).message == served.doors.verdict


async def test_a_forged_node_is_told_so_and_not_let_in(served: Served) -> None:
    async with served.dial() as socket:
        answer = await prove(socket, key=STRANGER)
        assert isinstance(answer, Problem)
        assert (answer.code, answer.fatal) == ("forged_identity", True)
        await gone(socket)
    assert len(served.nodes) == 0


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (encode(Envelope(Heartbeat())), "message_out_of_order"),
        ("{}", "malformed_message"),
        ('{"type": "gossip"}', "unknown_message"),
        (b"\xff\xff\xff\xff", "malformed_message"),
    ],
    ids=["too early", "malformed", "unknown", "binary"],
)
async def test_whoever_breaks_the_rules_before_proving_itself_is_sent_away(
    served: Served, frame: Frame, code: str
) -> None:
    async with served.dial() as socket:
        await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
        problem = decode((await socket.receive()).data).message
        assert isinstance(problem, Problem)
        assert (problem.code, problem.fatal) == (code, True)
        await gone(socket)
    assert len(served.nodes) == 0


async def test_a_node_that_does_not_prove_itself_in_time_is_sent_away(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.web.session._HANDSHAKE_SECONDS", 0.05)
    async with served.dial() as socket:
        await gone(socket)
        assert socket.close_code is not None


async def test_a_node_that_could_not_be_taken_in_leaves_no_trace(served: Served) -> None:
    served.doors.broken = True
    async with served.dial() as socket:
        with pytest.raises(AssertionError):  # the connection ends instead of an answer
            await prove(socket)
    assert len(served.nodes) == 0


async def test_a_newer_session_takes_the_place_of_the_older(served: Served) -> None:
    async with served.dial() as older, served.dial() as newer:
        assert isinstance(await prove(older), Welcome)
        assert isinstance(await prove(newer), Welcome)
        await gone(older)
        assert len(served.nodes) == 1
        await send(newer, Heartbeat())
        assert decode((await newer.receive()).data).message == HeartbeatReply()
