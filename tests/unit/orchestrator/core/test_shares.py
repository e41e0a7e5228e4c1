"""What one owner may hold, and whose turn it is."""

from orchestrator.core.shares import Holdings, Room, Turns


def test_owners_take_turns_whoever_came_first() -> None:
    turns = Turns()
    waiting = sorted((turns.next(0, owner), order, owner) for order, owner in enumerate("aaaabb"))
    assert [owner for *_, owner in waiting] == ["a", "b", "a", "b", "a", "a"]


def test_whoever_comes_late_is_in_the_round_that_follows() -> None:
    turns = Turns()
    assert [turns.next(0, "a") for _ in range(4)] == [1, 2, 3, 4]
    turns.served(0, 2)
    turns.served(0, 0)  # a second attempt goes before all, and changes no turn
    assert (turns.next(0, "b"), turns.next(0, "a"), turns.next(5, "b")) == (3, 5, 1)


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
