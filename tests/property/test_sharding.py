"""Shards have every row once, in order, whatever the rows and the nodes are like."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.sharding import MAX_SHARDS, Block, shards

BLOCKS = st.lists(
    st.builds(
        Block,
        rows=st.integers(0, 1000),
        size=st.integers(1, 2**26),
        faulty=st.integers(0, 5),
        units=st.integers(0, 10**6),
    ),
    min_size=1,
    max_size=300,
).filter(lambda blocks: any(block.rows for block in blocks))


@given(BLOCKS, st.integers(1, 10**6), st.integers(0, 100), st.integers(0, 10**6))
def test_every_row_is_in_one_shard(blocks: list[Block], cost_us: int, lanes: int, row_bytes: int) -> None:
    found = shards(blocks, cost_us, lanes, row_bytes)
    assert found[0].start == 0
    assert [each.end for each in found[:-1]] == [each.start for each in found[1:]]
    assert found[-1].end == sum(block.size for block in blocks)
    for name in ("rows", "units", "faulty"):
        assert sum(getattr(each, name) for each in found) == sum(getattr(block, name) for block in blocks)
    assert all(each.rows for each in found), "none is for nothing"
    edges = {sum(block.size for block in blocks[:count]) for count in range(len(blocks) + 1)}
    assert edges >= {each.end for each in found}
    assert len(found) <= 2 * MAX_SHARDS
