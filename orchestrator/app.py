"""The composition root: every part is made here, once, and handed what it needs."""

import asyncio
import logging
import random
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from orchestrator.accounting import Accounting, accounting, store_url
from orchestrator.adapters.artifacts import open_artifacts
from orchestrator.adapters.batches import ChildBatches
from orchestrator.adapters.inspection import ChildInspector
from orchestrator.adapters.packaging import ChildPackager
from orchestrator.adapters.store import open_store
from orchestrator.adapters.visiting import VisitLimits, open_visitor
from orchestrator.core.backlog import BacklogPolicy
from orchestrator.core.blame import RetryPolicy
from orchestrator.core.delivery import DeliveryPolicy
from orchestrator.core.session import Identity
from orchestrator.core.views import NodeView
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.batches import Batches
from orchestrator.ports.inspection import Inspector
from orchestrator.ports.packaging import Packager
from orchestrator.ports.store import Store
from orchestrator.ports.visiting import Visitor
from orchestrator.service.artifacts import Artifacts
from orchestrator.service.assembly import Assembly, Makers
from orchestrator.service.batches import BatchFiles
from orchestrator.service.checks import Checks
from orchestrator.service.delivery import Deliveries
from orchestrator.service.directed import Directed
from orchestrator.service.events import JobEvents
from orchestrator.service.exports import Exports
from orchestrator.service.folders import Folders
from orchestrator.service.janitor import Janitor
from orchestrator.service.jobs import Jobs
from orchestrator.service.keys import Keys
from orchestrator.service.leases import Leases
from orchestrator.service.lifecycle import Bells, Lifecycle
from orchestrator.service.models import Models
from orchestrator.service.nodes import Nodes
from orchestrator.service.online import Online, OnlinePolicy
from orchestrator.service.paying import Payer
from orchestrator.service.planning import Planning
from orchestrator.service.preparation import Preparations
from orchestrator.service.replicas import ReplicaPolicy, Replicas
from orchestrator.service.retrying import Retries
from orchestrator.service.scheduling import Scheduler, Timeouts
from orchestrator.service.sessions import Collaborators, Sessions
from orchestrator.service.shards import ShardChecks
from orchestrator.service.sources import Sources
from orchestrator.service.submission import Submissions
from orchestrator.service.tracking import Tracker
from orchestrator.service.usage import Usage
from orchestrator.service.verification import Verifier
from orchestrator.service.webhooks import Webhooks
from orchestrator.settings import OrchestratorSettings
from orchestrator.web.app import RUNNER_OPTIONS, build_app
from orchestrator.web.call import Limits, OpenInference, Services
from orchestrator.web.oip.front import Hub
from orchestrator.web.oip.inferences import Inferences
from orchestrator.web.oip.memory import Memory
from orchestrator.web.session import NodeSessions
from orchestrator.web.signing import UrlSigner
from tandem import logging as log
from tandem.chain.broker import TicketBroker
from tandem.chain.keystore import load_keystore
from tandem.clock import Clock, SystemClock
from tandem.folder import held, write_secret
from tandem.process import detect_sandbox
from tandem.protocol.errors import ChainUnavailable, ConfigurationError
from tandem.waiting import Bell

logger = logging.getLogger(__name__)

_SECRET_BYTES = 32


