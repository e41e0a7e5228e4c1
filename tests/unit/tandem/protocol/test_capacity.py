from hypothesis import given

from tandem.protocol.capacity import Capacity, fits, shortfalls
from tests.property.strategies import capacities


@given(capacities, capacities)
def test_it_fits_where_nothing_is_short(need: Capacity, free: Capacity) -> None:
    assert fits(need, free) == (not shortfalls(need, free))


@given(capacities, capacities)
def test_what_is_taken_can_be_given_back(total: Capacity, taken: Capacity) -> None:
    assert (total + taken) - taken == total
    assert fits(Capacity(), total - taken)
    if fits(taken, total):
        assert (total - taken) + taken == total


def test_a_shortfall_says_what_is_needed_and_free() -> None:
    need, free = Capacity(cpu=1000, vram=400), Capacity(cpu=500, vram=400)
    assert shortfalls(need, free) == {"cpu": (1000, 500)}


def test_encoders_and_cores_of_one_gpu_are_sold_apart() -> None:
    gpu = Capacity(cuda=1000, encoder_sessions=3, vram=8000)
    encoding = Capacity(encoder_sessions=3, vram=1200)
    assert fits(Capacity(cuda=1000, vram=4000), gpu - encoding)
