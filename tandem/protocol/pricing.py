"""Prices per unit of output that both sides can compute.

Transcoding is priced by the megapixel encoded, by codec, and by the minute of each track that is made besides: an audio
rendition, a subtitle track, the stills. Inference is priced by the second of measured cost of the model, times the size
of the input relative to the input the cost was measured with.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, assert_never

from pydantic import ConfigDict, Field

from tandem.protocol.ids import Frozen
from tandem.protocol.jobs import AnyWork, BatchWork, InferenceWork, TranscodeWork
from tandem.protocol.media import VideoCodec
from tandem.protocol.tensors import Tensor, TensorMeta, TensorSpec, elements
from tandem.protocol.units import Wei, ceil_div

PIXELS_PER_MEGAPIXEL = 10**6
MICROSECONDS = 10**6


class Prices(Frozen):
    """A node's standing prices, or the orchestrator's to its submitters."""

    model_config = ConfigDict(use_attribute_docstrings=True)  # they are settings too

    megapixel: Annotated[Mapping[VideoCodec, Wei], Field(max_length=16)]
    """Wei a megapixel encoded, by codec; a codec that is absent is not for sale."""
    track_minute: Wei = 0
    """Wei a minute of each audio rendition, each subtitle track and each set of stills."""
    inference_second: Wei
    """Wei a second of model cost."""


def transcode_price(prices: Prices, work: TranscodeWork) -> int | None:
    """Wei for the pictures and tracks of the work, rounded up; None where a codec has no price."""
    pixels = work.pixels()
    if any(codec not in prices.megapixel for codec in pixels):
        return None
    tracks = len(work.audio) + len(work.subtitles) + (work.stills is not None)
    pictures = sum(ceil_div(count * prices.megapixel[codec], PIXELS_PER_MEGAPIXEL) for codec, count in pixels.items())
    return pictures + ceil_div(tracks * work.duration_us * prices.track_minute, 60 * MICROSECONDS)


def inference_cost(cost_us: int, specs: Sequence[TensorSpec], inputs: Sequence[TensorMeta | Tensor]) -> int:
    """Microseconds of model cost for these inputs.

    `cost_us` was measured with every open dimension at 1; an input with n times the elements counts n times.
    """
    nominal = sum(elements([abs(size) for size in spec.shape]) for spec in specs)
    given = sum(elements(tensor.shape) for tensor in inputs)
    return max(1, cost_us) * max(1, ceil_div(given, max(1, nominal)))


def inference_price(prices: Prices, cost_us: int) -> int:
    """Wei for so many microseconds of model cost, rounded up."""
    return ceil_div(cost_us * prices.inference_second, MICROSECONDS)


def price_of(work: AnyWork, prices: Prices) -> int | None:
    """Wei for an accepted result; None if it is not for sale."""
    match work:
        case TranscodeWork():
            return transcode_price(prices, work)
        case InferenceWork() | BatchWork():
            return inference_price(prices, work.cost_us)
        case _:
            assert_never(work)
