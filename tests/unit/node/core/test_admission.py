import pytest

from node.core.admission import Situation, refusal
from node.core.exposure import Balance, headroom
from tandem.protocol.capacity import Capacity
from tandem.protocol.messages import MAX_HELD, Assign, Offer
from tandem.protocol.pricing import Prices
from tests.fixtures.node import OFFER, PRICE, code_of, inference, transcode


def refused(assign: Assign, offer: Offer = OFFER, **changes: object) -> str | None:
    situation = {"offer": offer, "running": (), "balance": Balance(), "held": 0, "unjudged": 0, "count": 0} | changes
    return code_of(refusal(assign, Situation(**situation)))  # type: ignore[arg-type]


def with_(**changes: object) -> Offer:
    return OFFER.model_copy(update=changes)


@pytest.mark.parametrize("assign", [inference(), transcode()], ids=["inference", "transcode"])
def test_work_within_the_offer_is_taken(assign: Assign) -> None:
    assert refused(assign) is None


def test_a_draining_node_takes_nothing() -> None:
    assert refused(inference(), with_(draining=True)) == "attempt_returned"


@pytest.mark.parametrize("assign", [inference(), transcode()], ids=["inference", "transcode"])
def test_work_that_the_node_cannot_do_is_refused(assign: Assign) -> None:
    assert (
        refused(
            assign,
            with_(capability=OFFER.capability.model_copy(update={"video_encoders": (), "execution_providers": ()})),
        )
        == "unavailable"
    )


def test_every_rendition_needs_its_upload() -> None:
    assert refused(transcode(upload_urls={})) == "invalid_request"
    assert refused(transcode(upload_urls={"240p": "http://o/a", "480p": "http://o/b"})) == "invalid_request"


@pytest.mark.parametrize("price", [PRICE - 1, PRICE + 1, 0])
def test_the_price_is_the_offers(price: int) -> None:
    assert refused(inference(price=price)) == "unavailable"


def test_what_has_no_price_is_not_for_sale() -> None:
    assert refused(transcode(), with_(prices=Prices(megapixel={}, inference_second=1))) == "unavailable"


@pytest.mark.parametrize(
    ("balance", "held", "code"),
    [
        (Balance(earned=900_000), 0, None),
        (Balance(earned=900_001), 0, "exposure_exceeded"),
        (Balance(), 900_000, None),
        (Balance(), 900_001, "exposure_exceeded"),
        (Balance(earned=900_001, received=1), 0, None),
        (Balance(received=500_000), 1_400_000, None),
    ],
)
def test_unpaid_work_stays_within_its_bound(balance: Balance, held: int, code: str | None) -> None:
    assert refused(inference(), balance=balance, held=held) == code


def test_running_attempts_take_up_room() -> None:
    assert refused(transcode(), running=[Capacity(cpu=1000)]) is None
    assert refused(transcode(), running=[Capacity(cpu=1001)]) == "no_capacity"


def test_headroom_counts_what_is_not_judged_yet() -> None:
    assert headroom(Balance().earn(70).receive(30), 10, 100) == 50


def test_outcomes_that_nobody_judges_are_bounded() -> None:
    assert refused(inference(), unjudged=2**28, count=MAX_HELD - 1) is None
    assert refused(inference(), unjudged=2**28 + 1) == "no_capacity"
    assert refused(inference(), count=MAX_HELD) == "no_capacity"
