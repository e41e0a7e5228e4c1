"""The simulation of the benchmarks, small: the money of both sides, to the wei."""

from pathlib import Path

from benchmarks.sim_payments import Size, simulate
from tests.fixtures.anvil import Anvil


async def test_what_is_paid_is_what_was_earned_but_for_luck(tmp_path: Path, anvil: Anvil) -> None:
    size = Size(nodes=4, tickets=2_000, odds=20, rounds=2, attempts=2)
    report = await simulate(tmp_path, anvil, size)
    assert report.disagreements == []
    assert report.earned == size.tickets * size.value
    assert sum(node.tickets for node in report.nodes) == size.tickets
    assert report.paid > 0
    # beyond six predicted deviations luck is no explanation
    assert all(abs(score) < 6 for score in (report.z, *(node.z for node in report.nodes)))
