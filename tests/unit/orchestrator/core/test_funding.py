from dataclasses import replace

import pytest

from orchestrator.core.funding import (
    Allocate,
    FundDeposit,
    FundingPlan,
    FundingPolicy,
    FundReserve,
    Held,
    Recipient,
    plan,
)

NOW = 1_800_000_000.0
DAY = 86_400.0
POLICY = FundingPolicy(
    deposit=1000,
    reserve=10_000,
    allocation=1000,
    trial=100,
    trial_percent=10,
    refill_below_percent=50,
    max_a_day=20_000,
    idle_seconds=7 * DAY,
)
FULL = Held(deposit=1000, reserve=10_000, allocated=0, unlocking=False)
NODE = Recipient(node="0xa1", allocation=0, lowered_to=0, lowers_at=None, connected=True)


def decide(*recipients: Recipient, held: Held = FULL, spent: int = 0, policy: FundingPolicy = POLICY) -> FundingPlan:
    return plan(held, recipients, policy, spent=spent, now=NOW)


def allocations(decided: FundingPlan) -> dict[str, int]:
    return {
        node: amount
        for action in decided.actions
        if isinstance(action, Allocate)
        for node, amount in action.allocations
    }


def test_what_is_above_its_share_of_the_level_is_left_alone() -> None:
    assert decide() == FundingPlan()
    assert decide(held=replace(FULL, deposit=500, reserve=5000)) == FundingPlan()
    assert decide(held=replace(FULL, deposit=10**6)) == FundingPlan()


def test_what_fell_below_is_filled_to_the_level() -> None:
    low = decide(held=replace(FULL, deposit=499, reserve=0))
    assert low.actions == (FundDeposit(501), FundReserve(10_000))


def test_a_level_of_zero_is_not_kept() -> None:
    nothing = replace(POLICY, deposit=0, reserve=0, allocation=0)
    assert decide(NODE, held=Held(0, 0, 0, unlocking=False), policy=nothing) == FundingPlan()


@pytest.mark.parametrize(
    ("spent", "actions"),
    [
        (0, (FundDeposit(1000), FundReserve(10_000))),
        (18_500, (FundDeposit(1000), FundReserve(500))),
        (19_400, (FundDeposit(600),)),
        (20_000, ()),
        (30_000, ()),
    ],
)
def test_no_more_is_spent_than_a_day_may_cost(spent: int, actions: tuple[object, ...]) -> None:
    decided = decide(held=Held(0, 0, 0, unlocking=False), spent=spent)
    assert decided.actions == actions
    assert bool(decided.warnings) == (spent > 0)


def test_nothing_is_done_while_the_sender_unlocks() -> None:
    decided = decide(NODE, held=Held(0, 0, 0, unlocking=True))
    assert decided.actions == ()
    assert "being unlocked" in decided.warnings[0]


@pytest.mark.parametrize(
    ("earned", "allocation", "expected"),
    [
        (0, 0, 100),
        (0, 50, None),
        (0, 49, 100),
        (40, 0, 140),
        (300, 0, 400),
        (300, 200, None),
        (300, 199, 400),
        (10**6, 0, 1000),
        (10**6, 500, None),
        (10**6, 499, 1000),
    ],
)
def test_a_node_is_promised_a_trial_and_what_it_earned(earned: int, allocation: int, expected: int | None) -> None:
    node = replace(NODE, earned=earned, allocation=allocation)
    found = allocations(decide(node, held=replace(FULL, allocated=allocation)))
    assert found == ({} if expected is None else {NODE.node: expected})


def test_a_node_that_is_away_is_promised_nothing_new() -> None:
    assert decide(replace(NODE, connected=False, earned=10**6)) == FundingPlan()


def test_a_thousand_nodes_that_were_made_up_hold_a_small_part_of_the_reserve_at_most() -> None:
    made_up = [replace(NODE, node=f"0x{number:040x}") for number in range(1000)]
    useful = replace(NODE, node="0xff", earned=5000)
    decided = decide(*made_up, useful)
    found = allocations(decided)
    assert found.pop(useful.node) == 1000
    assert set(found.values()) == {100}
    assert sum(found.values()) == POLICY.reserve * POLICY.trial_percent // 100
    assert any("990 nodes wait" in warning for warning in decided.warnings)


