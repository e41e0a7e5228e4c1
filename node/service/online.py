"""Requests on line: models that the orchestrator wants warm, and what it then asks of them.

A request costs a few dictionary look-ups here: no task is made for it, and nothing is written down. It is admitted by
the node's own offer, run, answered, and counted.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from node.ports.execution import Inference, ModelFiles, ModelRun, Running
from node.ports.transfer import Shelf, Transfer
from node.service.link import Link
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import AttemptReturned, NoCapacity, TandemError, Unavailable
from tandem.protocol.messages import MAX_WARM, LoadModel, ModelState, ModelStatus, WarmModel
from tandem.protocol.online import ResponseHead, decode_request, encode_response
from tandem.protocol.pricing import Prices, inference_cost, inference_price
from tandem.protocol.signing import Address
from tandem.protocol.streams import Cancelled, Requested, Streams
from tandem.protocol.tensors import Tensor
from tandem.waiting import happens

logger = logging.getLogger(__name__)

_MAX_PRICED = 1024
_DETAIL = 4096


class Counting(Protocol):
    """What the node is owed for requests: `begin`, then `served` or `failed`, with the same wei."""

    def begin(self, sender: Address, price: int) -> None:
        """Raises ExposureExceeded for a request that there is no room for."""
        ...

    def served(self, sender: Address, price: int) -> None: ...

    def failed(self, sender: Address, price: int) -> None: ...


@dataclass(slots=True, eq=False)
class _Model:
    """One that the orchestrator wants warm."""

    load: LoadModel
    status: ModelStatus
    older: "_Model | None" = None
    """The same under other settings, as long as it has not been let go of."""
    loading: asyncio.Task[None] | None = None
    kept: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Holds its files in the cache."""
    prices: dict[tuple[tuple[int, ...], ...], int] = field(default_factory=dict)
    """Wei, by the shapes of the inputs."""

    @property
    def ready(self) -> bool:
        return self.status.state is ModelState.READY

    def price(self, prices: Prices, inputs: Sequence[Tensor]) -> int:
        shapes = tuple([tensor.shape for tensor in inputs])
        price = self.prices.get(shapes)
        if price is None:
            if len(self.prices) >= _MAX_PRICED:
                self.prices.clear()
            price = inference_price(prices, inference_cost(self.load.cost_us, self.load.inputs, inputs))
            self.prices[shapes] = price
        return price


