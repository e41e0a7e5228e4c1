"""Cutting and joining by child processes, a bounded number at a time."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pydantic import BaseModel, Field, ValidationError

import orchestrator
from orchestrator.ports.packaging import CutPart, CutParts, Cutting, Joining
from tandem.clock import Clock
from tandem.process import Confinement, Limits, python_command, python_runtime, run
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import AttemptTimeout, ChildCrashed, ResultRejected, TooLarge, Unavailable

_MODULE = "orchestrator.children.packaging"
_MEMORY_MIB = 1024
_SECONDS = 120
_SLOWEST_READ = 2**22
"""Bytes a second."""
_MAX_ANSWER = 2**24


class ChildPackager:
    """The Packager port. What comes while `concurrency` children run waits its turn.

    `folder` is where they work; what lies there at the start was left by a crash, and goes.
    """

    def __init__(self, folder: Path, *, sandbox: Sandbox, clock: Clock, concurrency: int = 2) -> None:
        self._folder = folder
        self._sandbox = sandbox
        self._clock = clock
        self._turns = asyncio.Semaphore(concurrency)
        shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def room(self) -> AsyncIterator[Path]:
        room = await asyncio.to_thread(_make_room, self._folder)
        try:
            yield room
        finally:
            await asyncio.to_thread(shutil.rmtree, room)

    async def cut(self, order: Cutting) -> tuple[CutPart, ...]:
        paths = {path for part in order.parts for path in _paths(part)}
        return (await self._run(order, paths, order.folder)).parts

    async def join(self, order: Joining) -> None:
        await self._run(order, {*order.windows, *order.sounds}, order.target.parent)

    async def _run(self, order: Cutting | Joining, given: set[Path], folder: Path) -> CutParts:
        argv = python_command(_MODULE, order.model_dump_json())
        readable = (*python_runtime(orchestrator), *sorted(given))
        confinement = Confinement(self._sandbox, readable=readable, writable=(folder,))
        try:
            async with self._turns:
                done = await run(
                    argv, limits=_limits(given), confinement=confinement, clock=self._clock, max_output=_MAX_ANSWER
                )
        except (ChildCrashed, AttemptTimeout, TooLarge) as error:
            raise ResultRejected(f"expected files that can be put together within bounds; {error.detail}") from error
        if done.status:
            reason = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.status}"
            raise Unavailable(f"expected an answer from {_MODULE}, got: {reason}")
        return _parse(done.stdout)


def _make_room(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(mkdtemp(dir=folder)).resolve()


def _paths(part: BaseModel) -> list[Path]:
    return [value for _, value in part if isinstance(value, Path)]


def _limits(given: set[Path]) -> Limits:
    size = sum(path.stat().st_size for path in given)
    seconds = _SECONDS + size // _SLOWEST_READ
    return Limits(
        memory_mib=_MEMORY_MIB, wall_seconds=2 * seconds, cpu_seconds=seconds, file_bytes=2 * size + _MAX_ANSWER
    )


class _Reply(BaseModel):
    """What a child says. One that was taken over by its file may say anything."""

    result: dict[str, Any] | None = None
    refused: str | None = Field(default=None, max_length=4096)


def _parse(stdout: bytes) -> CutParts:
    try:
        reply = _Reply.model_validate_json(stdout)
        if reply.refused is None:
            return CutParts.model_validate(reply.result)
    except ValidationError as error:
        raise ResultRejected(f"expected an answer within bounds, got {error.errors()[0]['msg']}") from error
    raise ResultRejected(reply.refused)