async def run(settings: OrchestratorSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises ConfigurationError if it cannot begin."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    identity = await _identity(settings)
    with held(settings.data):
        async with _parts(settings, identity, SystemClock()) as parts, asyncio.TaskGroup() as loops:
            background = [loops.create_task(loop) for loop in parts.loops]
            async with _serving(settings, parts):
                log.event(logger, "orchestrator_ready", url=settings.http.origin, sender=identity.sender)
                await stop.wait()
            for task in background:
                task.cancel()
    log.event(logger, "orchestrator_stopped")


@dataclass(frozen=True, slots=True)
class _Parts:
    app: web.Application
    hub: Hub
    sessions: NodeSessions
    loops: Sequence[Coroutine[Any, Any, None]]


@asynccontextmanager
async def _parts(settings: OrchestratorSettings, identity: Identity, clock: Clock) -> AsyncIterator[_Parts]:
    sandbox, nodes = await detect_sandbox(), Nodes()
    inspector = ChildInspector(sandbox=sandbox, clock=clock)
    packager = ChildPackager(settings.data / "packaging", sandbox=sandbox, clock=clock)
    batches = ChildBatches(settings.data / "batches", sandbox=sandbox, clock=clock)
    async with (
        open_store(store_url(settings.data), clock) as store,
        open_artifacts(settings.data / "artifacts") as artifacts,
        open_visitor(settings.fetch.guard, _visit_limits(settings)) as visitor,
        accounting(settings, identity, clock, store, nodes) as accounts,
    ):
        outside = _Outside(store, artifacts, inspector, packager, batches, visitor, nodes, accounts)
        yield _compose(settings, identity, clock, outside)


@dataclass(frozen=True, slots=True)
class _Outside:
    """The adapters, and what they share."""

    store: Store
    artifacts: ArtifactStore
    inspector: Inspector
    packager: Packager
    batches: Batches
    visitor: Visitor
    nodes: Nodes
    accounting: Accounting


def _compose(settings: OrchestratorSettings, identity: Identity, clock: Clock, outside: _Outside) -> _Parts:
    store, content, inspector, nodes = outside.store, outside.artifacts, outside.inspector, outside.nodes
    events, tracker = JobEvents(), Tracker()
    tasks_waiting, money_owed = Bell(clock), Bell(clock)
    to_prepare, to_export, to_deliver = Bell(clock), Bell(clock), Bell(clock)
    timeouts = Timeouts(
        lease=settings.leases.lease,
        start_to_finish_base=settings.leases.start_to_finish_base,
        start_to_finish_factor=settings.leases.start_to_finish_factor,
    )
    policy = RetryPolicy(max_nodes=settings.leases.max_nodes)
    due: asyncio.Queue[str] = asyncio.Queue()
    bells = Bells(tasks_waiting.ring, money_owed.ring, due.put_nowait, to_deliver.ring, to_export.ring)
    lifecycle = Lifecycle(store, nodes, events, tracker, policy, bells)
    batches = BatchFiles(store, content, outside.batches)
    assembly = Assembly(store, content, Makers(outside.packager, batches, inspector), lifecycle.apply, due, clock)
    signer = UrlSigner(_url_secret(settings.data), settings.http.origin, clock)
    scheduler = Scheduler(store, nodes, lifecycle, tracker, signer, tasks_waiting, timeouts)
    payer = Payer(store, nodes, identity, outside.accounting.paying, money_owed)
    usage = Usage(store, nodes, clock, settings.usage.window, money_owed.ring, outside.accounting.registry)
    models = Models(store, content, inspector, clock, settings.catalogue.quota)
    planning = Planning(store, content, inspector, batches, settings.prices, nodes.states, models.find)
    artifacts = Artifacts(store, content, settings.limits.upload)
    sources = Sources(artifacts, outside.visitor, events, clock)
    preparations = Preparations(
        store, planning, sources, events, lifecycle.apply, to_prepare, _backlog_policy(settings)
    )
    online = Online(
        nodes,
        partial(Replicas, nodes, signer, clock, ReplicaPolicy(settings.prices.inference_second)),
        usage,
        models.warm,
        clock,
        price=settings.prices.inference_second,
        policy=OnlinePolicy(**settings.online.model_dump()),
    )
    checks = _checks(settings, nodes, online, usage, clock, outside.accounting.registry)
    shards = ShardChecks(checks, content, models.find)
    verifier = Verifier(store, content, inspector, shards.check, lifecycle, clock)
    collaborators = Collaborators(
        store, nodes, lifecycle, verifier, payer, usage, online, events, tracker, tasks_waiting, clock, timeouts
    )
    sessions = NodeSessions(identity, Sessions(collaborators), heartbeat=timeouts.lease / 2)
    exports = Exports(store, artifacts, outside.visitor, events, lifecycle.apply, to_export, _backlog_policy(settings))
    webhooks = Webhooks(store, outside.visitor, to_deliver.ring)
    jobs = Jobs(store, events, lifecycle.cancel, scheduler.explain, signer.folder)
    deliveries = Deliveries(
        store, outside.visitor, jobs.view, to_deliver, _delivery_policy(settings), random.SystemRandom().random
    )
    oip = OpenInference(
        online,
        Inferences(online, models, settings.limits.inference),
        Memory(settings.limits.inference_memory, settings.limits.inference_share),
    )
    services = Services(
        submissions=Submissions(store, planning, outside.visitor, webhooks, tasks_waiting.ring, to_prepare.ring),
        jobs=jobs,
        folders=Folders(store),
        retries=Retries(store, settings.prices, lifecycle.apply),
        webhooks=webhooks,
        models=models,
        unload=online.unload,
        keys=Keys(store),
        artifacts=artifacts,
        events=events,
        signer=signer,
        oip=oip,
        nodes=lambda: _node_views(nodes, store),
        usage=store.usage,
        ready=store.check,
        registry=outside.accounting.registry,
        measure=outside.accounting.meters.measure,
        allow_anonymous_loopback=settings.anonymous_loopback,
        limits=Limits(body=settings.limits.body),
    )
    limits = settings.limits
    janitor = Janitor(store, content, clock, limits.orphan_age, limits.history_age, limits.result_age)
    leases = Leases(store, lifecycle, clock, timeouts.lease)
    return _Parts(
        app=build_app(services, [sessions.route()]),
        hub=Hub(oip.inferences, services.owner, oip.memory),
        sessions=sessions,
        loops=[
            scheduler.run(),
            leases.run(),
            payer.run(),
            usage.run(),
            online.run(),
            checks.run(),
            verifier.run(),
            janitor.run(),
            assembly.run(),
            preparations.run(),
            exports.run(),
            deliveries.run(),
            models.run(),
            *outside.accounting.loops(),
        ],
    )


def _checks(
    settings: OrchestratorSettings,
    nodes: Nodes,
    online: Online,
    usage: Usage,
    clock: Clock,
    registry: CollectorRegistry,
) -> Checks:
    directed = Directed(nodes, online.replicas, usage, clock, settings.prices.inference_second)
    dice, policy = random.SystemRandom(), settings.checks.policy
    return Checks(nodes, directed, online, clock, policy, dice, registry)


def _visit_limits(settings: OrchestratorSettings) -> VisitLimits:
    return VisitLimits(redirects=settings.fetch.redirects, stall=settings.fetch.stall, total=settings.fetch.total)


def _delivery_policy(settings: OrchestratorSettings) -> DeliveryPolicy:
    return DeliveryPolicy(**settings.webhooks.model_dump())


def _backlog_policy(settings: OrchestratorSettings) -> BacklogPolicy:
    fetch = settings.fetch
    return BacklogPolicy(concurrency=fetch.concurrency, per_owner=fetch.per_owner, tries=fetch.tries)


@asynccontextmanager
async def _serving(settings: OrchestratorSettings, parts: _Parts) -> AsyncIterator[None]:
    runner = web.AppRunner(parts.app, access_log=None, **RUNNER_OPTIONS)
    await runner.setup()
    try:
        async with parts.hub.serve(settings.http.host, settings.http.port, _protocols(runner)):
            yield
            await parts.sessions.close()
    finally:
        await runner.cleanup()


def _protocols(runner: web.AppRunner) -> Callable[[], asyncio.BaseProtocol]:
    """Aiohttp's own, for what is no plain inference."""
    assert runner.server is not None  # noqa: S101 - it is there after the set-up
    return runner.server


async def _identity(settings: OrchestratorSettings) -> Identity:
    chain = settings.chain
    key = await asyncio.to_thread(load_keystore, chain.keystore, chain.password_file)
    identity = Identity(key, chain.sender or key.address, chain.domain, settings.http.origin)
    try:
        await _check_chain(settings, identity)
    except ChainUnavailable as error:  # nodes look for themselves before they work
        log.event(logger, "chain_unavailable", detail=error.detail)
    return identity


async def _check_chain(settings: OrchestratorSettings, identity: Identity) -> None:
    async with settings.chain.connect(SystemClock()) as chain:
        broker = TicketBroker(chain, settings.chain.contract)
        await broker.check()
        if not await broker.is_signer(identity.sender, identity.key.address):
            raise ConfigurationError(
                f"expected {identity.key.address} to be a signer of {identity.sender}, and it is not; "
                "run `tandem chain authorise-signer`, or correct chain.sender"
            )


async def _node_views(nodes: Nodes, store: Store) -> list[NodeView]:
    accounts = {account.node: account for account in await store.accounts()}
    return [
        NodeView(
            address=node.address,
            offer=node.offer,
            connected_at=node.connected_at,
            running=tuple(node.loads),
            earned=account.earned if (account := accounts.get(node.address)) else 0,
            issued=account.issued if account else 0,
            withheld=node.state().withheld,
        )
        for node in nodes
    ]


def _url_secret(data: Path) -> bytes:
    """The key of signed URLs; kept, so that a restart does not void those that are out."""
    path = data / "url.key"
    if not path.exists():
        write_secret(path, secrets.token_bytes(_SECRET_BYTES))
    return path.read_bytes()
