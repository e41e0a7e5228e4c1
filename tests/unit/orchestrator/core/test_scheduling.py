from dataclasses import replace

from orchestrator.core.records import ReadyTask, TaskRecord
from orchestrator.core.scheduling import Load, NodeState, Obstacle, Reason, assign, explain
from tandem.protocol.capacity import Capacity
from tandem.protocol.ids import AttemptRef, task_id
from tandem.protocol.jobs import InferenceWork, TaskState, TranscodeWork
from tests.fixtures.protocol import JOB, inference_work, offer, transcode_work

WORK = transcode_work()
PRICE = 10**6
LOAD = Load(Capacity(cpu=8000), 5)
ELSEWHERE = AttemptRef(task=task_id(JOB, 99), number=1)


def ready(index: int = 0, *failed: str, work: TranscodeWork | InferenceWork = WORK, price: int = PRICE) -> ReadyTask:
    return ReadyTask(TaskRecord(task_id(JOB, index), work, TaskState.WAITING, price), failed)


def node(address: str, **more: object) -> NodeState:
    fields = {name: more.pop(name) for name in ("loads", "unpaid", "has_terms", "reliability") if name in more}
    return NodeState(address, offer(**more), **({"loads": {}} | fields))  # type: ignore[arg-type]


def obstacles(task: ReadyTask, *nodes: NodeState) -> dict[str, list[Obstacle]]:
    return {address: [r.obstacle for r in reasons] for address, reasons in explain(task, nodes).items()}


def placed(tasks: list[ReadyTask], *nodes: NodeState) -> list[str]:
    return [assignment.node for assignment in assign(tasks, nodes)]


def test_the_better_node_is_chosen() -> None:
    assert placed([ready()], node("0xA", encode_speed=10**6), node("0xB", encode_speed=10**7)) == ["0xB"]
    assert placed([ready()], node("0xA", megapixel=200), node("0xB", megapixel=100)) == ["0xB"]
    assert placed([ready()], node("0xA", reliability=0.3), node("0xB")) == ["0xB"]
    assert placed([ready()], node("0xB"), node("0xA")) == ["0xA"]


def test_work_is_spread() -> None:
    tasks = [ready(index) for index in range(4)]
    assert sorted(placed(tasks, node("0xA"), node("0xB"))) == ["0xA", "0xA", "0xB", "0xB"]


def test_every_obstacle_is_told() -> None:
    blind = node("0xH")
    no_encoder = blind.offer.capability.model_copy(update={"video_encoders": ()})
    blind = replace(blind, offer=blind.offer.model_copy(update={"capability": no_encoder}))
    mute = blind.offer.prices.model_copy(update={"megapixel": {}})
    nodes = {
        "0xA": node("0xA", draining=True),
        "0xB": node("0xB", has_terms=False),
        "0xG": replace(node("0xG"), withheld=Reason(Obstacle.OVERDRAWN, "refused")),
        "0xC": node("0xC", megapixel=10**9),
        "0xD": node("0xD", unpaid=10**9),
        "0xE": node("0xE", loads={ELSEWHERE: LOAD}),
        "0xF": replace(node("0xF"), offer=node("0xF").offer.model_copy(update={"prices": mute})),
        "0xH": blind,
    }
    found = obstacles(ready(), *nodes.values())
    assert found.pop("0xC")[0] is Obstacle.PRICE
    assert found == {
        "0xA": [Obstacle.DRAINING],
        "0xB": [Obstacle.NO_TERMS],
        "0xD": [Obstacle.EXPOSURE],
        "0xE": [Obstacle.CAPACITY],
        "0xF": [Obstacle.PRICE],
        "0xG": [Obstacle.OVERDRAWN],
        "0xH": [Obstacle.CANNOT],
    }
    assert assign([ready()], list(nodes.values())) == []


def test_it_is_said_when_a_node_will_never_let_itself_be_owed_so_much() -> None:
    careful = node("0xA")
    careful = replace(careful, offer=careful.offer.model_copy(update={"max_unpaid": 10}), unpaid=5)
    (reason,) = explain(ready(), [careful])["0xA"]
    assert reason.obstacle is Obstacle.EXPOSURE
    assert "never lets itself be owed more than 10: give it a smaller job" in reason.detail


def test_a_model_needs_a_provider() -> None:
    bare = node("0xA")
    none = bare.offer.capability.model_copy(update={"execution_providers": ()})
    bare = replace(bare, offer=bare.offer.model_copy(update={"capability": none}))
    assert obstacles(ready(work=inference_work()), bare)["0xA"] == [Obstacle.CANNOT]


def test_a_failed_node_is_avoided_while_another_can_take_the_task() -> None:
    busy = node("0xB", loads={ELSEWHERE: LOAD})
    assert placed([ready(0, "0xA")], node("0xA"), node("0xB")) == ["0xB"]
    assert obstacles(ready(0, "0xA"), node("0xA"), busy)["0xA"] == [Obstacle.FAILED_BEFORE]


def test_a_failed_node_is_not_avoided_for_one_that_never_can() -> None:
    small = node("0xB", capacity=Capacity(cpu=999, memory=10**5))
    cautious = node("0xC", max_unpaid=1)
    assert placed([ready(0, "0xA")], node("0xA"), small, cautious) == ["0xA"]


def test_failed_nodes_take_turns() -> None:
    """The fastest cannot keep a task by failing it again and again."""
    fast, slow = node("0xA", encode_speed=10**12), node("0xB", encode_speed=1)
    assert placed([ready(0, "0xB", "0xA")], fast, slow) == ["0xB"]
    assert placed([ready(0, "0xA", "0xB")], fast, slow) == ["0xA"]


def test_exposure_counts_work_in_hand() -> None:
    (first,) = assign([ready()], [node("0xA")])
    barely = node("0xA", max_unpaid=2 * first.price - 1)
    assert len(placed([ready(0), ready(1)], barely)) == 1
    assert len(placed([ready(0), ready(1)], replace(barely, unpaid=1))) == 1
    assert placed([ready()], replace(barely, unpaid=first.price)) == []


def test_free_work_is_placed() -> None:
    assert placed([ready(price=0)], node("0xA", megapixel=0)) == ["0xA"]
    assert placed([ready(work=inference_work(), price=0)], node("0xA", inference_second=0)) == ["0xA"]


def test_the_node_that_has_the_source_is_preferred() -> None:
    large = WORK.model_copy(update={"source_size": 10**10})
    has_it = replace(node("0xB"), sources=frozenset({WORK.source}))
    assert placed([ready(work=large)], node("0xA"), has_it) == ["0xB"]
    assert placed([ready(work=large)], node("0xA"), replace(has_it, loads={ELSEWHERE: LOAD})) == ["0xA"]


def test_a_node_that_was_slower_than_it_promised_is_not() -> None:
    assert placed([ready()], replace(node("0xA"), pace=0.5), node("0xB")) == ["0xB"]
