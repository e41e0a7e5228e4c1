"""Memory that the daemon and one worker share, so that tensors are copied once in each direction."""

import fcntl
import mmap
import os
from collections.abc import Sequence

from node.children.wire import HALF_LANE, Layout
from tandem.protocol.tensors import Tensor

_KEEP_BYTES = 16 * 2**20
"""Of each half of a lane; what a larger request took beyond it goes back to the system."""
_PAGE = mmap.PAGESIZE


class SharedLanes:
    """Lanes take no memory until they are written to. Reading gives copies, since the worker may write at any time."""

    def __init__(self, count: int) -> None:
        size = count * 2 * HALF_LANE
        self.descriptor = os.memfd_create("tandem-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size)
        # A worker that shrank it would kill the daemon by SIGBUS.
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._memory = mmap.mmap(self.descriptor, size)

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)

    def write(self, lane: int, offset: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Lays pieces of an input one after the other."""
        at = lane * 2 * HALF_LANE + offset
        for piece in pieces:
            end = at + len(piece)
            self._memory[at:end] = piece
            at = end

    def read(self, lane: int, layout: Layout) -> tuple[Tensor, ...]:
        base, memory = (lane * 2 + 1) * HALF_LANE, self._memory
        return tuple(
            [
                Tensor(meta.name, meta.datatype, meta.shape, memory[base + at : base + at + meta.size])
                for meta, at in zip(layout.metas, layout.offsets, strict=True)
            ]
        )

    def trim(self, lane: int, inputs: int, outputs: int) -> None:
        """After a request of so many bytes."""
        for half, used in ((lane * 2, inputs), (lane * 2 + 1, outputs)):
            if used > _KEEP_BYTES:
                start = -(-(half * HALF_LANE + _KEEP_BYTES) // _PAGE) * _PAGE
                length = (half * HALF_LANE + used - start) // _PAGE * _PAGE
                if length > 0:
                    self._memory.madvise(mmap.MADV_REMOVE, start, length)
