"""What nodes say on their sessions, once proven: reconciles after a drop, then passes each message to its service."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.lifecycle import Abandoned, Broken, Finished
from orchestrator.core.records import AttemptRecord, Failure
from orchestrator.core.scheduling import Load
from orchestrator.core.session import Proven
from orchestrator.ports.nodes import NodeLink
from orchestrator.ports.store import Store
from orchestrator.service.events import JobEvents
from orchestrator.service.lifecycle import Lifecycle
from orchestrator.service.nodes import ConnectedNode, Nodes
from orchestrator.service.online import Online
from orchestrator.service.paying import Payer
from orchestrator.service.scheduling import Timeouts
from orchestrator.service.tracking import Tracker
from orchestrator.service.usage import Usage
from orchestrator.service.verification import Verifier
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol import messages
from tandem.protocol.capacity import Capacity
from tandem.protocol.codec import Envelope
from tandem.protocol.errors import NotFound, StaleAttempt, error_from_wire
from tandem.protocol.ids import AttemptRef, job_of
from tandem.protocol.jobs import AttemptState
from tandem.protocol.messages import HeartbeatReply, HeldAttempt, Welcome
from tandem.protocol.placement import need
from tandem.waiting import Bell

logger = logging.getLogger(__name__)

_HEARTBEATS_A_LEASE = 3


@dataclass(frozen=True, slots=True)
class Collaborators:
    store: Store
    nodes: Nodes
    lifecycle: Lifecycle
    verifier: Verifier
    payer: Payer
    usage: Usage
    online: Online
    events: JobEvents
    tracker: Tracker
    tasks_waiting: Bell
    clock: Clock
    timeouts: Timeouts


class Sessions:
    def __init__(self, collaborators: Collaborators) -> None:
        self._to = collaborators

    async def opened(self, proven: Proven, link: NodeLink) -> Welcome:
        """Takes a proven node in: what it still holds goes on, what it lost is given to others."""
        node = ConnectedNode(proven.node, link, proven.offer, self._to.clock.now())
        self._to.nodes.add(node)  # it gets no work yet, for want of terms
        held = {attempt.ref: attempt for attempt in proven.held}
        active = await self._to.store.attempts_on(proven.node)
        for attempt in active:
            if attempt.ref not in held and attempt.state is AttemptState.RUNNING:
                await self._lose(attempt)
        kept = [attempt for attempt in active if attempt.ref in held]
        node.gone = tuple(set(held) - {attempt.ref for attempt in kept})
        lease = self._to.timeouts.lease
        await self._to.store.extend_leases(proven.node, [attempt.ref for attempt in kept], lease)
        await self._restore(node, kept)
        log.event(logger, "node_connected", node=proven.node, held=len(held), kept=len(kept))
        return Welcome(
            heartbeat=lease / _HEARTBEATS_A_LEASE,
            lease=lease,
            limits=self._to.payer.limits,
            keep=_keep(held, kept),
            usage=await self._to.usage.resume(proven.node),
        )

    async def resumed(self, address: str) -> None:
        """After the welcome is on its way: unanswered payments are said again, before any new terms."""
        node = self._to.nodes.get(address)
        if node is not None:
            await self._to.payer.resume(node)
            if (reason := node.trust.suspended) is not None:
                node.link.send(messages.Problem(code=reason.obstacle, detail=reason.detail))
            for ref in node.gone:
                await self._to.lifecycle.remind(address, ref)
            self._to.online.replicas.offered(node)
            self._to.tasks_waiting.ring()

    def closed(self, address: str, link: NodeLink) -> None:
        if self._to.nodes.remove(address, link):
            self._to.online.replicas.left(address)
        self._to.usage.settle_soon()
        log.event(logger, "node_disconnected", node=address)

    async def receive(self, address: str, link: NodeLink, envelope: Envelope) -> None:  # noqa: C901, PLR0912 - one arm a message
        """A message of an open session; one whose node has opened a newer session is not heard any more."""
        node = self._to.nodes.get(address)
        if node is None or node.link is not link:
            return
        match envelope.message:
            case messages.Heartbeat(attempts=refs):
                node.link.send(HeartbeatReply(lost=await self._extend(node, refs)))
            case messages.Progress() as progress:
                self._progress(node, progress)
            case messages.Finished(ref=ref, output=output):
                event = Finished(ref, address, output, envelope.tensors)
                if await self._to.lifecycle.report(address, ref, event) is not None:
                    self._to.verifier.verify(ref)
            case messages.Failed(ref=ref) as failed:
                error = error_from_wire(failed.code, failed.detail, retryable=failed.retryable)
                failure = Failure(error.code, error.detail, error.retryable)
                await self._to.lifecycle.report(address, ref, Broken(ref, address, failure))
            case messages.OfferUpdate(offer=offer):
                node.offer = offer
                self._to.online.replicas.offered(node)
                self._to.tasks_waiting.ring()
            case messages.ModelStatus() as status:
                self._to.online.replicas.status(node, status)
            case messages.TicketTerms() as terms:
                await self._to.payer.terms(node, terms)
                self._to.online.resume()
                self._to.tasks_waiting.ring()
            case messages.PaymentReceipt() as receipt:
                await self._to.payer.receipt(node, receipt)
                self._to.tasks_waiting.ring()
            case messages.UsageReceipt(id=window):
                await self._to.usage.receipt(node, window)
            case messages.Problem() as problem:
                log.event(logger, "node_problem", node=address, code=problem.code, detail=problem.detail)
            case _:
                raise AssertionError(f"the session let {envelope.message.type} through")

    async def _extend(self, node: ConnectedNode, refs: Sequence[AttemptRef]) -> tuple[AttemptRef, ...]:
        """Extends leases, but not of attempts that should long be over; returns those that are lost."""
        now = await self._to.store.now()
        overdue = {ref for ref in refs if ref in node.loads and node.loads[ref].deadline <= now}
        in_time = [ref for ref in refs if ref not in overdue]
        return (*overdue, *await self._to.store.extend_leases(node.address, in_time, self._to.timeouts.lease))

    def _progress(self, node: ConnectedNode, progress: messages.Progress) -> None:
        if progress.ref not in node.loads:
            return
        job, now = job_of(progress.ref.task), self._to.clock.now()
        self._to.tracker.said(progress.ref, progress.permille, now)
        overall = self._to.tracker.progress(job, now)
        if overall is not None:
            self._to.events.publish_progress(job, overall)

    async def _lose(self, attempt: AttemptRecord) -> None:
        try:
            await self._to.lifecycle.apply(job_of(attempt.ref.task), Abandoned(attempt.ref))
        except (StaleAttempt, NotFound):
            return

    async def _restore(self, node: ConnectedNode, kept: Sequence[AttemptRecord]) -> None:
        """Books what the node goes on with, less what was judged while we looked."""
        for attempt in kept:
            snapshot = await self._to.store.job(job_of(attempt.ref.task))
            self._to.tracker.restore(snapshot)
            task = snapshot.task(attempt.ref.task)
            if task is not None:
                deadline = self._to.timeouts.deadline(attempt, task.work)
                running = attempt.state is AttemptState.RUNNING
                taken = need(task.work, node.offer.capability) if running else Capacity()
                node.loads[attempt.ref] = Load(taken, attempt.price, deadline)
        active = {attempt.ref for attempt in await self._to.store.attempts_on(node.address)}
        for ref in set(node.loads) - active:
            del node.loads[ref]


def _keep(held: dict[AttemptRef, HeldAttempt], active: list[AttemptRecord]) -> tuple[AttemptRef, ...]:
    """What the node goes on with, and what it has finished: of that it will ask, and hear the verdict that stands."""
    going_on = {attempt.ref for attempt in active}
    return tuple(ref for ref, attempt in held.items() if ref in going_on or attempt.finished)
