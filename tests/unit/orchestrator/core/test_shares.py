"""What one owner may hold, and whose turn it is."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.shares import Holdings, Line, Room


def drained(line: Line[str]) -> list[str]:
    found = []
    while line.owners:
        owner = line.owners[0]
        entry = line.take(owner)
        found += [] if entry is None else [entry[2]]
        line.over(owner)
    return found


def test_owners_take_turns_and_priority_is_among_ones_own() -> None:
    line: Line[str] = Line()
    for owner, priority, item in (("a", 0, "a1"), ("a", 0, "a2"), ("a", 9, "a3"), ("b", -1, "b1"), ("b", 0, "b2")):
        line.add(owner, priority, item)
    line.add("a", 0, "again", before=True)
    assert len(line) == len(list(line)) == 6
    assert drained(line) == ["a3", "b2", "again", "b1", "a1", "a2"]
    assert len(line) == 0


def test_what_is_put_back_keeps_its_owners_turn() -> None:
    line: Line[str] = Line()
    line.add("a", 0, "a1")
    line.add("b", 0, "b1")
    entry = line.take("a")
    assert entry is not None
    line.put_back("a", entry)
    assert (line.owners, len(line)) == (["a", "b"], 2)
    line.keep(lambda item: item != "a1")
    assert (line.owners, len(line), list(line)) == (["b"], 1, ["b1"])
    assert line.take("a") is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 2)), max_size=60))
def test_nobody_waits_for_more_than_one_of_each_other_owner(added: list[tuple[str, int]]) -> None:
    line: Line[str] = Line()
    for owner, priority in added:
        line.add(owner, priority, owner)
    found, left = drained(line), Counter(owner for owner, _ in added)
    assert Counter(found) == left
    for place, owner in enumerate(found):
        later = found[place + 1 :]
        between = later[: later.index(owner)] if owner in later else []
        assert len(set(between)) == len(between)


def test_one_owner_has_its_share_and_others_the_rest() -> None:
    room, held = Room(4, 100, 0.5), Holdings()
    for _ in range(2):
        assert room.refusal(0, held, "a", 10) is None
        room.add(held, "a", 10)
    assert room.refusal(2, held, "a", 10) == "fewer than 2 requests of one key (online.share)"
    assert room.refusal(2, Holdings(), "a", 31) == "at most 50 bytes of one key (online.share)"
    assert room.refusal(2, held, "b", 50) is None
    assert room.refusal(2, held, "b", 81) == "at most 100 bytes (online.queue_bytes)"
    assert room.refusal(4, held, "b", 1) == "fewer than 4 requests (online.queue)"
    room.drop(held, "a", 10)
    assert room.refusal(1, held, "a", 10) is None
