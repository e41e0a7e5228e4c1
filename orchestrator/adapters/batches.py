"""Reading inputs of batches and writing their results by child processes, a bounded number at a time."""

from pathlib import Path

from orchestrator.adapters.children import MAX_ANSWER, Order, Workshop, size_of
from orchestrator.core.sharding import BatchFacts
from orchestrator.ports.batches import Reading, Writing, Written
from tandem.process import Limits
from tandem.protocol.errors import ResultRejected, UnreadableBatch

_MODULE = "orchestrator.children.batch"
_MEMORY_MIB = 2048
_SECONDS = 120
_SLOWEST_READ = 2**20
"""Bytes a second: JSON is taken apart number by number."""
_MOST_BYTES = 2**35
"""Of a file that a child writes; what it reads bounds it further."""


class ChildBatches(Workshop):
    """The Batches port. What comes while `concurrency` children run waits its turn."""

    async def read(self, order: Reading) -> BatchFacts:
        given = frozenset({order.path})
        writable = () if order.target is None else (order.target.parent,)
        asked = Order(
            module=_MODULE, text=order.model_dump_json(), what="a file of rows", given=given, writable=writable
        )
        return await self.ask(asked, BatchFacts, UnreadableBatch, _limits(given))

    async def write(self, order: Writing) -> Written:
        given = frozenset({order.source, *order.shards})
        folder = (order.target.parent,)
        asked = Order(module=_MODULE, text=order.model_dump_json(), what="answers", given=given, writable=folder)
        return await self.ask(asked, Written, ResultRejected, _limits(given))


def _limits(given: frozenset[Path]) -> Limits:
    size = size_of(given)
    seconds = _SECONDS + size // _SLOWEST_READ
    return Limits(
        memory_mib=_MEMORY_MIB,
        wall_seconds=2 * seconds,
        cpu_seconds=seconds,
        file_bytes=min(_MOST_BYTES, 100 * size + 16 * MAX_ANSWER),
    )
