"""Whether to take an attempt: by the node's own offer, and not by what the orchestrator thinks of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

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
from tandem.protocol.jobs import InferenceWork, TranscodeWork
from tandem.protocol.media import VideoCodec, output_pixels
from tandem.protocol.messages import Assign, Offer
from tandem.protocol.placement import need
from tandem.protocol.pricing import Prices, inference_price, transcode_price

_ENCODERS = {VideoCodec.H264: frozenset({"libx264", "h264_nvenc"})}


@dataclass(frozen=True, slots=True)
class Situation:
    """What the node has to do already, and what it is owed."""

    offer: Offer
    running: Sequence[Capacity]
    """What each running attempt takes up."""
    balance: Balance
    held: int
    """Wei that all attempts held, running or unjudged, would earn."""


def refusal(assign: Assign, situation: Situation) -> TandemError | None:
    """Why an attempt is not taken; None: it is."""
    offer = situation.offer
    if offer.draining:
        return AttemptReturned("the node is draining and takes no new attempts")
    return (
        _unable(assign, offer)
        or _mispriced(assign, offer.prices)
        or _exposed(assign, situation)
        or _crowded(assign, situation)
    )


def price_of(work: TranscodeWork | InferenceWork, prices: Prices) -> int | None:
    """Wei for an accepted result; None if it is not for sale."""
    match work:
        case TranscodeWork():
            return transcode_price(prices, output_pixels(work.media, work.ladder))
        case InferenceWork():
            return inference_price(prices, work.cost_us)
        case _:
            assert_never(work)


def _unable(assign: Assign, offer: Offer) -> TandemError | None:
    match assign.work:
        case TranscodeWork(ladder=ladder):
            if {rendition.name for rendition in ladder} != set(assign.upload_urls):
                return InvalidRequest("expected an upload URL for each rendition, and no other")
            encoders = set(offer.capability.video_encoders)
            lacking = {str(step.video_codec) for step in ladder if not _ENCODERS[step.video_codec] & encoders}
            return Unavailable(f"this node has no encoder for {', '.join(sorted(lacking))}") if lacking else None
        case InferenceWork():
            providers = offer.capability.execution_providers
            return None if providers else Unavailable("this node has no ONNX Runtime provider")
        case _:
            assert_never(assign.work)


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


def _crowded(assign: Assign, situation: Situation) -> TandemError | None:
    free = situation.offer.capacity
    for taken in situation.running:
        free -= taken
    short = shortfalls(need(assign.work, situation.offer.capability), free)
    if not short:
        return None
    listed = ", ".join(f"{name} {wanted} of {left} free" for name, (wanted, left) in short.items())
    return NoCapacity(f"no room for this attempt: it needs {listed}")
