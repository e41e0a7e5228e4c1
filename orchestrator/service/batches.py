"""The files of batches: what a submitter gave becomes rows for nodes, and what nodes gave one file for the submitter.

Both are made by a confined child process, and named by their content: whatever ends this process, doing it once more
gives the same, and what was stored without being written down is the janitor's.
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from orchestrator.core.batches import FILES, batch_format, done_shards, total_rows
from orchestrator.core.packaging import JobFile
from orchestrator.core.records import JobSnapshot
from orchestrator.core.sharding import BatchFacts
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.batches import Batches, Reading, Writing
from orchestrator.ports.store import Store
from orchestrator.service.made import is_own, pieces
from tandem.protocol.errors import AssemblyFailed, UnreadableBatch
from tandem.protocol.jobs import BatchRequest
from tandem.protocol.models import ModelInfo
from tandem.protocol.tensors import TensorSpec

_LARGEST: Final = 2**50
_ROWS_TYPE = "application/octet-stream"


class BatchFiles:
    def __init__(self, store: Store, artifacts: ArtifactStore, batches: Batches) -> None:
        self._store = store
        self._artifacts = artifacts
        self._batches = batches

    async def look(
        self, source: str, request: BatchRequest, model: ModelInfo, outputs: tuple[TensorSpec, ...]
    ) -> BatchFacts:
        """What is in the file. Raises UnreadableBatch, NotFound, Unavailable."""
        async with self._artifacts.local(source) as path:
            order = _reading(path, request, model, outputs)
            return await self._batches.read(order)

    async def rows(
        self, source: str, request: BatchRequest, model: ModelInfo, outputs: tuple[TensorSpec, ...]
    ) -> tuple[BatchFacts, str]:
        """As above, with the artifact of its rows."""
        async with self._batches.room() as room, self._artifacts.local(source) as path:
            target = room / "rows"
            order = _reading(path, request, model, outputs, target)
            found = await self._batches.read(order)
            if not await asyncio.to_thread(is_own, target) or target.stat().st_size != found.size:
                raise UnreadableBatch(f"expected {found.size} bytes of rows, got something else in their place")
            artifact, size = await self._artifacts.write(pieces(target), _LARGEST)
            await self._store.add_artifact(artifact, size, _ROWS_TYPE)
        return found, artifact

    async def results(self, snapshot: JobSnapshot) -> JobFile:
        """One file of the answers of all shards. Raises AssemblyFailed, Unavailable."""
        shards, kind = done_shards(snapshot), batch_format(snapshot)
        request = snapshot.job.request
        if kind is None or not isinstance(request, BatchRequest):
            raise AssemblyFailed("expected a batch with shards, got another job")
        assert request.version is not None  # noqa: S101 - it was pinned when the job was submitted
        if sum(shard.work.rows for shard in shards) != total_rows(snapshot):
            raise AssemblyFailed(f"expected every shard once, got {[shard.work.span for shard in shards]}")
        name, media_type = FILES[kind]
        async with self._batches.room() as room, AsyncExitStack() as stack:

            async def lent(artifact: str) -> Path:
                return await stack.enter_async_context(self._artifacts.local(artifact))

            target = room / name
            await self._batches.write(
                Writing(
                    model=request.model,
                    version=request.version,
                    source=await lent(shards[0].work.source),
                    shards=tuple([await lent(shard.output.file.artifact) for shard in shards]),
                    outputs=shards[0].work.outputs,
                    format=kind,
                    target=target,
                )
            )
            if not await asyncio.to_thread(is_own, target):
                raise AssemblyFailed(f"expected the file {name} to be made, got something else in its place")
            artifact, size = await self._artifacts.write(pieces(target), _LARGEST)
            await self._store.add_artifact(artifact, size, media_type)
        return JobFile(path=name, artifact=artifact, media_type=media_type, size=size)


def _reading(
    path: Path, request: BatchRequest, model: ModelInfo, outputs: tuple[TensorSpec, ...], target: Path | None = None
) -> Reading:
    return Reading(
        path=path,
        inputs=model.inputs,
        measured=model.cost_inputs,
        outputs=outputs,
        format=request.format,
        target=target,
    )
