"""The values of a shard's answers: some rows, drawn once all answers are there, are run again as requests on line."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator.core.checks import Given
from orchestrator.core.online import OnlineCall
from orchestrator.core.records import AttemptRecord, JobSnapshot
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.service.checks import Checks
from tandem.protocol.errors import NotFound, ResultRejected
from tandem.protocol.jobs import BatchRequest, BatchWork
from tandem.protocol.models import ModelInfo
from tandem.protocol.outputs import BatchOutput
from tandem.protocol.rows import Row, read_rows
from tandem.protocol.tensors import Tensor

_SECONDS = 30.0
"""For all rows of a shard, since its verdict waits for them."""
_MOST_ROWS = 8
"""Of one shard."""
_MOST_BYTES = 2**26
"""Of their inputs and outputs, beyond the first row."""

Find = Callable[[str, str, str | None], Awaitable[ModelInfo]]


@dataclass(frozen=True, slots=True)
class _Pair:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        return sum(len(tensor.data) for tensor in (*self.inputs, *self.outputs))


class ShardChecks:
    def __init__(self, checks: Checks, artifacts: ArtifactStore, find: Find) -> None:
        self._checks = checks
        self._artifacts = artifacts
        self._find = find

    async def check(
        self, snapshot: JobSnapshot, attempt: AttemptRecord, work: BatchWork, output: BatchOutput, answers: Path
    ) -> None:
        """Raises ResultRejected if two other nodes agree on something else than the shard has.

        Without another node where the model is ready, or within its time, nothing is checked.
        """
        model = await self._model(snapshot)
        wanted = self._checks.drawn_rows(attempt.node, work.rows, _MOST_ROWS)
        if not wanted or model is None or model.digest != work.digest or not self._checks.ready(model, attempt.node):
            return
        async with self._artifacts.local(work.source) as source:
            pairs = await asyncio.to_thread(_pairs, work, source, answers, output.file.size, wanted)
        outputs = tuple(spec.name for spec in work.outputs)
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                for pair in pairs:
                    call = OnlineCall(snapshot.job.owner, model, pair.inputs, outputs)
                    await self._judge(call, Given(attempt.node, output.provider, pair.outputs))

    async def _judge(self, call: OnlineCall, given: Given) -> None:
        ruling = await self._checks.check(call, given)
        if given.node in ruling.outvoted:
            raise ResultRejected("expected what other nodes answer too, got a row on which two agree on another")

    async def _model(self, snapshot: JobSnapshot) -> ModelInfo | None:
        request = snapshot.job.request
        if not isinstance(request, BatchRequest):
            return None
        try:
            return await self._find(snapshot.job.owner, request.model, request.version)
        except NotFound:  # it was deleted since
            return None


def _pairs(work: BatchWork, source: Path, answers: Path, size: int, wanted: Collection[int]) -> list[_Pair]:
    """The rows of these numbers with what was answered, less those on which the model failed."""
    found: list[_Pair] = []
    with source.open("rb") as given, answers.open("rb") as got:
        for place, (row, answer) in enumerate(zip(_run_rows(given, work), read_rows(got, size), strict=True)):
            if place not in wanted or answer.fault is not None:
                continue
            found.append(_Pair(row.tensors, answer.tensors))
            if sum(pair.size for pair in found) > _MOST_BYTES:
                break
    return found


def _run_rows(file: BinaryIO, work: BatchWork) -> Iterator[Row]:
    """Those that are to be run."""
    file.seek(work.span[0])
    return (row for row in read_rows(file, work.span[1]) if row.fault is None)
