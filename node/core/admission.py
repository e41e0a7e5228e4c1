"""Whether to take an attempt: by the node's own offer, and not by what the orchestrator thinks of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from node.core.exposure import Balance, headroom
from tandem.protocol.capacity import Capacity, shortfalls
from tandem.protocol.errors import (
    AttemptReturned,
    ExposureExceeded,
    InvalidRequest,
    NoCapacity,
    TandemError,
    Unavailable,
)
from tandem.protocol.jobs import BatchWork, InferenceWork, ModelWork, TranscodeWork
from tandem.protocol.messages import MAX_HELD, Assign, Offer
from tandem.protocol.placement import lacking, need
from tandem.protocol.pricing import Prices, price_of

_MAX_UNJUDGED = 2**28


@dataclass(frozen=True, slots=True)
class Situation:
    """What the node has to do already, and what it is owed."""

    offer: Offer
    running: Sequence[Capacity]
    """What each running attempt takes up."""
    balance: Balance
    held: int
    """Wei of all that is taken on and not in the books: attempts running or unjudged, and on-line work."""
    unjudged: int
    """Bytes of outcomes kept until they are judged."""
    count: int
    """Attempts held, running or unjudged."""


def refusal(assign: Assign, situation: Situation) -> TandemError | None:
    """Why an attempt is not taken; None: it is."""
    offer = situation.offer
    if offer.draining:
        return AttemptReturned("the node is draining and takes no new attempts")
    return (
        _unable(assign, offer)
        or _mispriced(assign, offer.prices)
        or _exposed(assign, situation)
        or _unheard(situation)
        or _crowded(assign, situation)
    )


def _unable(assign: Assign, offer: Offer) -> TandemError | None:
    wanted = set() if isinstance(assign.work, InferenceWork) else set(assign.work.names)
    if wanted != set(assign.upload_urls):
        return InvalidRequest("expected an upload URL for each file of the output, and no other")
    marked = isinstance(assign.work, TranscodeWork) and assign.work.picture.watermark is not None
    if marked is (assign.watermark_url is None):
        return InvalidRequest("expected a URL of the watermark exactly if the work has one")
    if isinstance(assign.work, BatchWork) is (assign.model_url is None):
        return InvalidRequest("expected a URL of the model exactly if the work has a source beside it")
    if isinstance(assign.work, ModelWork) and len(assign.work.files) != len(assign.file_urls):
        return InvalidRequest("expected a URL for each file of the model")
    missing = lacking(assign.work, offer.capability)
    return Unavailable(f"this node has {missing}") if missing else None


def _mispriced(assign: Assign, prices: Prices) -> TandemError | None:
    price = price_of(assign.work, prices)
    if price is None:
        return Unavailable("this node does not sell such work; look at its offer")
    if price != assign.price:
        return Unavailable(f"expected a price of {price} wei by this node's offer, got {assign.price}")
    return None


def _exposed(assign: Assign, situation: Situation) -> TandemError | None:
    room = headroom(situation.balance, situation.held, situation.offer.max_unpaid)
    if assign.price <= room:
        return None
    return ExposureExceeded(
        f"expected work for at most {max(0, room)} wei until tickets cover more (max_unpaid is "
        f"{situation.offer.max_unpaid}), got {assign.price}; pay first"
    )


def _unheard(situation: Situation) -> TandemError | None:
    """Cheap work could otherwise fill the memory with outcomes that nobody judges."""
    if situation.count < MAX_HELD and situation.unjudged <= _MAX_UNJUDGED:
        return None
    return NoCapacity(
        f"expected verdicts before more work: {situation.count} attempts are held, with outcomes of "
        f"{situation.unjudged} bytes"
    )


def _crowded(assign: Assign, situation: Situation) -> TandemError | None:
    free = situation.offer.capacity
    for taken in situation.running:
        free -= taken
    short = shortfalls(need(assign.work, situation.offer.capability), free)
    if not short:
        return None
    listed = ", ".join(f"{name} {wanted} of {left} free" for name, (wanted, left) in short.items())
    return NoCapacity(f"no room for this attempt: it needs {listed}")
