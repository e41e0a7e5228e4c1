"""What a node says of a shard is looked at row by row."""

from collections.abc import Sequence

import pytest

from orchestrator.core.verification import check_answers, check_confirmed
from tandem.protocol.errors import ResultRejected
from tandem.protocol.jobs import BatchFormat, BatchWork
from tandem.protocol.outputs import BatchOutput, FileResult
from tandem.protocol.rows import Fault, Row
from tandem.protocol.tensors import Datatype, Tensor, TensorSpec

WORK = BatchWork(
    model="sha256:" + "0" * 64,
    model_size=1,
    source="sha256:" + "1" * 64,
    source_size=100,
    span=(0, 100),
    rows=3,
    format=BatchFormat.JSONL,
    outputs=(TensorSpec(name="y", datatype=Datatype.INT64, shape=(-1,)),),
    cost_us=3,
)
GOOD = Row((Tensor("y", Datatype.INT64, (1,), bytes(8)),))
BAD = Row(fault=Fault(code="execution_failed", detail="no"))


def output(*failed: int) -> BatchOutput:
    file = FileResult(name="rows", artifact="sha256:" + "2" * 64, size=1)
    return BatchOutput(file=file, provider="CPUExecutionProvider", failed=failed)


def test_good_answers_are_taken() -> None:
    check_answers(WORK, output(), [GOOD] * 3)
    check_answers(WORK, output(1), [GOOD, BAD, GOOD])


def y(datatype: Datatype, *shape: int, size: int = 8) -> Row:
    return Row((Tensor("y", datatype, shape, bytes(size)),))


@pytest.mark.parametrize(
    ("rows", "failed", "expected"),
    [
        ([GOOD] * 2, (), "expected answers to 3 rows, got 2"),
        ([GOOD] * 4, (), "expected answers to 3 rows, got 4"),
        ([GOOD, GOOD, y(Datatype.FP64, 1)], (), "answer 2 of the shard: tensor 'y': expected datatype INT64"),
        ([y(Datatype.INT64, 1, 1), GOOD, GOOD], (), "answer 0 of the shard: tensor 'y': expected shape"),
        ([y(Datatype.INT64, 1, size=9), GOOD, GOOD], (), "expected 8 bytes"),
        ([Row(), GOOD, GOOD], (), "expected the outputs ['y']"),
        ([BAD, GOOD, GOOD], (), "expected of the rows that failed [], got [0]"),
        ([GOOD, GOOD, GOOD], (1,), "expected of the rows that failed [1], got []"),
    ],
)
def test_what_is_wrong_is_named(rows: Sequence[Row], failed: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ResultRejected) as rejected:
        check_answers(WORK, output(*failed), rows)
    assert expected in rejected.value.detail


def test_only_lines_can_say_that_a_row_failed() -> None:
    work = WORK.model_copy(update={"format": BatchFormat.NPZ})
    with pytest.raises(ResultRejected, match="none"):
        check_answers(work, output(1), [GOOD, BAD, GOOD])


def test_a_failure_is_believed_once_another_attempt_says_the_same() -> None:
    check_confirmed(output(), [])
    with pytest.raises(ResultRejected, match="failure on 1 of the shard, first on row 5"):
        check_confirmed(output(5), [])
    with pytest.raises(ResultRejected, match="first on row 5"):
        check_confirmed(output(4, 5), [output(4)])
    check_confirmed(output(4, 5), [output(4), output(5)])
