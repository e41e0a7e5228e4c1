"""Placement: no node is ever given more than it has, allows or is paid for, and `explain` tells the truth."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.records import ReadyTask, TaskRecord
from orchestrator.core.scheduling import Assignment, Load, NodeState, Obstacle, assign, explain
from tandem.protocol.capacity import Capacity, fits
from tandem.protocol.ids import AttemptRef, task_id
from tandem.protocol.jobs import InferenceWork, TaskState, TranscodeWork
from tandem.protocol.messages import Offer
from tandem.protocol.placement import need
from tandem.protocol.pricing import price_of
from tests.fixtures.protocol import JOB, inference_work, media, offer, tensor, transcode_work

modest = settings(max_examples=40, deadline=None)
WORKS: list[TranscodeWork | InferenceWork] = [
    transcode_work(),
    transcode_work(media(320, 240)),
    inference_work(tensor("x", 1.0)),
    inference_work(cost_us=10**7),
]
ADDRESSES = ("0xA", "0xB", "0xC", "0xD")


@st.composite
def offers(draw: st.DrawFn) -> Offer:
    made = offer(
        capacity=Capacity(cpu=draw(st.integers(0, 4000)), memory=draw(st.integers(0, 4000))),
        megapixel=draw(st.integers(0, 300)),
        inference_second=draw(st.integers(0, 10**6)),
        max_unpaid=draw(st.integers(0, 10**5) | st.just(10**9)),
        draining=draw(st.integers(0, 5)) == 0,
        encode_speed=draw(st.sampled_from([0, 10**6, 10**9])),
    )
    lacking: dict[str, tuple[str, ...]] = {"video_encoders": ()} if draw(st.integers(0, 5)) == 0 else {}
    return made.model_copy(update={"capability": made.capability.model_copy(update=lacking)})


loads = st.builds(Load, st.builds(Capacity, cpu=st.integers(0, 3000), memory=st.integers(0, 3000)), st.integers(0, 999))
busy = st.dictionaries(
    st.integers(1, 9).map(lambda number: AttemptRef(task=task_id(JOB, 999), number=number)), loads, max_size=2
)


def node_at(address: str) -> st.SearchStrategy[NodeState]:
    return st.builds(
        NodeState,
        address=st.just(address),
        offer=offers(),
        loads=busy,
        unpaid=st.integers(0, 10**4),
        has_terms=st.integers(0, 5).map(bool),
        reliability=st.floats(0.01, 1.0),
    )


nodes = st.lists(st.sampled_from(ADDRESSES), unique=True, max_size=4).flatmap(
    lambda chosen: st.tuples(*map(node_at, chosen)).map(list)
)


@st.composite
def waiting(draw: st.DrawFn) -> list[ReadyTask]:
    made = []
    for index in range(draw(st.integers(1, 6))):
        price = draw(st.integers(0, 500) | st.just(10**9))
        task = TaskRecord(task_id(JOB, index), draw(st.sampled_from(WORKS)), TaskState.WAITING, price)
        failed = draw(st.lists(st.sampled_from(ADDRESSES), unique=True, max_size=3))
        made.append(ReadyTask(task, tuple(failed)))
    return made


@modest
@given(waiting(), nodes)
def test_nothing_is_overbooked(tasks: list[ReadyTask], nodes: list[NodeState]) -> None:
    given_tasks = {ready.task.id: ready.task for ready in tasks}
    assignments = assign(tasks, nodes)
    assert len({assignment.task for assignment in assignments}) == len(assignments)
    for node in nodes:
        mine = [assignment for assignment in assignments if assignment.node == node.address]
        total = sum((assignment.need for assignment in mine), Capacity())
        assert fits(total, node.free)
        exposure = node.exposure + sum(assignment.price for assignment in mine)
        assert not mine or exposure <= node.offer.max_unpaid
        assert not mine or (node.has_terms and not node.offer.draining)
        for assignment in mine:
            task = given_tasks[assignment.task]
            assert assignment.price == price_of(task.work, node.offer.prices)
            assert assignment.price <= task.price
            assert assignment.need == need(task.work, node.offer.capability)
            assert isinstance(task.work, InferenceWork) or node.offer.capability.video_encoders


@modest
@given(waiting(), nodes)
def test_explain_agrees_with_assign(tasks: list[ReadyTask], nodes: list[NodeState]) -> None:
    ready = tasks[0]
    reasons = explain(ready, nodes)
    assert reasons.keys() == {node.address for node in nodes}
    willing = {address for address, found in reasons.items() if not found}
    placed = assign([ready], nodes)
    assert len(placed) == bool(willing)
    assert willing.issuperset(assignment.node for assignment in placed)
    for assignment in assign(tasks, nodes):
        loaded = _after(nodes, assign(tasks, nodes), assignment)
        found = explain(next(t for t in tasks if t.task.id == assignment.task), loaded)
        assert found[assignment.node] == ()


def _after(nodes: list[NodeState], assignments: list[Assignment], last: Assignment) -> list[NodeState]:
    """The nodes as they were when the last of these assignments was made."""
    states = {node.address: node for node in nodes}
    for number, made in enumerate(assignments[: assignments.index(last)], 1):
        node = states[made.node]
        ref = AttemptRef(task=made.task, number=number)
        states[made.node] = replace(node, loads={**node.loads, ref: Load(made.need, made.price)})
    return list(states.values())


@modest
@given(waiting(), nodes)
def test_what_an_idle_and_paid_network_does_not_take_is_said_to_last(
    tasks: list[ReadyTask], nodes: list[NodeState]
) -> None:
    """A task is never kept from its last chance: a failed node is avoided only for one that could really take it."""
    idle = [replace(node, loads={}, unpaid=0) for node in nodes]
    for ready in tasks:
        reasons = explain(ready, idle)
        obstacles = {address: {reason.obstacle for reason in found} for address, found in reasons.items()}
        if any(found == {Obstacle.FAILED_BEFORE} for found in obstacles.values()):
            assert assign([ready], idle)


@modest
@given(waiting(), nodes)
def test_older_tasks_come_first(tasks: list[ReadyTask], nodes: list[NodeState]) -> None:
    alone = assign(tasks[:1], nodes)
    assert assign(tasks, nodes)[: len(alone)] == alone
