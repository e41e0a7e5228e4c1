"""A batch as shards: rows that follow each other, run by one node each.

A shard takes some seconds by the model's measured cost, so that little is lost with a node, and the last ones are
smaller, so that no node ends long after the others. Rows are counted in blocks, as the file was read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tandem.protocol.ids import Frozen
from tandem.protocol.jobs import BatchFormat

MAX_BLOCKS = 4096
MAX_SHARDS = 250
"""As far as their effort goes; as far as bytes go, so many again. Every step of a job reads all of its tasks."""
ROW_US = 500
"""What a row takes beside the model's own run."""
_SHORTEST_US = 1_000_000
_LONGEST_US = 10_000_000
_MOST_BYTES = 2**26
"""Of a shard's inputs, unless a single block has more."""


class Block(Frozen):
    """Rows that follow each other in the file of rows."""

    rows: Annotated[int, Field(ge=0, lt=2**31)]
    """To be run."""
    size: Annotated[int, Field(ge=1, lt=2**40)]
    """Bytes."""
    faulty: Annotated[int, Field(ge=0, lt=2**31)] = 0
    units: Annotated[int, Field(ge=0, lt=2**53)]
    """Of the model's nominal cost, of all rows together."""


class BatchFacts(Frozen):
    """What is in a file of inputs."""

    format: BatchFormat
    blocks: Annotated[tuple[Block, ...], Field(min_length=1, max_length=MAX_BLOCKS)]

    @property
    def rows(self) -> int:
        """To be run."""
        return sum(block.rows for block in self.blocks)

    @property
    def faulty(self) -> int:
        """Rows that the model does not take; of JSON Lines alone."""
        return sum(block.faulty for block in self.blocks)

    @property
    def units(self) -> int:
        return sum(block.units for block in self.blocks)

    @property
    def size(self) -> int:
        """Bytes of the file of rows."""
        return sum(block.size for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Shard:
    start: int
    """The byte of the file of rows at which it begins."""
    end: int
    """Exclusive."""
    rows: int
    units: int
    faulty: int = 0


def shards(blocks: Sequence[Block], cost_us: int, lanes: int, row_bytes: int = 0) -> list[Shard]:
    """Every row in exactly one, in order. `cost_us`: of a unit; `lanes`: shards that may run at the same time.

    `row_bytes`: the least that a row gives. There is at least one row to be run.
    """
    efforts = [block.units * cost_us + block.rows * ROW_US for block in blocks]
    left = sum(efforts)
    least = max(_SHORTEST_US, left // MAX_SHARDS + 1)
    found: list[list[Block]] = [[]]
    effort = size = 0
    target, most = _target(left, lanes, least), _bytes(blocks, row_bytes)
    for block, its in zip(blocks, efforts, strict=True):
        full = effort >= target or size + block.size + block.rows * row_bytes > most
        if full and any(each.rows for each in found[-1]):
            left -= effort
            found.append([])
            effort, size, target = 0, 0, _target(left, lanes, least)
        found[-1].append(block)
        effort += its
        size += block.size + block.rows * row_bytes
    if len(found) > 1 and not any(each.rows for each in found[-1]):
        found[-2].extend(found.pop())
    return _placed(found)


def _target(left: int, lanes: int, least: int) -> int:
    """Microseconds: half of what each lane would get of the rest."""
    return max(least, min(_LONGEST_US, left // (2 * max(1, lanes))))


def _bytes(blocks: Sequence[Block], row_bytes: int) -> int:
    total = sum(block.size + block.rows * row_bytes for block in blocks)
    return max(_MOST_BYTES, 2 * total // MAX_SHARDS)


def _placed(found: Sequence[Sequence[Block]]) -> list[Shard]:
    placed, start = [], 0
    for group in found:
        end = start + sum(block.size for block in group)
        rows, units, faulty = (sum(getattr(block, name) for block in group) for name in ("rows", "units", "faulty"))
        placed.append(Shard(start, end, rows, units, faulty))
        start = end
    return placed
