"""Which node gets a request on line, where a model is made warm, and how many replicas there should be."""

from dataclasses import replace

import pytest

from orchestrator.core.online import (
    Candidate,
    Demand,
    Pace,
    Replica,
    ReplicaState,
    choose,
    has_spare,
    host,
    limit_of,
    unfit,
    wanted,
)
from orchestrator.core.scheduling import NodeState, Obstacle, Reason
from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.messages import WarmModel
from tandem.protocol.models import ModelInfo
from tests.fixtures.protocol import SHA, offer

MODEL = ModelInfo(name="m", version="1", artifact=SHA, size=1, inputs=(), outputs=(), cost_us=100, memory=100)


def candidate(
    node: str, price: int = 10, room: int = 100, reliability: float = 1.0, seconds: float | None = 0.01, busy: int = 0
) -> Candidate:
    replica = Replica(node, ReplicaState.READY, 0.0, limit=4, seconds=seconds, outstanding=busy)
    return Candidate(replica, price, room, reliability)


@pytest.mark.parametrize(
    "worse",
    [
        candidate("b", seconds=0.02),
        candidate("b", busy=1),
        candidate("b", price=20),
        candidate("b", reliability=0.5),
        candidate("b", busy=4),
        candidate("b", room=9),
        candidate("b", price=31, room=1000),
    ],
)
def test_the_node_that_should_answer_first_for_its_price_is_chosen(worse: Candidate) -> None:
    for candidates in ([candidate("a"), worse], [worse, candidate("a")]):
        best = choose(candidates, 30, ())
        assert best is not None
        assert best.replica.node == "a"


def test_a_node_that_failed_gets_a_request_again_only_if_no_other_is_there() -> None:
    best = choose([candidate("a"), candidate("b", seconds=9.0)], 30, ["a"])
    assert best is not None
    assert best.replica.node == "b"
    assert choose([candidate("a")], 30, ["a"]) is not None
    assert choose([candidate("a", busy=4)], 30, ()) is None


def node(address: str, **more: object) -> NodeState:
    return NodeState(address, offer(inference_second=10), {}, **more)  # type: ignore[arg-type]


def test_memory_to_spare_is_what_no_warm_model_takes() -> None:
    for taken, spare in ((3996, True), (3997, False)):
        warm = WarmModel(model=SHA, provider="CPUExecutionProvider", memory=taken * 2**20)
        offered = offer(capacity=Capacity(memory=4096)).model_copy(update={"models": (warm,)})
        assert has_spare(MODEL, replace(node("a"), offer=offered)) is spare


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (replace(node("a"), offer=offer(draining=True, inference_second=10)), "draining"),
        (node("a", has_terms=False), "terms"),
        (node("a", withheld=Reason(Obstacle.OVERDRAWN, "overdrawn by 5")), "overdrawn by 5"),
        (replace(node("a"), offer=offer(inference_second=11)), "asks 11 wei"),
        (replace(node("a"), offer=offer(inference_second=10, capacity=Capacity(memory=99))), "100 MiB of its 99"),
        (
            replace(node("a"), offer=offer(inference_second=10).model_copy(update={"capability": Capability()})),
            "no ONNX Runtime provider",
        ),
    ],
)
def test_a_model_is_not_loaded_where_it_cannot_be_served(state: NodeState, why: str) -> None:
    reason = unfit(MODEL, state, 10)
    assert reason is not None
    assert why in reason
    assert host(MODEL, [state], 10, ()) is None
    chosen = host(MODEL, [state, node("b")], 10, ())
    assert chosen is not None
    assert chosen.address == "b"
    assert host(MODEL, [node("b")], 10, ["b"]) is None


def test_the_cheaper_of_two_hosts_is_taken() -> None:
    cheap = replace(node("z"), offer=offer(inference_second=1))
    chosen = host(MODEL, [node("a"), cheap], 10, ())
    assert chosen is not None
    assert chosen.address == "z"


def test_a_node_has_more_than_it_runs_at_once_so_that_it_never_waits() -> None:
    assert limit_of(offer(capacity=Capacity(cpu=2000)), 1) == 6
    assert limit_of(offer(capacity=Capacity(cpu=2000)), 8) == 34


@pytest.mark.parametrize(
    ("demand", "replicas"),
    [
        (Demand(pinned=0, present=1, waiting=0, pressed=0, idle=1), 1),
        (Demand(pinned=0, present=1, waiting=5, pressed=0.5, idle=0), 1),
        (Demand(pinned=0, present=1, waiting=5, pressed=1.5, idle=0), 2),
        (Demand(pinned=3, present=1, waiting=0, pressed=0, idle=0), 3),
        (Demand(pinned=0, present=4, waiting=0, pressed=0, idle=400), 0),
        (Demand(pinned=1, present=4, waiting=0, pressed=0, idle=400), 1),
        (Demand(pinned=0, present=1, waiting=5, pressed=400, idle=400), 2),
    ],
)
def test_replicas_follow_demand(demand: Demand, replicas: int) -> None:
    assert wanted(demand, grow_after=1.0, idle_after=300.0) == replicas


def test_an_answer_is_late_by_what_is_usual() -> None:
    pace = Pace()
    assert pace.late == 1.0
    for _ in range(50):
        pace.add(0.010)
    assert 0.010 < pace.late < 0.012
    pace.add(0.100)
    assert pace.late > 0.1
