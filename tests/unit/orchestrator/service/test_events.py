"""The hub of job events."""

from orchestrator.core.progress import NOT_BEGUN, JobProgress
from orchestrator.service.events import JobEvents, StateChanged
from tandem.protocol.jobs import JobState


async def test_a_slow_listener_gets_the_newest_and_no_backlog() -> None:
    hub = JobEvents()
    with hub.subscribe("a") as subscription:
        hub.publish_state("a", JobState.RUNNING)
        for permille in range(1000):
            hub.publish_progress("a", JobProgress(permille, 1.0))
        hub.publish_state("a", JobState.VERIFYING)
        assert await subscription.next() == StateChanged(JobState.VERIFYING)
        assert await subscription.next() == JobProgress(999, 1.0)
        hub.publish_state("b", JobState.FAILED)
        hub.publish_state("a", JobState.SUCCEEDED)
        assert await subscription.next() == StateChanged(JobState.SUCCEEDED)


async def test_progress_is_remembered_until_the_job_is_over_or_starts_anew() -> None:
    hub = JobEvents()
    assert hub.progress("a") == NOT_BEGUN
    hub.publish_progress("a", JobProgress(500))
    assert hub.progress("a") == JobProgress(500)
    hub.publish_state("a", JobState.QUEUED)
    assert hub.progress("a") == NOT_BEGUN


async def test_closing_ends_every_subscription() -> None:
    hub = JobEvents()
    with hub.subscribe("a") as early:
        hub.publish_state("a", JobState.RUNNING)
        hub.close()
        assert await early.next() is None
        assert await early.next() is None
    with hub.subscribe("a") as late:
        assert await late.next() is None


async def test_nothing_is_kept_of_listeners_that_left() -> None:
    hub = JobEvents()
    with hub.subscribe("a"), hub.subscribe("a"):
        pass
    assert hub._subscriptions == {}
