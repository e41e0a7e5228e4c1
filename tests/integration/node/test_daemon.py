"""The daemon against a scripted orchestrator over a real WebSocket. No chain answers, unless a test brings one."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from node.app import serve
from node.ports.execution import Detected
from node.service.attempts import Executors
from node.settings import (
    NodeSettings,
    OrchestratorSection,
    PriceSection,
    RedemptionSection,
    TicketSection,
)
from orchestrator.core.session import Close, Proven
from tandem.chain.settings import ChainSection
from tandem.clock import SystemClock
from tandem.protocol.media import VideoCodec
from tandem.protocol.messages import (
    Assign,
    Cancel,
    Failed,
    Finished,
    HeldAttempt,
    OfferUpdate,
    Problem,
    Verdict,
)
from tandem.protocol.messages import PaymentReceipt as Receipt
from tests.fixtures.node import (
    DOMAIN,
    NODE,
    OFFER,
    TENSOR,
    ScriptedExecutors,
    inference,
    payment,
    ref,
    terms,
    transcode,
    until,
)
from tests.fixtures.peer import Peer, serving


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with serving(Peer()) as peer:
        yield peer


def settings(data: Path, peer: Peer, **chain: object) -> NodeSettings:
    data.mkdir(exist_ok=True)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    found = {
        "rpc": f"http://127.0.0.1:{port}",
        "contract": DOMAIN.contract,
        "poll": 0.02,
        "confirmations": 1,
        "stall": 0,
    } | chain
    return NodeSettings(
        data=data,
        grace=0.3,
        orchestrator=OrchestratorSection(url=peer.origin),
        chain=ChainSection(**found),
        prices=PriceSection(megapixel={VideoCodec.H264: 1000}, track_minute=0, inference_second=10**9),
        tickets=TicketSection(odds=1, min_face_value=1000, max_face_value=1000, lifetime=3600, max_unpaid=10**6),
        redemption=RedemptionSection(gas_percent=100),
    )


@asynccontextmanager
async def daemon(settings: NodeSettings, work: ScriptedExecutors) -> AsyncIterator[asyncio.Event]:
    """A running node; leaving stops it, and waits for its end."""
    stop = asyncio.Event()
    executors = Executors(work, work, work, settings.data)
    detected = Detected(OFFER.capability, OFFER.capacity)
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(settings, NODE, detected, executors, SystemClock(), stop))
        yield stop
        stop.set()


@pytest.fixture
def work() -> ScriptedExecutors:
    return ScriptedExecutors()


async def assign(peer: Peer, assign: Assign) -> None:
    await peer.say(assign, (TENSOR,) if assign.work.kind == "inference" else ())


async def test_it_offers_works_and_is_judged(tmp_path: Path, peer: Peer, work: ScriptedExecutors) -> None:
    async with daemon(settings(tmp_path, peer), work):
        proven = await peer.hears(Proven)
        assert (proven.node, proven.offer, proven.held) == (NODE.address, OFFER, ())
        await assign(peer, inference(1))
        await peer.hears(Finished)
        await assign(peer, transcode(2))
        await peer.hears(Finished)
        for number in (1, 2):
            await peer.say(Verdict(ref=ref(number), accepted=True))
        await peer.drop()
        assert (await peer.hears(Proven)).held == ()


async def test_a_running_attempt_survives_a_drop(tmp_path: Path, peer: Peer, work: ScriptedExecutors) -> None:
    work.release.clear()
    async with daemon(settings(tmp_path, peer), work):
        await peer.hears(Proven)
        await assign(peer, inference(1))
        await work.begun.wait()
        peer.keep = (ref(1),)
        await peer.drop()
        assert (await peer.hears(Proven)).held == (HeldAttempt(ref=ref(1), finished=False),)
        work.release.set()
        assert (await peer.hears(Finished)).ref == ref(1)
        await peer.drop()
        assert (await peer.hears(Proven)).held == (HeldAttempt(ref=ref(1), finished=True),)
        assert (await peer.hears(Finished)).ref == ref(1)


async def test_what_is_not_kept_is_dropped(tmp_path: Path, peer: Peer, work: ScriptedExecutors) -> None:
    work.release.clear()
    async with daemon(settings(tmp_path, peer), work):
        await peer.hears(Proven)
        await assign(peer, inference(1))
        await work.begun.wait()
        await peer.drop()
        await peer.hears(Proven)
        await until(lambda: work.stopped)


async def test_heartbeats_name_what_runs_and_losing_one_stops_it(
    tmp_path: Path, peer: Peer, work: ScriptedExecutors
) -> None:
    work.release.clear()
    peer.heartbeat = 0.1
    async with daemon(settings(tmp_path, peer), work):
        await peer.hears(Proven)
        await assign(peer, inference(1))
        await until(lambda: peer.heartbeats and peer.heartbeats[-1].attempts == (ref(1),))
        peer.lost = (ref(1),)
        await until(lambda: work.stopped)


async def test_a_cancelled_attempt_stops(tmp_path: Path, peer: Peer, work: ScriptedExecutors) -> None:
    work.release.clear()
    async with daemon(settings(tmp_path, peer), work):
        await peer.hears(Proven)
        await assign(peer, inference(1))
        await work.begun.wait()
        await peer.say(Cancel(ref=ref(1), reason="the customer left"))
        await until(lambda: work.stopped)


async def test_a_stop_hands_back_what_does_not_finish(tmp_path: Path, peer: Peer, work: ScriptedExecutors) -> None:
    work.release.clear()
    async with daemon(settings(tmp_path, peer), work) as stop:
        await peer.hears(Proven)
        await assign(peer, inference(1))
        await work.begun.wait()
        stop.set()
        assert (await peer.hears(OfferUpdate)).offer.draining
        failed = await peer.hears(Failed)
        assert (failed.ref, failed.code, failed.retryable) == (ref(1), "attempt_returned", True)
        await peer.say(Verdict(ref=ref(1), accepted=False))
    assert work.stopped == 1


async def test_an_unknown_message_is_refused_and_the_session_goes_on(
    tmp_path: Path, peer: Peer, work: ScriptedExecutors
) -> None:
    async with daemon(settings(tmp_path, peer), work):
        await peer.hears(Proven)
        await peer.say_frame('{"type": "sing"}')
        problem = await peer.hears(Problem)
        assert (problem.code, problem.fatal) == ("unknown_message", False)
        await assign(peer, inference(1))
        await peer.hears(Finished)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ('{"type": "verdict"}', "malformed_message"),
        ("nonsense", "malformed_message"),
        (b"\x00", "malformed_message"),
        ('{"type": "heartbeat"}', "message_out_of_order"),
    ],
)
async def test_what_breaks_the_rules_ends_the_session(
    tmp_path: Path, peer: Peer, work: ScriptedExecutors, frame: str | bytes, code: str
) -> None:
    async with daemon(settings(tmp_path, peer), work):
        await peer.hears(Proven)
        await peer.say_frame(frame)
        problem = await peer.hears(Problem)
        assert (problem.code, problem.fatal) == (code, True)
        await _skip_until_proven(peer)


async def test_a_forged_orchestrator_gets_no_proof(tmp_path: Path, peer: Peer, work: ScriptedExecutors) -> None:
    peer.claims = "http://elsewhere:80"
    async with daemon(settings(tmp_path, peer), work):
        assert (await peer.hears(Close)).code == "forged_identity"
        peer.claims = None
        await _skip_until_proven(peer)


async def test_an_orchestrator_that_is_not_there_is_dialled_again(tmp_path: Path, work: ScriptedExecutors) -> None:
    dialled = asyncio.Event()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        dialled.set()

    nobody = await asyncio.start_server(hang_up, "127.0.0.1")
    port = nobody.sockets[0].getsockname()[1]
    peer = Peer(origin=f"http://127.0.0.1:{port}")
    async with daemon(settings(tmp_path, peer), work) as stop:
        async with nobody, asyncio.timeout(10):
            await dialled.wait()
        async with serving(peer, port):
            await peer.hears(Proven)
            stop.set()


async def test_a_node_that_reaches_nobody_stops_at_once(tmp_path: Path, peer: Peer, work: ScriptedExecutors) -> None:
    gone = settings(tmp_path, peer).model_copy(update={"orchestrator": OrchestratorSection(url="http://127.0.0.1:1")})
    async with asyncio.timeout(5), daemon(gone, work) as stop:
        stop.set()


async def test_without_the_chain_work_goes_on_and_payments_wait(
    tmp_path: Path, peer: Peer, work: ScriptedExecutors
) -> None:
    async with daemon(settings(tmp_path, peer), work):
        await peer.hears(Proven)
        await peer.say(payment(terms()))
        receipt = await peer.hears(Receipt)
        assert (receipt.accepted, receipt.code) == (False, "ticket_params_unknown")
        for number in range(1, 11):
            await assign(peer, inference(number))
            await peer.hears(Finished)
            await peer.say(Verdict(ref=ref(number), accepted=True))
        await assign(peer, inference(11))
        assert (await peer.hears(Failed)).code == "exposure_exceeded"


async def test_an_unpaid_balance_survives_a_restart(tmp_path: Path, peer: Peer, work: ScriptedExecutors) -> None:
    for first in (1, 6):
        async with daemon(settings(tmp_path, peer), work):
            await peer.hears(Proven)
            for number in range(first, first + 5):
                await assign(peer, inference(number))
                await peer.hears(Finished)
                await peer.say(Verdict(ref=ref(number), accepted=True))
            await peer.drop()
            await peer.hears(Proven)
            if first == 6:
                await assign(peer, inference(11))
                assert (await peer.hears(Failed)).code == "exposure_exceeded"
        while not peer.heard.empty():
            peer.heard.get_nowait()


async def _skip_until_proven(peer: Peer) -> None:
    async with asyncio.timeout(20):
        while not isinstance(await peer.heard.get(), Proven):
            pass


async def test_the_pinned_sender_is_demanded(tmp_path: Path, peer: Peer, work: ScriptedExecutors) -> None:
    pinned = settings(tmp_path, peer)
    section = OrchestratorSection(url=peer.origin, sender=NODE.address)
    async with daemon(pinned.model_copy(update={"orchestrator": section}), work):
        assert (await peer.hears(Close)).code == "forged_identity"
        peer.sender = NODE.address
        await _skip_until_proven(peer)
