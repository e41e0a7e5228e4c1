from tandem.protocol.ladder import RenditionRequest
from tandem.protocol.media import VideoCodec
from tandem.protocol.pricing import Prices, inference_cost, inference_price, transcode_price
from tandem.protocol.tensors import Datatype, TensorSpec
from tandem.protocol.units import ceil_div
from tests.fixtures.protocol import media, tensor, transcode_work

PRICES = Prices(megapixel={VideoCodec.H264: 7}, inference_second=3)
SPECS = (TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4)),)


def test_pixels_are_paid_by_the_megapixel_rounded_up() -> None:
    work = transcode_work(media(640, 360), RenditionRequest(height=360))
    assert transcode_price(PRICES, work) == ceil_div(640 * 360 * 50 * 7, 10**6)


def test_what_is_made_beside_the_pictures_is_paid_by_the_minute() -> None:
    prices = PRICES.model_copy(update={"track_minute": 60})
    work = transcode_work(media(640, 360), RenditionRequest(height=360), thumbnails={}, poster={})
    assert transcode_price(prices, work) == (transcode_price(PRICES, work) or 0) + 2 * 2


def test_a_codec_without_a_price_is_not_for_sale() -> None:
    assert transcode_price(Prices(megapixel={}, inference_second=0), transcode_work()) is None


def test_model_seconds_are_rounded_up() -> None:
    assert inference_price(PRICES, 10**6) == 3
    assert inference_price(PRICES, 1) == 1


def test_inference_costs_by_the_size_of_the_input() -> None:
    batch = [tensor("x", *([0.0] * elements)) for elements in (0, 4, 5, 8)]
    assert [inference_cost(100, SPECS, [one.meta]) for one in batch] == [100, 100, 200, 200]
    assert inference_cost(0, (), ()) == 1
