"""The composition root: every part is made here, once, and handed what it needs."""

import asyncio
import gc
import logging
import secrets
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from node.adapters.cache import ArtifactCache
from node.adapters.contract import EthereumTicketContract
from node.adapters.detection import detect
from node.adapters.ffmpeg import SOFTWARE, FfmpegTranscoder, find_ffmpeg
from node.adapters.inference import WorkerInference
from node.adapters.metrics import model_metrics
from node.adapters.ticket_store import SqliteTicketStore
from node.adapters.transfer import HttpTransfer
from node.adapters.websocket import WebSocketDialler
from node.adapters.workers import InferenceSettings
from node.core.redemption import RedemptionPolicy
from node.core.session import Expectation
from node.core.terms import TermsPolicy
from node.ports.execution import Detected
from node.ports.transfer import Shelf
from node.service.attempts import Attempts, Executors
from node.service.backing import BackingView
from node.service.books import Books
from node.service.gas import GasMeter
from node.service.link import Link
from node.service.notes import Notes
from node.service.online import Online
from node.service.payments import Account, Payments
from node.service.redemption import Redeemer
from node.service.session import Services, Sessions
from node.service.terms import Surroundings, Terms
from node.service.usage import Usage
from node.settings import CapacitySection, InferenceSection, NodeSettings
from tandem import logging as log
from tandem.chain.keystore import create_keystore, load_keystore
from tandem.clock import Clock, SystemClock
from tandem.folder import held, write_secret
from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.messages import Offer
from tandem.protocol.pricing import Prices
from tandem.protocol.signing import SigningKey
from tandem.waiting import Bell

logger = logging.getLogger(__name__)

_MIB = 2**20
_MILLICORES = 1000
_FLUSH_SECONDS = 2.0
_PASSWORD_BYTES = 24
_MOST_WORKERS = 4
_MODELS_SHARE = 4
"""The part of main memory for models that are kept loaded."""
_CPU_PROVIDER = "CPUExecutionProvider"


async def run(settings: NodeSettings) -> None:
    """Works until SIGTERM or SIGINT, then drains. Raises ConfigurationError if it cannot begin."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with held(settings.data):
        key = await asyncio.to_thread(open_key, settings)
        clock = SystemClock()
        whole = limited(await detect(clock, settings.data / "capability.json"), settings.capacity)
        inference = inference_of(settings.inference, whole)
        detected = without_models(whole, inference)
        for missing in detected.missing:
            log.event(logger, "missing", level=logging.WARNING, detail=missing)
        async with _executors(settings, detected, inference, clock) as executors:
            await serve(settings, key, detected, executors, clock, stop)


async def serve(
    settings: NodeSettings, key: SigningKey, detected: Detected, executors: Executors, clock: Clock, stop: asyncio.Event
) -> None:
    """Offers what was detected, and works with these executors until `stop` is set."""
    domain = settings.chain.domain
    link, bell = Link(), Bell(clock)
    async with (
        SqliteTicketStore(settings.data / "tickets.db", key.address, domain) as store,
        EthereumTicketContract(settings.chain, key, store, clock) as contract,
    ):
        books, notes = Books(store, bell), Notes(store, clock)
        view = BackingView(contract, clock, settings.redemption.refresh)
        around = Surroundings(contract, view, GasMeter(store, contract, clock), notes)
        policy = _terms_policy(settings)
        terms = Terms(store, around, link, clock, recipient=key.address, policy=policy, agreed_bell=bell)
        payments = Payments(store, books, around, terms, link, clock, Account(key.address, domain))
        usage = Usage(books, link, clock, settings.tickets.max_unpaid)
        redeemer = Redeemer(store, around, terms, clock, policy=_redemption_policy(settings), bell=bell)
        async with AsyncExitStack() as running:
            attempts = await running.enter_async_context(
                Attempts(offer_of(settings, detected), executors, books, link, clock)
            )
            online = await running.enter_async_context(
                Online(
                    executors.inference,
                    executors.transfer,
                    usage,
                    link,
                    clock,
                    prices=attempts.offer.prices,
                    offer=attempts.offer_models,
                )
            )
            sessions = Sessions(
                WebSocketDialler(settings.orchestrator.url),
                Expectation(settings.orchestrator.url, domain, settings.orchestrator.sender),
                key,
                Services(attempts, online, payments, usage, terms, books, link, notes),
                clock,
            )
            async with asyncio.TaskGroup() as intake:
                loops = (sessions.run(), payments.run(), usage.run(), terms.run(), redeemer.run(), notes.run())
                tasks = [intake.create_task(loop) for loop in loops]
                gc.freeze()  # what is there by now stays; looking through it held up requests for 60 ms
                log.event(logger, "node_ready", address=key.address, orchestrator=settings.orchestrator.url)
                await stop.wait()
                await _drain(attempts, online, link, settings.grace)
                for task in tasks:
                    task.cancel()
    log.event(logger, "node_stopped")


async def _drain(attempts: Attempts, online: Online, link: Link, grace: float) -> None:
    log.event(logger, "draining", running=len(attempts.running()), grace=grace)
    async with asyncio.TaskGroup() as draining:
        draining.create_task(attempts.drain(grace))
        draining.create_task(online.drain(grace))
    with suppress(TimeoutError):
        async with asyncio.timeout(_FLUSH_SECONDS):
            await link.flush()


def offer_of(settings: NodeSettings, detected: Detected) -> Offer:
    """What the node offers at the start of each session."""
    prices = Prices(**dict(settings.prices))
    return Offer(
        capability=detected.capability,
        capacity=detected.capacity,
        prices=prices,
        max_unpaid=settings.tickets.max_unpaid,
    )


def limited(detected: Detected, caps: CapacitySection) -> Detected:
    """What was detected, less what the operator keeps for himself."""
    capability, capacity = detected.capability, detected.capacity
    if not caps.gpu:
        capability, capacity = _without_gpu(capability), Capacity(cpu=capacity.cpu, memory=capacity.memory)
    kept = {
        "cpu": capacity.cpu if caps.cpu is None else min(capacity.cpu, int(caps.cpu * _MILLICORES)),
        "memory": capacity.memory if caps.memory is None else min(capacity.memory, caps.memory),
    }
    return Detected(capability, capacity.model_copy(update=kept), detected.missing)


def inference_of(section: InferenceSection, detected: Detected) -> InferenceSettings:
    """How models are served within what is offered."""
    capacity = detected.capacity
    cores = max(1, capacity.cpu // _MILLICORES)
    workers = section.workers or min(cores, _MOST_WORKERS)
    providers = detected.capability.execution_providers or (_CPU_PROVIDER,)
    cache = section.memory or capacity.memory // _MODELS_SHARE
    vram = capacity.vram // 2 if section.vram is None else min(section.vram, capacity.vram)
    return InferenceSettings(
        providers=providers,
        workers=workers,
        slots=-(-cores // workers),
        cache_mib=cache,
        vram_mib=vram if any(provider != _CPU_PROVIDER for provider in providers) else 0,
        memory_mib=max(cache, capacity.memory // 2),  # so that no one model takes all of the machine
    )


def without_models(detected: Detected, inference: InferenceSettings) -> Detected:
    """What is left to offer: the GPU memory of models is theirs, so that it and the encoders' fit on one GPU."""
    capacity = detected.capacity
    left = capacity.model_copy(update={"vram": capacity.vram - inference.vram_mib})
    return Detected(detected.capability, left, detected.missing)


