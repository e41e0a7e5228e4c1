"""The memory of requests, and one key's share of it."""

import pytest

from orchestrator.web.oip.memory import Memory
from tandem.protocol.errors import Overloaded


def test_one_key_leaves_memory_to_others() -> None:
    memory = Memory(1000, 0.5)
    with memory.claim() as ann, memory.claim() as bob:
        ann.owner, bob.owner = "ann", "bob"
        ann.take(400)
        with pytest.raises(Overloaded, match=r"at most 100 bytes, left of 500 for one key \(limits.inference_share\)"):
            ann.take(101)
        bob.take(500)
        with pytest.raises(Overloaded, match="at most 0 bytes"):
            bob.take(1)
    assert memory.used == 0
    with memory.claim() as again:
        again.owner = "ann"
        again.take(500)
