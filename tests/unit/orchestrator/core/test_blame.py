from orchestrator.core.blame import scores
from orchestrator.core.records import AttemptRecord
from tandem.protocol.ids import AttemptRef, task_id
from tandem.protocol.jobs import AttemptState

TASK = task_id("job_" + "0" * 28, 0)


def attempt(number: int, node: str, state: AttemptState) -> AttemptRecord:
    return AttemptRecord(AttemptRef(task=TASK, number=number), node, state, price=1, started_at=0.0, lease_until=1.0)


def test_an_input_that_fails_everywhere_speaks_against_no_node() -> None:
    failed = [attempt(number, f"0x{number}", AttemptState.FAILED) for number in (1, 2)]
    assert [scores(each, failed) for each in failed] == [[], []]


def test_who_failed_what_another_then_does_is_blamed_once() -> None:
    failed = [attempt(1, "0xA", AttemptState.FAILED), attempt(2, "0xA", AttemptState.FAILED)]
    done = attempt(3, "0xB", AttemptState.ACCEPTED)
    assert scores(done, [*failed, done]) == [("0xB", True), ("0xA", False)]
    late = attempt(4, "0xC", AttemptState.FAILED)
    assert scores(late, [*failed, done, late]) == [("0xC", False)]


def test_what_was_found_wrong_or_came_to_nothing_is_blamed_at_once() -> None:
    for state in (AttemptState.REJECTED, AttemptState.EXPIRED):
        assert scores(attempt(1, "0xA", state), [attempt(1, "0xA", state)]) == [("0xA", False)]
    for state in (AttemptState.RETURNED, AttemptState.CANCELLED):
        assert scores(attempt(1, "0xA", state), []) == []
