"""What nodes are told of attempts that were judged."""

from orchestrator.core.lifecycle import Accepted, Assigned, Finished, Rejected
from orchestrator.core.records import Failure
from orchestrator.service.nodes import ConnectedNode
from tandem.protocol.ids import AttemptRef
from tandem.protocol.messages import Verdict
from tandem.protocol.outputs import FileResult, TranscodeOutput
from tests.fixtures.protocol import NODE, SHA, STRANGER, offer
from tests.unit.orchestrator.service.conftest import Market, Recorder
from tests.unit.orchestrator.service.test_scheduling import lifecycle_of, submit

OUTPUT = TranscodeOutput(files=(FileResult(name="x", artifact=SHA, size=1000),))


async def finished(market: Market, job: str) -> AttemptRef:
    lifecycle = lifecycle_of(market)
    (attempt,) = (await lifecycle.apply(job, Assigned(f"{job}.0", NODE.address, 7, 30))).attempts
    await lifecycle.apply(job, Finished(attempt.ref, NODE.address, OUTPUT))
    return attempt.ref


async def test_an_accepted_attempt_s_verdict_says_what_it_earned_also_the_second_time(market: Market) -> None:
    lifecycle, job = lifecycle_of(market), await submit(market, 1)
    _, link = market.connect()
    ref = await finished(market, job)
    await lifecycle.apply(job, Accepted(ref))
    assert await lifecycle.report(NODE.address, ref, Finished(ref, NODE.address, OUTPUT)) is None
    first, second = link.sent
    assert isinstance(first, Verdict)
    assert isinstance(second, Verdict)
    assert (first.accepted, first.price) == (second.accepted, second.price) == (True, 7)


async def test_an_attempt_that_is_not_accepted_earns_nothing(market: Market) -> None:
    lifecycle, job = lifecycle_of(market), await submit(market, 1)
    _, link = market.connect()
    ref = await finished(market, job)
    await lifecycle.apply(job, Rejected(ref, Failure("result_rejected", "too dark", retryable=True)))
    await lifecycle.report(NODE.address, ref, Finished(ref, NODE.address, OUTPUT))
    assert [verdict.price for verdict in link.sent if isinstance(verdict, Verdict) and not verdict.accepted] == [0, 0]


async def test_nobody_is_told_that_it_earned_by_another_node_s_attempt(market: Market) -> None:
    lifecycle, job = lifecycle_of(market), await submit(market, 1)
    ref = await finished(market, job)
    await lifecycle.apply(job, Accepted(ref))
    link, stranger = Recorder(), STRANGER.address
    market.nodes.add(ConnectedNode(stranger, link, offer(), market.clock.now()))
    await lifecycle.report(stranger, ref, Finished(ref, stranger, OUTPUT))
    (verdict,) = link.sent
    assert isinstance(verdict, Verdict)
    assert (verdict.accepted, verdict.price) == (False, 0)