def _without_gpu(capability: Capability) -> Capability:
    encoders = tuple(encoder for encoder in capability.video_encoders if encoder in SOFTWARE)
    providers = tuple(provider for provider in capability.execution_providers if provider == _CPU_PROVIDER)
    return capability.model_copy(
        update={"video_encoders": encoders, "gpu_decoders": (), "execution_providers": providers, "gpus": ()}
    )


def open_key(settings: NodeSettings) -> SigningKey:
    """The node's key, made at the first start with a random password. Raises ConfigurationError."""
    keystore, password_file = settings.keystore, settings.password_file
    if not keystore.exists():
        for folder in (keystore.parent, password_file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if not password_file.exists():
            write_secret(password_file, secrets.token_urlsafe(_PASSWORD_BYTES).encode() + b"\n")
        address = create_keystore(keystore, password_file)
        log.event(logger, "key_created", address=address, keystore=keystore)
    return load_keystore(keystore, password_file)


@asynccontextmanager
async def _executors(
    settings: NodeSettings, detected: Detected, inference: InferenceSettings, clock: Clock
) -> AsyncIterator[Executors]:
    folder = settings.data / "work"
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)  # what a killed process left half-done
    folder.mkdir()
    capability = detected.capability
    transcoder = FfmpegTranscoder(await find_ffmpeg(clock), capability, sandbox=capability.sandbox, clock=clock)
    cache = ArtifactCache(settings.data / "artifacts", settings.capacity.cache * _MIB)
    async with (
        HttpTransfer(origin=settings.orchestrator.url, cache=cache, clock=clock) as transfer,
        WorkerInference(cache.folder(Shelf.MODELS), inference, sandbox=capability.sandbox, clock=clock) as worker,
        model_metrics(settings.inference.metrics_port, worker),
    ):
        yield Executors(transcoder, worker, transfer, folder)


def _terms_policy(settings: NodeSettings) -> TermsPolicy:
    tickets = settings.tickets
    return TermsPolicy(
        odds=tickets.odds,
        lifetime=tickets.lifetime,
        gas_percent=settings.redemption.gas_percent,
        min_face_value=tickets.min_face_value,
        max_face_value=tickets.max_face_value,
        max_unpaid=tickets.max_unpaid,
    )


def _redemption_policy(settings: NodeSettings) -> RedemptionPolicy:
    redemption = settings.redemption
    return RedemptionPolicy(
        redemption.gas_percent,
        redemption.urgent_before,
        max_fee_per_gas=settings.chain.max_fee_per_gas,
        poll=settings.chain.poll,
    )