class Online:
    """As a context it outlives sessions. `offer` is called with the warm set whenever it has changed."""

    def __init__(
        self,
        inference: Inference,
        transfer: Transfer,
        usage: Counting,
        link: Link,
        clock: Clock,
        *,
        prices: Prices,
        offer: Callable[[tuple[WarmModel, ...]], None],
    ) -> None:
        self.usage = usage
        self.inference = inference
        self._transfer = transfer
        self._link = link
        self._clock = clock
        self._prices = prices
        self._offer = offer
        self._models: dict[str, _Model] = {}
        self._offered: tuple[WarmModel, ...] = ()
        self._running = 0
        self._idle = asyncio.Event()
        self.draining = False

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        self.inference.listen(self.changed)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for model in self._models.values():
            if model.loading is not None:
                model.loading.cancel()
        await self._group.__aexit__(kind, error, trace)
        for model in self._models.values():
            await self._let_go(model)

    # --- what the orchestrator says

    def opened(self, sender: Address, streams: Streams, ring: Callable[[], None]) -> "Requests":
        """A session is open: what takes its requests. `ring` is called when the streams have something to say."""
        return Requests(self, sender, streams, ring)

    def load(self, message: LoadModel) -> None:
        """Makes a model warm, or says again that it is. Answered by its status, after each change."""
        model = self._models.get(message.model)
        if model is not None and _same(model.load, message) and not self._is_over(model):
            model.load = message  # the price of a request may be another
            model.prices.clear()
            self._link.send(model.status)
            return
        if model is None and len(self._models) >= MAX_WARM:
            error = NoCapacity(f"expected at most {MAX_WARM} models at once; unload some")
            self._link.send(_failure(message.model, error))
            return
        older = self._stop(model)
        status = ModelStatus(model=message.model, state=ModelState.LOADING)
        model = self._models[message.model] = _Model(message, status, older)
        model.loading = self._group.create_task(self._load(model))
        self._tell(model)

    def unload(self, digest: str) -> None:
        """Lets go of a model. Answered by its status, also if it was not there."""
        model = self._models.pop(digest, None)
        self._group.create_task(self._unload(digest, self._stop(model)))

    async def drain(self, grace: float) -> None:
        """Takes no more requests, and waits up to `grace` seconds for those that run."""
        self.draining = True
        if self._running:
            await happens(self._idle, self._clock, grace)

    # --- models

    @staticmethod
    def _is_over(model: _Model) -> bool:
        return model.status.state in {ModelState.FAILED, ModelState.UNLOADED}

    @staticmethod
    def _stop(model: _Model | None) -> _Model | None:
        if model is not None and model.loading is not None:
            model.loading.cancel()
        return model

    async def _unload(self, digest: str, model: _Model | None) -> None:
        await self._let_go(model)
        if digest not in self._models:  # else it was asked for again meanwhile
            await self.inference.unload(digest)
            self._link.send(ModelStatus(model=digest, state=ModelState.UNLOADED))
            self.changed()

    async def _load(self, model: _Model) -> None:
        message = model.load
        begun = self._clock.monotonic()
        try:
            await self._let_go(model.older)
            model.older = None
            async with AsyncExitStack() as kept:
                files = await self._fetch(kept, message)
                loaded = await self.inference.load(files, message.settings, pinned=message.pinned)
                model.kept = kept.pop_all()
            status = ModelStatus(
                model=message.model, state=ModelState.READY, provider=loaded.provider, memory=loaded.memory
            )
            if loaded.fallback:
                status = status.model_copy(update={"detail": loaded.fallback[:_DETAIL]})
        except TandemError as error:
            status = _failure(message.model, error)
        model.loading, model.status = None, status
        log.event(
            logger,
            "model_loaded",
            model=message.model,
            state=status.state,
            provider=status.provider,
            code=status.code,
            detail=status.detail or None,
            seconds=round(self._clock.monotonic() - begun, 3),
        )
        self._tell(model)

    @staticmethod
    async def _let_go(model: _Model | None) -> None:
        """Of its files, and of those of older ones that it was to let go of and was stopped before."""
        while model is not None:
            if model.loading is not None:
                await asyncio.wait([model.loading])
            await model.kept.aclose()
            model = model.older

    async def _fetch(self, kept: AsyncExitStack, message: LoadModel) -> ModelFiles:
        async def fetch(artifact: str, size: int, url: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
            return await kept.enter_async_context(self._transfer.fetch(Shelf.MODELS, artifact, size, url))

        model = await fetch(message.artifact, message.size, message.url)
        urls = zip(message.files, message.file_urls, strict=True)
        data = {file.name: await fetch(file.artifact, file.size, url) for file, url in urls}
        return ModelFiles(message.model, model, data)

    def _tell(self, model: _Model) -> None:
        self._link.send(model.status)
        self.changed()

    def changed(self) -> None:
        """The warm set may be another: what has gone or come back by itself is said, and the offer follows."""
        warm = {each.digest: each.loaded for each in self.inference.warm()}
        for digest, model in self._models.items():
            if model.ready and digest not in warm:
                model.status = ModelStatus(model=digest, state=ModelState.UNLOADED, detail="it made room, or crashed")
                self._link.send(model.status)
            elif model.status.state is ModelState.UNLOADED and (back := warm.get(digest)) is not None:
                model.status = ModelStatus(
                    model=digest, state=ModelState.READY, provider=back.provider, memory=back.memory
                )
                self._link.send(model.status)
        offered = tuple(
            WarmModel(model=digest, provider=model.status.provider or "", memory=model.status.memory)
            for digest, model in self._models.items()
            if model.ready
        )
        if offered != self._offered:
            self._offered = offered
            self._offer(offered)

    # --- requests

    def admit(self, sender: Address, digest: str, price: int, inputs: Sequence[Tensor]) -> None:
        """Counts a request that is taken. Raises why it is not."""
        model = self._models.get(digest)
        if self.draining:
            raise AttemptReturned("the node is draining and takes no new requests")
        if model is None or not model.ready:
            raise Unavailable(
                f"expected a request to a model that is loaded, got one to {digest}; say load_model first"
            )
        expected = model.price(self._prices, inputs)
        if price != expected:
            raise Unavailable(f"expected a price of {expected} wei by this node's offer, got {price}")
        self.usage.begin(sender, price)
        self._running += 1

    def over(self) -> None:
        """A request that was admitted has ended."""
        self._running -= 1
        if self.draining and not self._running:
            self._idle.set()


class Requests:
    """Those of one session."""

    def __init__(self, online: Online, sender: Address, streams: Streams, ring: Callable[[], None]) -> None:
        self._online = online
        self._sender = sender
        self._streams = streams
        self._ring = ring
        self._begun: dict[int, tuple[Running, int]] = {}
        """By stream, with the price in wei."""

    def receive(self, message: bytes | bytearray) -> None:
        """Takes a message of streams. Raises StreamViolation."""
        for event in self._streams.receive(message):
            if isinstance(event, Requested):
                try:
                    self._begin(event)
                except TandemError as error:
                    self._streams.fail(event.stream, error)
            elif isinstance(event, Cancelled):
                self._stop(event.stream)
                self._streams.fail(event.stream, Unavailable("the request was cancelled"))
        self._ring()

    def close(self) -> None:
        """The session is over: nobody waits for what runs."""
        for stream in list(self._begun):
            self._stop(stream)

    def _begin(self, event: Requested) -> None:
        stream, online = event.stream, self._online
        head, inputs = decode_request(event.head, event.body)
        online.admit(self._sender, head.digest, head.price, inputs)
        running = online.inference.submit(head.digest, inputs, head.outputs, partial(self._done, stream))
        self._begun[stream] = running, head.price

    def _done(self, stream: int, outcome: ModelRun | TandemError) -> None:
        _, price = self._begun.pop(stream)
        self._online.over()
        if isinstance(outcome, ModelRun):
            try:
                head = ResponseHead(outcome.provider, outcome.run_us, outcome.queue_us, outcome.batch, outcome.warm)
                told = self._streams.respond(
                    stream, encode_response(head, outcome.outputs), [tensor.data for tensor in outcome.outputs]
                )
            except TandemError as error:  # too large for a message
                outcome = error
            else:
                (self._online.usage.served if told else self._online.usage.failed)(self._sender, price)
        if isinstance(outcome, TandemError):
            if isinstance(outcome, Unavailable):
                self._online.changed()  # that the model has gone is said before, so that it is not asked for again
            self._online.usage.failed(self._sender, price)
            self._streams.fail(stream, outcome)
        self._ring()

    def _stop(self, stream: int) -> None:
        begun = self._begun.pop(stream, None)
        if begun is not None:
            running, price = begun
            running.cancel()
            self._online.over()
            self._online.usage.failed(self._sender, price)


def _same(one: LoadModel, other: LoadModel) -> bool:
    """Whether they ask for the same to be loaded."""
    return (one.settings, one.pinned) == (other.settings, other.pinned)


def _failure(digest: str, error: TandemError) -> ModelStatus:
    return ModelStatus(
        model=digest, state=ModelState.FAILED, code=error.code, detail=error.detail[:_DETAIL], retryable=error.retryable
    )
