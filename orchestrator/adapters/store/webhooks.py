"""Webhooks: whose they are, and the outbox of what they are told.

Of the events of one job that are not over, the oldest is `pending` and the others wait for it; so a look at the due
ones reads no others, however many a dead receiver has left behind.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, ScalarSelect, exists, func, insert, select, update

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.rows import delivery_record, delivery_values, webhook_record, webhook_values
from orchestrator.adapters.store.schema import among, deliveries, jobs, webhooks
from orchestrator.core.records import DeliveryPage, DeliveryRecord, JobRecord, WebhookRecord
from orchestrator.ports.store import WebhookDecision
from tandem.protocol.errors import NotFound
from tandem.protocol.ids import event_id, parse_event_id
from tandem.protocol.jobs import JOB_TRANSITIONS, JobState
from tandem.protocol.webhooks import DeliveryStatus

_PENDING = among(deliveries.c.status, DeliveryStatus.PENDING)
_OPEN = among(deliveries.c.status, DeliveryStatus.WAITING, DeliveryStatus.PENDING)
_TELLING = tuple(state for state in JobState if JOB_TRANSITIONS[state])
"""Of jobs that may come to another state."""
_OVER = frozenset({DeliveryStatus.DELIVERED, DeliveryStatus.FAILED})


class SqlWebhooks:
    """The WebhookStore part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def webhook(self, owner: str) -> WebhookRecord | None:
        query = select(webhooks).where(webhooks.c.owner == owner)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else webhook_record(row)

    async def decide_webhook(self, owner: str, decision: WebhookDecision) -> WebhookRecord:
        at = webhooks.c.owner == owner

        def run(connection: Connection) -> WebhookRecord:
            row = connection.execute(select(webhooks).where(at).with_for_update()).one_or_none()
            decided = decision(None if row is None else webhook_record(row), self._database.now())
            statement = insert(webhooks) if row is None else update(webhooks).where(at)
            connection.execute(statement.values(webhook_values(decided)))
            return decided

        return await self._database.write(run)

    async def due_deliveries(self, limit: int, *, without: Collection[str] = ()) -> list[DeliveryRecord]:
        query = (
            select(deliveries)
            .where(_PENDING, deliveries.c.not_before <= self._database.now(), deliveries.c.endpoint.not_in(without))
            .order_by(deliveries.c.not_before)
            .limit(limit)
        )
        return await self._database.read(lambda connection: [delivery_record(row) for row in connection.execute(query)])

    async def next_delivery_at(self) -> float | None:
        query = select(func.min(deliveries.c.not_before)).where(
            _PENDING, deliveries.c.not_before > self._database.now()
        )
        return await self._database.read(lambda connection: connection.scalar(query))

    async def save_delivery(self, delivery: DeliveryRecord) -> None:
        statement = update(deliveries).where(_is(delivery.job, delivery.number)).values(delivery_values(delivery))
        if delivery.status is not DeliveryStatus.DELIVERED:
            statement = statement.where(_PENDING)

        def save(connection: Connection) -> None:
            if connection.execute(statement).rowcount and delivery.status in _OVER:
                _promote(connection, delivery.job)

        await self._database.write(save)

    async def end_webhook(self, last: DeliveryRecord) -> None:
        owner, url = last.owner, last.url
        given_up = {"status": DeliveryStatus.FAILED, "error": last.error}

        def end(connection: Connection) -> None:
            connection.execute(update(deliveries).where(_is(last.job, last.number)).values(delivery_values(last)))
            told = (deliveries.c.owner == owner, deliveries.c.url == url, _OPEN)
            connection.execute(update(deliveries).where(*told).values(given_up))
            telling = (jobs.c.owner == owner, jobs.c.state.in_(_TELLING), jobs.c.webhook == url)
            connection.execute(update(jobs).where(*telling).values(webhook=None))
            connection.execute(
                update(webhooks).where(webhooks.c.owner == owner, webhooks.c.url == url).values(url=None)
            )

        await self._database.write(end)

    async def deliveries(
        self,
        owner: str,
        *,
        job: str | None = None,
        status: DeliveryStatus | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> DeliveryPage:
        newest_first = (deliveries.c.job.desc(), deliveries.c.number.desc())
        query = select(deliveries).where(deliveries.c.owner == owner).order_by(*newest_first).limit(limit + 1)
        if job is not None:
            query = query.where(deliveries.c.job == job)
        if status is not None:
            query = query.where(deliveries.c.status == status)
        if after is not None:
            last_job, last = parse_event_id(after)
            query = query.where(
                (deliveries.c.job < last_job) | ((deliveries.c.job == last_job) & (deliveries.c.number < last))
            )

        def page(connection: Connection) -> DeliveryPage:
            found = [delivery_record(row) for row in connection.execute(query)]
            return DeliveryPage(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None)

        return await self._database.read(page)

    async def redeliver(self, owner: str, job: str, number: int) -> DeliveryRecord:
        now = self._database.now()
        query = select(deliveries).where(_is(job, number))

        def redo(connection: Connection) -> DeliveryRecord:
            row = connection.execute(query.where(deliveries.c.owner == owner)).one_or_none()
            if row is None:
                raise NotFound(f"expected the id of an event of a job of yours, got {event_id(job, number)}")
            anew = {"since": now, "not_before": now, "tries": 0, "delivered_at": None, "error": None}
            status = DeliveryStatus.WAITING if row.status in _OVER else row.status
            connection.execute(update(deliveries).where(_is(job, number)).values(status=status, **anew))
            _promote(connection, job)
            return delivery_record(connection.execute(query).one())

        return await self._database.write(redo)


def tell(connection: Connection, job: JobRecord, now: float) -> None:
    """Puts the job's new state into the outbox, if anybody is to be told of it."""
    if job.webhook is None:
        return
    number = connection.scalar(select(func.max(deliveries.c.number)).where(deliveries.c.job == job.id)) or 0
    event = DeliveryRecord(
        job=job.id,
        number=number + 1,
        owner=job.owner,
        state=job.state,
        at=now,
        url=job.webhook,
        status=DeliveryStatus.WAITING,
        since=now,
    )
    connection.execute(insert(deliveries).values(delivery_values(event)))
    _promote(connection, job.id)


def _promote(connection: Connection, job: str) -> None:
    """Makes the oldest of the job's open events the pending one, if none is."""
    pending = exists().where(deliveries.c.job == job, _PENDING)
    connection.execute(
        update(deliveries)
        .where(deliveries.c.job == job, deliveries.c.number == _oldest_open(job), ~pending)
        .values(status=DeliveryStatus.PENDING)
    )


def _oldest_open(job: str) -> ScalarSelect[Any]:
    return select(func.min(deliveries.c.number)).where(deliveries.c.job == job, _OPEN).scalar_subquery()


def _is(job: str, number: int) -> Any:
    return (deliveries.c.job == job) & (deliveries.c.number == number)
