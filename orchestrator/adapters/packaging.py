"""Cutting and joining by child processes, a bounded number at a time."""

from pathlib import Path

from pydantic import BaseModel

from orchestrator.adapters.children import MAX_ANSWER, Order, Workshop, size_of
from orchestrator.ports.packaging import CutPart, CutParts, Cutting, Joining, Pictures
from tandem.process import Limits
from tandem.protocol.errors import ResultRejected

_MODULE = "orchestrator.children.packaging"
_MEMORY_MIB = 1024
_SECONDS = 120
_SLOWEST_READ = 2**22
"""Bytes a second."""


class ChildPackager(Workshop):
    """The Packager port. What comes while `concurrency` children run waits its turn."""

    async def cut(self, order: Cutting) -> tuple[CutPart, ...]:
        paths = {path for part in order.parts for path in _paths(part)}
        sources = {part.follower.source for part in order.parts if isinstance(part, Pictures) and part.follower}
        return (await self._run(order, paths | sources, order.folder, _limits(paths))).parts

    async def join(self, order: Joining) -> None:
        paths = {*order.windows, *(each.path for each in (*order.sounds, *order.texts))}
        await self._run(order, paths, order.target.parent, _limits(paths))

    async def _run(self, order: Cutting | Joining, given: set[Path], folder: Path, limits: Limits) -> CutParts:
        what = "files that can be put together"
        asked = Order(module=_MODULE, text=order.model_dump_json(), what=what, given=given, writable=(folder,))
        return await self.ask(asked, CutParts, ResultRejected, limits)


def _paths(part: BaseModel) -> list[Path]:
    return [value for _, value in part if isinstance(value, Path)]


def _limits(given: set[Path]) -> Limits:
    size = size_of(given)
    seconds = _SECONDS + size // _SLOWEST_READ
    return Limits(
        memory_mib=_MEMORY_MIB, wall_seconds=2 * seconds, cpu_seconds=seconds, file_bytes=2 * size + MAX_ANSWER
    )
