from collections.abc import Mapping

import pytest

from node.core.standing import Exposure, Note, Topic, chain_standing, obstacles
from tests.fixtures.node import NOW

NOTHING_OWED = Exposure(0, 10**15)


def notes(**texts: str) -> Mapping[str, Note]:
    alive = Note(Topic.ALIVE, str(int(NOW)), NOW)
    return {Topic.ALIVE: alive} | {topic: Note(topic, text, NOW - 60) for topic, text in texts.items()}


def test_a_node_that_is_well_has_no_problems() -> None:
    well = notes(session="", terms="", backing="", chain="", redemption="")
    assert obstacles(well, NOTHING_OWED, NOW) == ()


@pytest.mark.parametrize("known", [{}, notes()])
def test_a_node_that_is_not_running_has_one_problem(known: Mapping[str, Note]) -> None:
    (problem,) = obstacles(known, Exposure(10**15, 10**15), NOW + 151)
    assert problem == "the node is not running: start it with `tandem node run`"


@pytest.mark.parametrize("topic", ["session", "terms", "backing", "payments", "chain", "redemption"])
def test_what_is_wrong_is_said_with_its_time(topic: str) -> None:
    (problem,) = obstacles(notes(**{topic: "the reason"}), NOTHING_OWED, NOW + 149)
    assert problem.endswith(", since 2027-01-15 07:59:00 UTC: the reason")


def test_a_node_that_is_owed_too_much_takes_no_work() -> None:
    first, second = obstacles(notes(session="gone"), Exposure(10**15, 10**15), NOW)
    assert first == (
        "0.001 ether of work is unpaid and tickets.max_unpaid is 0.001 ether: no work is taken until tickets come"
    )
    assert "gone" in second


@pytest.mark.parametrize(
    ("exposure", "count"),
    [
        (Exposure(0, 1, outstanding=3 * 10**9, promised=8 * 10**9, face_value=10**9), 0),
        (Exposure(0, 1, outstanding=3 * 10**9 + 1, promised=8 * 10**9, face_value=10**9), 1),
        (Exposure(0, 1, outstanding=0, promised=0, face_value=10**9), 0),
        (Exposure(0, 1, outstanding=3 * 10**9, promised=None, face_value=10**9), 0),
    ],
    ids=["room", "full", "nothing promised", "not known"],
)
def test_a_promise_that_is_used_up_is_named(exposure: Exposure, count: int) -> None:
    problems = obstacles(notes(), exposure, NOW)
    assert len(problems) == count
    assert all("the contract promises 8 gwei" in problem for problem in problems)


def test_a_chain_that_is_away_is_away_since_a_time_if_the_node_noted_it() -> None:
    assert chain_standing(notes(chain="timeout"), None) == "answers"
    assert chain_standing(notes(), "refused") == "no answer: refused"
    assert chain_standing(notes(chain="timeout"), "refused") == "no answer since 2027-01-15 07:59:00 UTC: refused"
