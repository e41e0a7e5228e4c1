"""Sends webhooks from the outbox, each until it arrives or is given up; those of one job in their order."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from orchestrator.core.delivery import Answer, DeliveryPolicy, after_answer, body_of, headers_of, is_gone
from orchestrator.core.records import DeliveryRecord
from orchestrator.ports.store import Store
from orchestrator.ports.visiting import Visitor
from tandem import logging as log
from tandem.protocol.api import JobView
from tandem.protocol.errors import TandemError
from tandem.waiting import Bell

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 60.0

View = Callable[[str, str], Awaitable[JobView]]
"""A job of an owner, as it stands."""


class Deliveries:
    """`bell` is rung when there is something to send; `jitter` gives numbers out of [0, 1)."""

    def __init__(
        self,
        store: Store,
        visitor: Visitor,
        view: View,
        bell: Bell,
        policy: DeliveryPolicy,
        jitter: Callable[[], float],
    ) -> None:
        self._store = store
        self._visitor = visitor
        self._view = view
        self._bell = bell
        self._policy = policy
        self._jitter = jitter
        self._sending: set[str] = set()
        """Jobs."""
        self._ended: set[str] = set()
        """Jobs of which one was sent since the last look at the store began: what it then reads of them may be old."""
        self._endpoints: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled; first takes up what an earlier process had left."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._ended.clear()
                for delivery in await self._due():
                    self._begin(group, delivery)
                later = await self._store.next_delivery_at()
                pause = _IDLE_SECONDS if later is None else max(0.0, later - await self._store.now())
                await self._bell.wait(pause)

    async def _due(self) -> list[DeliveryRecord]:
        """Those that may be begun: rows of what is being sent stay due until it is over."""
        if len(self._sending) >= self._policy.concurrency:
            return []
        full = [endpoint for endpoint, count in self._endpoints.items() if count >= self._policy.per_endpoint]
        return await self._store.due_deliveries(2 * self._policy.concurrency, without=full)

    def _begin(self, group: asyncio.TaskGroup, delivery: DeliveryRecord) -> None:
        endpoint, policy = delivery.endpoint, self._policy
        busy = len(self._sending) >= policy.concurrency or self._endpoints[endpoint] >= policy.per_endpoint
        if busy or delivery.job in self._sending | self._ended:
            return
        self._sending.add(delivery.job)
        self._endpoints[endpoint] += 1
        group.create_task(self._deliver(delivery))

    async def _deliver(self, delivery: DeliveryRecord) -> None:
        try:
            await self._try(delivery)
        finally:
            self._sending.discard(delivery.job)
            self._ended.add(delivery.job)
            self._endpoints[delivery.endpoint] -= 1
            if not self._endpoints[delivery.endpoint]:
                del self._endpoints[delivery.endpoint]
            self._bell.ring()

    async def _try(self, delivery: DeliveryRecord) -> None:
        answer = await self._send(delivery)
        now = await self._store.now()
        after = after_answer(delivery, answer, now, self._policy, self._jitter())
        if is_gone(answer):
            await self._store.end_webhook(after)
        else:
            await self._store.save_delivery(after)
        log.event(
            logger,
            "webhook",
            webhook=delivery.id,
            type=f"job.{delivery.state}",
            endpoint=delivery.endpoint,
            status=after.status,
            tries=after.tries,
            error=after.error,
        )

    async def _send(self, delivery: DeliveryRecord) -> Answer | TandemError:
        webhook = await self._store.webhook(delivery.owner)
        if webhook is None:
            raise AssertionError(f"a job has a webhook and its owner {delivery.owner} has no secret")
        body = body_of(delivery, await self._view(delivery.job, delivery.owner))
        headers = headers_of(delivery, webhook, await self._store.now(), body)
        try:
            return await self._visitor.post(delivery.url, body, headers, self._policy.timeout)
        except TandemError as error:
            return error
