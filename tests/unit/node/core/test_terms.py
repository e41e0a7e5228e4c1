import pytest

from node.core.terms import Epochs, epoch_of, recipient_rand
from tandem.protocol.errors import TicketParamsUnknown, TicketRevealed
from tandem.protocol.tickets import commitment_to
from tests.fixtures.node import POLICY, SECRET, terms


def test_terms_are_worth_what_the_policy_says() -> None:
    params = terms()
    assert (params.face_value, POLICY.face_value) == (4000, 4000)
    assert params.expected_value() == 1000


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
