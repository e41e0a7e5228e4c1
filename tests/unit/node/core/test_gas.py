from node.core.gas import GasPrice, RedemptionGas

HALF_LIFE = 1800.0
USUAL = 10**10


def after(price: GasPrice, readings: list[int], every: float = 15.0) -> GasPrice:
    for number, reading in enumerate(readings, start=1):
        price = price.observe(reading, number * every, HALF_LIFE)
    return price


def test_one_spike_is_hardly_seen() -> None:
    spiked = after(GasPrice(USUAL, USUAL, 0), [1000 * USUAL])
    assert spiked.current == 1000 * USUAL
    assert USUAL < spiked.usual < USUAL * 101 // 100


def test_even_a_spike_after_a_long_silence_at_most_doubles_it() -> None:
    assert after(GasPrice(USUAL, USUAL, 0), [1000 * USUAL], every=10**6).usual <= 2 * USUAL + 1


def test_what_lasts_is_usual_in_the_end() -> None:
    risen = after(GasPrice(USUAL, USUAL, 0), [8 * USUAL] * 1000)
    assert 7 * USUAL < risen.usual <= 8 * USUAL
    fallen = after(GasPrice(USUAL, USUAL, 0), [USUAL // 8] * 2000)
    assert USUAL // 8 <= fallen.usual < USUAL // 7


def test_half_of_the_way_takes_a_half_life() -> None:
    price = GasPrice(USUAL, USUAL, 0).observe(USUAL * 3 // 2, HALF_LIFE, HALF_LIFE)
    assert price.usual == USUAL * 5 // 4


def test_prices_of_a_few_wei_move_too() -> None:
    assert after(GasPrice(0, 0, 0), [7] * 10).usual == 7
    assert after(GasPrice(7, 7, 0), [0] * 10).usual == 0


def test_a_clock_that_is_set_back_counts_as_no_time() -> None:
    assert GasPrice(USUAL, USUAL, 1000.0).observe(2 * USUAL, 0.0, HALF_LIFE) == GasPrice(2 * USUAL, USUAL, 0.0)


def test_a_redemption_costs_what_was_measured_at_the_usual_price() -> None:
    assert RedemptionGas(units=9000, price=5).cost == 45_000
