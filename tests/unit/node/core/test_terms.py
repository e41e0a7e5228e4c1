import pytest

from node.core.terms import Epochs, TermsPolicy, epoch_of, issue, recipient_rand, within
from tandem.protocol.errors import TicketParamsUnknown, TicketRevealed
from tandem.protocol.messages import TicketLimits
from tandem.protocol.tickets import commitment_to
from tests.fixtures.node import LIMITS, NODE, POLICY, SECRET, SENDER, terms


def test_terms_are_worth_what_the_policy_says() -> None:
    params = terms()
    assert (params.face_value, POLICY.face_value) == (4000, 4000)
    assert params.expected_value() == 1000


def test_terms_within_the_limits_stay_as_they_are() -> None:
    assert within(POLICY, LIMITS) == POLICY


@pytest.mark.parametrize(
    ("limits", "value", "odds"),
    [
        (TicketLimits(max_face_value=10**6, min_expected_value=10, max_expected_value=500), 500, 4),
        (TicketLimits(max_face_value=10**6, min_expected_value=5000, max_expected_value=10**5), 5001, 4),
        (TicketLimits(max_face_value=3999, min_expected_value=10, max_expected_value=10**5), 1000, 3),
        (TicketLimits(max_face_value=700, min_expected_value=10, max_expected_value=600), 600, 1),
    ],
    ids=["worth too much", "worth too little", "too lumpy", "far too lumpy"],
)
def test_terms_are_brought_within_the_limits(limits: TicketLimits, value: int, odds: int) -> None:
    policy = within(POLICY, limits)
    assert policy == TermsPolicy(value, odds, POLICY.lifetime)
    params = issue(policy, SECRET, SENDER.address, NODE.address, 1, 1_900_000_000)
    assert limits.min_expected_value <= params.expected_value() <= limits.max_expected_value
    assert params.face_value <= limits.max_face_value


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
