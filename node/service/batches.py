"""Shards of batches: a run of the model for each row, several at once where the model allows it, and a file of answers.

What the model itself makes of a row is that row's matter: where the submitter's format can say so, the row is told to
have failed, and the others go on. A worker that dies is not the row's fault, unless it does so twice on the same row.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from node.ports.execution import ModelRun, Report
from tandem.protocol.errors import (
    AttemptTimeout,
    ChildCrashed,
    ExecutionFailed,
    InvalidTensor,
    MalformedMessage,
    TandemError,
    TooLarge,
    TransferFailed,
)
from tandem.protocol.jobs import BatchWork
from tandem.protocol.outputs import MAX_FAILED_ROWS
from tandem.protocol.rows import MAX_DETAIL, Fault, Row, pack_row, read_rows
from tandem.protocol.tensors import Datatype, Tensor

Run = Callable[[tuple[Tensor, ...]], Awaitable[ModelRun]]
"""One run of the model."""

_ROW_FAULTS = (ExecutionFailed, InvalidTensor, TooLarge)
_WORKER_FAULTS = (ChildCrashed, AttemptTimeout)
_PART_BYTES = 2**22
"""Of rows that are read, or written, at once."""
_PART_ROWS = 256
_ALL = 1000


class ShardRun:
    """One shard, from the file of its rows to the file of its answers."""

    def __init__(self, work: BatchWork, run: Run, report: Report) -> None:
        self._work = work
        self._run = run
        self._report = report
        self._batched = work.max_batch > 1
        self._done = 0
        self.failed: list[int] = []
        """Rows of the shard, from 0."""
        self._providers: set[str] = set()

    @property
    def provider(self) -> str:
        """All that ran it."""
        return ",".join(sorted(self._providers))[:64] or "none"

    async def perform(self, source: Path, target: Path) -> None:
        """Raises TransferFailed for rows that are broken, and whatever the model or its worker fails of."""
        with source.open("rb") as given, target.open("wb") as out:
            given.seek(self._work.span[0])
            rows = (row for row in read_rows(given, self._work.span[1]) if row.fault is None)
            while part := await asyncio.to_thread(_part, rows):
                answers: list[Row] = []
                for group in _alike(part, self._work.max_batch):
                    answers += await self._group(group)
                    self._done += len(group)
                    self._report(min(_ALL, _ALL * self._done // self._work.rows), None)
                await asyncio.to_thread(_write, out, answers)
        if self._done != self._work.rows:
            raise TransferFailed(f"expected {self._work.rows} rows in the shard, got {self._done}; fetch it again")

    async def _group(self, group: Sequence[Row]) -> list[Row]:
        if self._batched and len(group) > 1:
            try:
                return await self._together(group)
            except (*_ROW_FAULTS, *_WORKER_FAULTS):  # one of them may be at fault: the others are not to pay for it
                pass
        return [await self._alone(row, self._done + place) for place, row in enumerate(group)]

    async def _together(self, group: Sequence[Row]) -> list[Row]:
        done = await self._run(_stacked(group))
        split = _unstacked(done.outputs, len(group))
        if split is None:  # it does not give a row for a row
            self._batched = False
            raise InvalidTensor("expected as many rows of each output as of the inputs")
        self._providers.add(done.provider)
        return split

    async def _alone(self, row: Row, place: int) -> Row:
        try:
            try:
                return await self._one(row)
            except _WORKER_FAULTS:
                return await self._one(row)
        except (*_ROW_FAULTS, *_WORKER_FAULTS) as error:
            return self._fault(error, place)

    async def _one(self, row: Row) -> Row:
        done = await self._run(row.tensors)
        self._providers.add(done.provider)
        return Row(done.outputs)

    def _fault(self, error: TandemError, place: int) -> Row:
        if not self._work.lenient or len(self.failed) >= MAX_FAILED_ROWS:
            raise error
        self.failed.append(place)
        return Row(fault=Fault(code=error.code, detail=error.detail[:MAX_DETAIL]))


def _part(rows: Iterator[Row]) -> list[Row]:
    part: list[Row] = []
    size = 0
    try:
        for row in islice(rows, _PART_ROWS):
            part.append(row)
            size += sum(len(tensor.data) for tensor in row.tensors)
            if size >= _PART_BYTES:
                break
    except MalformedMessage as error:
        raise TransferFailed(f"expected a file of rows as it was sent, got {error.detail}") from error
    return part


def _write(out: BinaryIO, answers: Sequence[Row]) -> None:
    out.writelines(pack_row(row) for row in answers)


def _alike(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    """Groups of rows that can be put together: one row each along the first axis, and the same otherwise."""
    group: list[Row] = []
    for row in rows:
        if group and (len(group) == most or not _fit(group[0], row)):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _fit(one: Row, other: Row) -> bool:
    return _kinds(one) == _kinds(other) and all(tensor.shape[:1] == (1,) for tensor in one.tensors)


def _kinds(row: Row) -> list[tuple[object, ...]]:
    return [(tensor.name, tensor.datatype, tensor.shape) for tensor in row.tensors]


def _stacked(group: Sequence[Row]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name=first.name,
            datatype=first.datatype,
            shape=(len(group), *first.shape[1:]),
            data=b"".join(row.tensors[index].data for row in group),
        )
        for index, first in enumerate(group[0].tensors)
    )


def _unstacked(outputs: Sequence[Tensor], count: int) -> list[Row] | None:
    """None if the outputs do not have a row for each row, or not of one size."""
    if any(tensor.shape[:1] != (count,) or len(tensor.data) % count for tensor in outputs):
        return None
    if any(tensor.datatype is Datatype.BYTES for tensor in outputs):
        return None
    return [Row(tuple(_slice(tensor, count, place) for tensor in outputs)) for place in range(count)]


def _slice(tensor: Tensor, count: int, place: int) -> Tensor:
    size = len(tensor.data) // count
    data = tensor.data[place * size : (place + 1) * size]
    return Tensor(name=tensor.name, datatype=tensor.datatype, shape=(1, *tensor.shape[1:]), data=data)
