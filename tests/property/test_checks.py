"""What comes of several answers to the same inputs, and which answers are looked at."""

import math
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.checks import CheckPolicy, Draws, Given, Ruling, Trust, difference, rule
from tandem.protocol.models import Tolerance
from tandem.protocol.tensors import Datatype, Tensor, join_bytes
from tests.property.strategies import tensors

EXACT, LOOSE = Tolerance(relative=0, absolute=0), Tolerance(relative=1e-3, absolute=1e-4)
FLOATS = {Datatype.FP16: "<f2", Datatype.FP32: "<f4", Datatype.FP64: "<f8"}
POLICY = CheckPolicy()
modest = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def answer(node: str, *values: float, datatype: Datatype = Datatype.FP32, provider: str = "CPU") -> Given:
    data = np.array(values, FLOATS[datatype]).tobytes()
    return Given(node, provider, (Tensor("y", datatype, (len(values),), data),))


@modest
@given(st.lists(tensors(), max_size=3), st.sampled_from([EXACT, LOOSE]))
def test_an_answer_agrees_with_itself(outputs: list[Tensor], tolerance: Tolerance) -> None:
    copies = [each._replace(data=memoryview(bytes(each.data))) for each in outputs]
    assert difference(outputs, copies, tolerance) is None


@modest
@given(tensors(), tensors(), st.sampled_from([EXACT, LOOSE]))
def test_differing_is_mutual(one: Tensor, other: Tensor, tolerance: Tolerance) -> None:
    other = other._replace(name=one.name)
    found = [difference([a], [b], tolerance) is None for a, b in ((one, other), (other, one))]
    assert found[0] is found[1]
    if (one.datatype, one.shape) != (other.datatype, other.shape):
        assert not found[0]


@pytest.mark.parametrize("datatype", FLOATS)
@given(st.floats(-100, 100, width=16), st.floats(-2, 2))
def test_floats_differ_by_the_tolerance(datatype: Datatype, value: float, off: float) -> None:
    tolerance = Tolerance(relative=0.01, absolute=0.5)
    pair = [answer("a", value, datatype=datatype).outputs, answer("b", value + off, datatype=datatype).outputs]
    one, other = (float(np.frombuffer(each[0].data, FLOATS[datatype])[0]) for each in pair)
    bound = 0.5 + 0.01 * max(abs(one), abs(other))
    assert (difference(pair[0], pair[1], tolerance) is None) is (abs(one - other) <= bound)


def test_nan_equals_nan_and_nothing_else() -> None:
    values = [math.nan, math.inf, -math.inf, 0.0, 1e30]
    for one in values:
        for other in values:
            same = difference(answer("a", one).outputs, answer("b", other).outputs, LOOSE) is None
            assert same is (one == other or (math.isnan(one) and math.isnan(other)))
    assert difference(answer("a", 0.0).outputs, answer("b", -0.0).outputs, EXACT) is None


def test_what_is_no_float_must_be_the_same() -> None:
    pairs = [
        (Datatype.INT64, (2).to_bytes(8, "little"), (3).to_bytes(8, "little")),
        (Datatype.BOOL, b"\0", b"\1"),
        (Datatype.BYTES, join_bytes([b"cat"]), join_bytes([b"dog"])),
    ]
    wide = Tolerance(relative=1, absolute=1e9)
    for datatype, one, other in pairs:
        assert difference([Tensor("y", datatype, (1,), one)], [Tensor("y", datatype, (1,), other)], wide)
    halves = [Tensor("y", Datatype.BF16, (1,), bytes.fromhex(each)) for each in ("803f", "813f", "0040")]
    assert difference(halves[:1], halves[1:2], Tolerance(relative=0.01, absolute=0)) is None  # 1.0 and 1.0078
    assert difference(halves[:1], halves[2:], Tolerance(relative=0.01, absolute=0))


@given(st.permutations(["a", "b", "c"]), st.floats(-10, 10, width=16), st.floats(1, 1e6))
def test_of_three_the_one_that_two_contradict_is_outvoted(nodes: list[str], value: float, off: float) -> None:
    liar, *honest = nodes
    lie = answer(liar, value + off)
    told = {liar: lie, **{node: answer(node, value) for node in honest}}
    ruling = rule([told[node] for node in sorted(told)], LOOSE)
    assert ruling == Ruling(frozenset(honest), frozenset({liar}))
    assert rule([told[liar], told[honest[0]]], LOOSE) == Ruling()  # of two nobody can tell
    assert rule([told[each] for each in honest], LOOSE) == Ruling(frozenset(honest))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=3))
def test_nobody_is_outvoted_but_by_two_that_agree(values: list[float]) -> None:
    answers = [answer(node, value) for node, value in zip("abc", values, strict=False)]
    ruling = rule(answers, LOOSE)
    assert not ruling.confirmed & ruling.outvoted
    if ruling.outvoted:
        assert (len(answers), len(ruling.confirmed), len(ruling.outvoted)) == (3, 2, 1)
    apart = rule([answer("a", 0.0), answer("b", 1.0), answer("c", 2.0)], LOOSE)
    between = rule([answer("a", 0.0), answer("b", 9e-5), answer("c", 18e-5)], LOOSE)
    assert apart == between == Ruling()


def test_between_providers_and_in_batches_the_tolerance_is_wider() -> None:
    pair = [answer("a", 1.0), answer("b", 1.005, provider="CUDA")]
    assert rule(pair, LOOSE).decided
    same = [pair[0], pair[1]._replace(provider="CPU")]
    assert not rule(same, LOOSE).decided
    assert rule(same, LOOSE, batched=True).decided


@pytest.mark.parametrize(("share", "weight"), [(0.01, 1.0), (0.01, 5.0), (0.3, 1.0), (1.0, 1.0), (0.0, 5.0)])
def test_each_answer_has_the_same_chance(share: float, weight: float) -> None:
    draws = Draws(share, Random(1).random)  # noqa: S311 - the same each time
    count = 100_000
    chance = 1 - (1 - share) ** weight
    found = [draws.falls(weight) for _ in range(count)]
    bound = 5 * math.sqrt(count * chance * (1 - chance))
    assert abs(sum(found) - count * chance) <= bound
    rows = list(draws.of_rows(count, weight))
    assert abs(len(rows) - count * chance) <= bound
    assert rows == sorted(set(rows) & set(range(count)))
    after = sum(b for a, b in pairwise(found) if a)  # those drawn right after one that was
    assert abs(after - sum(found) * chance) <= 1 + 5 * math.sqrt(sum(found) * chance * (1 - chance))


@given(st.lists(st.sampled_from(["agreed", "disputed", "outvoted"]), max_size=60))
def test_a_suspension_takes_several_strikes_and_ends(steps: list[str]) -> None:
    trust, strikes = Trust(), 0
    for now, step in enumerate(steps):
        match step:
            case "agreed":
                trust.agreed()
            case "disputed":
                trust.disputed()
            case _:
                strikes += 1
                assert trust.outvoted(now, POLICY) <= (strikes >= 3)
        assert 0 <= trust.agreement <= 1
        assert trust.weight >= 1
    if trust.suspended is not None:
        assert not trust.forgive(trust.until - 1)
        assert trust.forgive(trust.until)
        assert trust.suspended is None


def test_a_few_odd_answers_among_many_suspend_nobody() -> None:
    trust = Trust()
    for number in range(1000):
        for _ in range(20):
            trust.agreed()
        assert not trust.outvoted(number, POLICY)
