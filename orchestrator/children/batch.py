"""Main of the child process that reads inputs of batches and writes their results; its order is the first argument."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, assert_never

from pydantic import TypeAdapter

from orchestrator.children.batch_inputs import detect, rows_of
from orchestrator.children.batch_outputs import write_answers
from orchestrator.core.sharding import MAX_BLOCKS, BatchFacts, Block
from orchestrator.ports.batches import Reading, Writing
from tandem.inspection.answer import answer
from tandem.protocol.errors import UnreadableBatch
from tandem.protocol.pricing import inference_cost
from tandem.protocol.rows import Row, pack_row

ORDER: TypeAdapter[Reading | Writing] = TypeAdapter(Reading | Writing)

MAX_ROWS = 10**7
MAX_FAULTS = 10**5
"""Rows that a model does not take: with more, it is another file that was meant."""
_EXPANSION = 100
_FREE_BYTES = 2**28
MAX_BYTES = 2**34
"""Of the file of rows: whatever a file expands to, it takes no more, nor more than a hundred times itself."""


def perform(text: str) -> dict[str, Any]:
    """The order in JSON. Raises InvalidRequest, ResultRejected, MalformedMessage."""
    order = ORDER.validate_json(text)
    match order:
        case Reading():
            return read(order).model_dump()
        case Writing():
            return write_answers(order).model_dump()
    assert_never(order)


def read(order: Reading) -> BatchFacts:
    """Raises UnreadableBatch."""
    kind = order.format or detect(order.path)
    bound = min(MAX_BYTES, _FREE_BYTES + _EXPANSION * order.path.stat().st_size)
    tally = _Tally(bound)
    first_fault = ""
    with ExitStack() as stack:
        target = stack.enter_context(order.target.open("wb")) if order.target else None
        for row in rows_of(kind, order.path, order.inputs, order.outputs):
            if row.fault is not None:
                first_fault = first_fault or row.fault.detail
            units = (
                0
                if row.fault
                else inference_cost(1, order.measured or order.inputs, [each.meta for each in row.tensors])
            )
            tally.add(_write(target, row), units, faulty=row.fault is not None)
    if not tally.rows:
        raise UnreadableBatch(f"expected at least one row that the model takes; {first_fault or 'there is no row'}")
    return BatchFacts(format=kind, blocks=tuple(tally.blocks()))


def _write(target: BinaryIO | None, row: Row) -> int:
    packed = pack_row(row)
    if target is not None:
        target.write(packed)
    return len(packed)


class _Tally:
    """Rows in blocks. When there are too many blocks, each two become one, and further ones are as large."""

    def __init__(self, most_bytes: int) -> None:
        self.rows = 0
        self.faulty = 0
        self._most_bytes = most_bytes
        self._size = 0
        self._each = 1
        self._blocks: list[list[int]] = []
        self._open = [0, 0, 0, 0]
        self._count = 0

    def add(self, size: int, units: int, *, faulty: bool) -> None:
        """Raises UnreadableBatch for more than is taken."""
        self.rows += not faulty
        self.faulty += faulty
        self._size += size
        self._check()
        for place, amount in enumerate((not faulty, size, faulty, units)):
            self._open[place] += amount
        self._count += 1
        if self._count == self._each:
            self._close()

    def blocks(self) -> Iterator[Block]:
        if self._count:
            self._close()
        return (Block(rows=a, size=b, faulty=c, units=d) for a, b, c, d in self._blocks)

    def _close(self) -> None:
        if len(self._blocks) == MAX_BLOCKS:
            pairs = zip(self._blocks[::2], self._blocks[1::2], strict=True)
            self._blocks = [[one + two for one, two in zip(a, b, strict=True)] for a, b in pairs]
            self._each *= 2
        self._blocks.append(self._open)
        self._open, self._count = [0, 0, 0, 0], 0

    def _check(self) -> None:
        if self.rows > MAX_ROWS or self.faulty > MAX_FAULTS or self._size > self._most_bytes:
            raise UnreadableBatch(
                f"expected at most {MAX_ROWS} rows, {MAX_FAULTS} faulty ones and {self._most_bytes} bytes of tensors, "
                f"got {self.rows}, {self.faulty} and {self._size} by then; cut the file into several"
            )


if __name__ == "__main__":
    answer(perform)