def test_trials_that_run_take_up_their_part() -> None:
    running = [replace(NODE, node=f"0x{number}", allocation=100, active_at=NOW) for number in range(10)]
    assert allocations(decide(*running, NODE, held=replace(FULL, allocated=1000))) == {}
    # What was promised by hand counts too.
    generous = replace(NODE, node="0xbb", allocation=950)
    assert allocations(decide(generous, NODE, held=replace(FULL, allocated=950))) == {}


def test_never_more_than_the_reserve_holds() -> None:
    useful = [replace(NODE, node=f"0x{number:02}", earned=10**6) for number in range(12)]
    decided = decide(*useful, held=replace(FULL, allocated=500))  # to nodes that we know nothing of
    assert sum(allocations(decided).values()) == 9000
    assert any("3 nodes wait" in warning for warning in decided.warnings)


def test_lowerings_under_way_are_still_promised() -> None:
    falling = replace(NODE, node="0xbb", allocation=9000, lowered_to=0, lowers_at=int(NOW) + 99, connected=False)
    useful = replace(NODE, earned=10**6)
    assert allocations(decide(falling, useful, held=replace(FULL, allocated=9001))) == {}
    assert allocations(decide(falling, useful, held=replace(FULL, allocated=9000))) == {useful.node: 1000}


@pytest.mark.parametrize("change", [{"connected": False, "earned": 10**6}, {"earned": 99}], ids=["away", "no use"])
def test_what_serves_nobody_for_long_goes_back(change: dict[str, object]) -> None:
    idle = replace(NODE, allocation=100, active_at=NOW - 7 * DAY, **change)  # type: ignore[arg-type]
    held = replace(FULL, allocated=100)
    assert allocations(decide(idle, held=held)) == {idle.node: 0}
    assert allocations(decide(replace(idle, active_at=NOW - 7 * DAY + 1), held=held)) == {}
    assert allocations(decide(replace(idle, active_at=None), held=held)) == {}
    assert allocations(decide(replace(idle, lowers_at=int(NOW) + 1), held=held)) == {}  # on its way already
    assert allocations(decide(replace(idle, connected=True, earned=100), held=held)) == {}


def test_a_lowering_that_took_effect_is_freed_before_anything_is_promised_anew() -> None:
    lowered = replace(NODE, allocation=0, lowered_to=0, lowers_at=int(NOW) - 1)
    assert allocations(decide(lowered, held=replace(FULL, allocated=1000))) == {lowered.node: 0}


def test_a_useful_node_that_comes_back_keeps_what_was_about_to_go() -> None:
    back = replace(NODE, allocation=500, lowered_to=0, lowers_at=int(NOW) + 99, earned=10**6)
    assert allocations(decide(back, held=replace(FULL, allocated=500))) == {back.node: 1000}
    assert allocations(decide(replace(back, earned=0), held=replace(FULL, allocated=500))) == {}


def test_new_nodes_come_before_those_that_had_their_trial() -> None:
    again = replace(NODE, node="0x01", active_at=NOW - DAY)
    new = replace(NODE, node="0x02")
    assert list(allocations(decide(again, new))) == ["0x02", "0x01"]


def test_an_allocation_too_small_for_a_payment_is_raised_or_said() -> None:
    lumpy = replace(NODE, allocation=100, face_value=21)
    (warning,) = decide(lumpy, held=replace(FULL, allocated=100)).warnings
    assert "less than the 105 of 5 winning tickets" in warning
    assert decide(replace(lumpy, earned=10**6), held=replace(FULL, allocated=100)).warnings == ()
    assert decide(replace(lumpy, connected=False), held=replace(FULL, allocated=100)).warnings == ()


def test_one_transaction_sets_no_more_allocations_than_fit_into_it() -> None:
    crowd = [replace(NODE, node=f"0x{number:04x}", earned=100) for number in range(130)]
    rich = replace(FULL, reserve=10**6)
    first = allocations(decide(*crowd, held=rich))
    assert len(first) == 100
    left = [replace(each, allocation=first.get(each.node, 0)) for each in crowd]
    assert allocations(decide(*left, held=rich)).keys() == {each.node for each in crowd} - first.keys()
