from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.terms import Epochs, Stakes, TermsPolicy, epoch_of, issue, moved, recipient_rand, stakes
from tandem.protocol.errors import TicketParamsUnknown, TicketRevealed
from tandem.protocol.messages import TicketLimits
from tandem.protocol.tickets import commitment_to
from tandem.protocol.units import UINT256_MAX
from tests.fixtures.node import LIMITS, NODE, SECRET, SENDER, STAKES, terms

GWEI, ETHER = 10**9, 10**18
POLICY = TermsPolicy(
    odds=100,
    lifetime=3600,
    gas_percent=10,
    min_face_value=ETHER // 10**4,
    max_face_value=ETHER,
    max_unpaid=ETHER // 100,
)
WINNER = 100_000 * 10 * GWEI
"""What redeeming a winner costs, in wei."""


def test_terms_have_their_stakes() -> None:
    params = terms()
    assert params.face_value == STAKES.face_value
    assert params.expected_value() == 1000


def test_a_winner_pays_so_much_that_gas_is_a_small_part_of_it() -> None:
    assert stakes(POLICY, WINNER, 10 * ETHER, LIMITS) == Stakes(10 * WINNER, 100)
    assert stakes(replace(POLICY, gas_percent=5), WINNER, 10 * ETHER, LIMITS) == Stakes(20 * WINNER, 100)


def test_the_operator_bounds_the_face_value() -> None:
    assert stakes(POLICY, 0, 10 * ETHER, LIMITS).face_value == POLICY.min_face_value
    assert stakes(replace(POLICY, max_unpaid=ETHER), 10**6 * WINNER, 0, LIMITS).face_value == ETHER
    # beyond it a new node would stop before its first ticket
    assert stakes(replace(POLICY, max_unpaid=ETHER // 1000), 10**6 * WINNER, 0, LIMITS).face_value == ETHER // 20


@pytest.mark.parametrize(
    ("promised", "face_value"), [(0, 10 * WINNER), (ETHER // 25, ETHER // 200), (8, ETHER // 10**4)]
)
def test_several_winners_fit_into_the_promise(promised: int, face_value: int) -> None:
    assert stakes(POLICY, WINNER, promised, LIMITS).face_value == face_value


@pytest.mark.parametrize(
    ("limits", "face_value", "odds"),
    [
        (TicketLimits(max_face_value=10**6, min_expected_value=10, max_expected_value=500), 2000, 4),
        (TicketLimits(max_face_value=10**6, min_expected_value=5000, max_expected_value=10**5), 20_004, 4),
        (TicketLimits(max_face_value=3999, min_expected_value=10, max_expected_value=10**5), 3999, 4),
        (TicketLimits(max_face_value=700, min_expected_value=599, max_expected_value=600), 600, 1),
    ],
    ids=["worth too much", "worth too little", "a winner pays too much", "far too lumpy"],
)
def test_terms_are_brought_within_the_limits(limits: TicketLimits, face_value: int, odds: int) -> None:
    policy = replace(POLICY, odds=4, min_face_value=4000, max_face_value=4000)
    found = stakes(policy, WINNER, 0, limits)
    assert found == Stakes(face_value, odds)
    params = issue(found, SECRET, SENDER.address, NODE.address, 1, 1_900_000_000)
    assert limits.min_expected_value <= params.expected_value() <= limits.max_expected_value
    assert params.face_value <= limits.max_face_value


@given(*[st.sampled_from([0, 1, 2, 10**15, UINT256_MAX - 1, UINT256_MAX]) | st.integers(0, UINT256_MAX)] * 5)
def test_whatever_is_asked_for_there_are_terms(face: int, least: int, most: int, cost: int, promised: int) -> None:
    limits = TicketLimits(max_face_value=face, min_expected_value=least, max_expected_value=most)
    found = stakes(POLICY, cost, promised, limits)
    assert 1 <= found.odds <= POLICY.odds
    issue(found, SECRET, SENDER.address, NODE.address, 1, 1_900_000_000)


@pytest.mark.parametrize(
    ("right", "is_moved"),
    [
        (Stakes(4000, 4), False),
        (Stakes(6000, 4), False),
        (Stakes(6001, 4), True),
        (Stakes(2667, 4), False),
        (Stakes(2666, 4), True),
        (Stakes(4000, 3), True),
    ],
)
def test_terms_stand_until_the_right_ones_have_moved_by_half(right: Stakes, is_moved: bool) -> None:
    assert moved(STAKES, right) is is_moved


def test_the_random_number_follows_from_secret_and_parameters_alone() -> None:
    params = terms(epoch=3)
    assert params == terms(epoch=3)
    assert commitment_to(recipient_rand(SECRET, params, 3)) == params.commitment
    assert recipient_rand(SECRET, params, 3) != recipient_rand(SECRET, params, 4)
    assert recipient_rand(SECRET, params, 3) != recipient_rand(b"\x06" * 32, params, 3)


@pytest.mark.parametrize("field", ["face_value", "win_prob", "expiry"])
def test_every_parameter_is_bound_to_the_commitment(field: str) -> None:
    params = terms()
    forged = params.model_copy(update={field: getattr(params, field) + 1})
    with pytest.raises(TicketParamsUnknown):
        epoch_of(SECRET, forged, Epochs())


def test_terms_of_every_open_epoch_are_known() -> None:
    epochs = Epochs(current=5, closed=2)
    assert [epoch_of(SECRET, terms(epoch=epoch), epochs) for epoch in (3, 4, 5)] == [3, 4, 5]


@pytest.mark.parametrize("epoch", [1, 2])
def test_terms_of_a_closed_epoch_are_revealed(epoch: int) -> None:
    with pytest.raises(TicketRevealed):
        epoch_of(SECRET, terms(epoch=epoch), Epochs(current=5, closed=2))


def test_terms_of_a_future_epoch_are_unknown() -> None:
    with pytest.raises(TicketParamsUnknown):
        epoch_of(SECRET, terms(epoch=6), Epochs(current=5, closed=2))
