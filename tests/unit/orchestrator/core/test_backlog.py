"""Which jobs are prepared or exported, and when again."""

from dataclasses import replace

from orchestrator.core.backlog import BacklogPolicy, after_failure, due, next_due
from orchestrator.core.records import PreparationRecord

POLICY = BacklogPolicy(concurrency=3, per_owner=2, tries=3, backoff=2.0, backoff_max=3.0)


def waiting(job: str, owner: str = "ann", not_before: float = 0) -> PreparationRecord:
    return PreparationRecord(job, owner, not_before=not_before)


def test_the_oldest_come_first_up_to_what_runs_at_once() -> None:
    records = [waiting(job, owner=job) for job in "abcde"]
    assert due(records, {}, 10, POLICY) == records[:3]
    assert due(records, {"a": "a", "x": "x"}, 10, POLICY) == [records[1]]
    assert due(records, {"x": "x", "y": "y", "z": "z"}, 10, POLICY) == []


def test_one_owner_does_not_hold_up_the_others() -> None:
    records = [waiting("a"), waiting("b"), waiting("c"), waiting("d", "bob")]
    assert [each.job for each in due(records, {}, 10, POLICY)] == ["a", "b", "d"]
    assert [each.job for each in due(records, {"a": "ann", "b": "ann"}, 10, POLICY)] == ["d"]


def test_one_that_backs_off_waits_for_its_time() -> None:
    records = [waiting("a", not_before=11), waiting("b", not_before=12), waiting("c", not_before=10)]
    assert due(records, {}, 10, POLICY) == [records[2]]
    assert next_due(records, 10) == 11
    assert next_due(records, 12) is None


def test_a_failure_that_may_pass_is_tried_again_ever_later_and_not_for_ever() -> None:
    record = replace(waiting("a"), source="sha256:1")
    first = after_failure(record, 100, POLICY, retryable=True)
    assert first == replace(record, tries=1, not_before=102)
    second = after_failure(first, 200, POLICY, retryable=True)
    assert second == replace(record, tries=2, not_before=203)
    assert after_failure(second, 300, POLICY, retryable=True) is None
    assert after_failure(record, 100, POLICY, retryable=False) is None
