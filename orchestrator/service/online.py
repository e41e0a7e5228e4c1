"""Requests on line: each waits, in a bounded queue, for a node where its model is warm, and has one deadline in all.

A request costs a few callbacks here: no task, no future and no timer is made for it, and nothing is stored. What a node
answers is checked, counted, and owed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from orchestrator.core.online import (
    Candidate,
    Demand,
    OnlineAnswer,
    OnlineCall,
    Pace,
    Replica,
    ReplicaState,
    check_answer,
    choose,
    wanted,
)
from orchestrator.core.shares import Holdings, Line, Room
from orchestrator.ports.online import Done, ModelStats
from orchestrator.service.nodes import ConnectedNode, Nodes
from orchestrator.service.replicas import Replicas
from orchestrator.service.usage import Usage
from tandem.clock import Clock
from tandem.protocol.errors import (
    DeadlineExceeded,
    NotFound,
    Overloaded,
    ResultRejected,
    RetryableError,
    TandemError,
)
from tandem.protocol.models import ModelInfo
from tandem.protocol.online import MAX_PRICE, RequestHead, decode_response, describe_response, encode_request
from tandem.protocol.pricing import inference_cost
from tandem.protocol.streams import Abandoned, Responded
from tandem.protocol.units import ceil_div
from tandem.waiting import tell

_MICRO = 10**6
_CANCELLED = "cancelled"
_NEVER = float("inf")
_MAX_COSTS = 1024
_MAX_SERVED = 4096
"""Beyond so many, what nobody asks for is forgotten, with its counters."""

Watch = Callable[[ConnectedNode, OnlineCall, OnlineAnswer], None]


@dataclass(frozen=True, slots=True)
class OnlinePolicy:
    queue: int = 256
    """Requests that may wait for one model."""
    queue_bytes: int = 2**28
    """Bytes of inputs that may wait in all."""
    share: float = 0.5
    """Of both, what one owner may have."""
    timeout: float = 30.0
    """Seconds that a request may take which names no timeout, and whose model has none."""
    attempts: int = 3
    """Nodes that a request is tried on, one after the other."""
    idle: float = 300.0
    """Seconds without a request after which replicas that are not pinned are unloaded."""
    grow: float = 1.0
    """Seconds for which requests have waited when one more node is to load the model."""
    tick: float = 0.5
    """Seconds between looks at replicas."""
    catalogue: float = 5.0
    """Seconds between looks at which models are pinned."""


@dataclass(slots=True, eq=False)
class _Served:
    """A model that was asked for, or is pinned."""

    info: ModelInfo
    waiting: "Line[_Request]" = field(default_factory=Line)
    """Those that are over stay until they are met."""
    held: Holdings = field(default_factory=Holdings)
    """Requests that wait, by owner."""
    stats: ModelStats = field(default_factory=ModelStats)
    pace: Pace = field(default_factory=Pace)
    asked_at: float = 0.0
    pressed_since: float | None = None
    pinned: int = 0
    costs: dict[tuple[tuple[int, ...], ...], int] = field(default_factory=dict)
    """Microseconds of model cost, by the shapes of the inputs."""
    loads: list[asyncio.Future[None]] = field(default_factory=list)
    """Of those who wait for it to be ready."""

    @property
    def forgettable(self) -> bool:
        return not (self.pinned or self.waiting or self.loads)

    def cost(self, call: OnlineCall) -> int:
        shapes = tuple([tensor.shape for tensor in call.inputs])
        cost = self.costs.get(shapes)
        if cost is None:
            if len(self.costs) >= _MAX_COSTS:
                self.costs.clear()
            cost = self.costs[shapes] = inference_cost(self.info.cost_us, self.info.cost_inputs, call.inputs)
        return cost


@dataclass(slots=True, eq=False)
class _Request:
    call: OnlineCall
    served: _Served
    done: Done | None
    """Who is told how it ends; None: it is over."""
    begun: float
    """By the loop's time, as all moments here."""
    timeout: float
    due: float
    cost_us: int
    size: int
    warm: bool
    late: asyncio.TimerHandle | None = None
    flights: list["_Flight"] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    queued: bool = False
    failure: TandemError | None = None
    """Of the last attempt."""


@dataclass(slots=True, eq=False)
class _Flight:
    """A request on its way to a node."""

    request: _Request
    node: ConnectedNode
    replica: Replica
    price: int
    sent: float
    stream: int = 0


class Online:
    """`models`: those of which replicas are to be kept warm. `price`: the most wei a second of model cost."""

    def __init__(
        self,
        nodes: Nodes,
        replicas: Callable[[Callable[[str], None]], Replicas],
        usage: Usage,
        models: Callable[[], Awaitable[list[ModelInfo]]],
        clock: Clock,
        *,
        price: int,
        policy: OnlinePolicy,
    ) -> None:
        self._nodes = nodes
        self.replicas = replicas(self._pump)
        self._usage = usage
        self._models = models
        self._clock = clock
        self._price = price
        self._policy = policy
        self._served: dict[str, _Served] = {}
        self._accepted: Watch = lambda _node, _call, _answer: None
        self._room = Room(policy.queue, policy.queue_bytes, policy.share)
        self._open: dict[_Request, None] = {}
        """All that are not over."""
        self._next_due = _NEVER
        """When the first of them may be over its time, for which there is a timer."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    # --- what the web asks

    def submit(self, call: OnlineCall, done: Done) -> Callable[[], None]:
        """As the port says."""
        model, policy = call.model, self._policy
        served = self._served_of(model)
        served.asked_at = begun = self._loop.time()
        size = 0
        for tensor in call.inputs:
            size += len(tensor.data)
        timeout = call.timeout or model.settings.timeout_s or policy.timeout
        warm = self.ready(model.served)
        early: list[OnlineAnswer | TandemError] = []
        due = begun + timeout
        request = _Request(call, served, early.append, begun, timeout, due, served.cost(call), size, warm)
        try:
            if served.waiting or not self._send(request):
                self._wait(request)
        except TandemError as error:
            self._fail(served, error.code)
            raise
        for outcome in early:
            assert isinstance(outcome, TandemError)  # noqa: S101 - no answer comes before this returns
            raise outcome
        request.done = done
        self._open[request] = None
        if due < self._next_due:
            self._look_at(due)
        return partial(self._cancel, request)

    async def infer(self, call: OnlineCall) -> OnlineAnswer:
        """As the port says."""
        answer: asyncio.Future[OnlineAnswer | TandemError] = self._loop.create_future()
        cancel = self.submit(call, lambda outcome: None if answer.done() else answer.set_result(outcome))
        try:
            outcome = await answer
        except asyncio.CancelledError:
            cancel()
            raise
        if isinstance(outcome, TandemError):
            raise outcome
        return outcome

    def stats(self, name: str) -> ModelStats:
        served = self._served.get(name)
        if served is None:
            return ModelStats()
        served.stats.waiting = sum(request.done is not None for request in served.waiting)
        served.stats.running = sum(replica.outstanding for replica in self.replicas.of(name).values())
        return served.stats

    def all_stats(self) -> Mapping[str, ModelStats]:
        return {name: self.stats(name) for name in self._served}

    def ready(self, name: str) -> bool:
        return any(replica.state is ReplicaState.READY for replica in self.replicas.of(name).values())

    async def load(self, model: ModelInfo) -> None:
        served = self._served_of(model)
        if self.ready(model.served):
            return
        loaded: asyncio.Future[None] = self._loop.create_future()
        served.loads.append(loaded)
        served.asked_at = self._loop.time()
        try:
            self._begin_loading(served)
            await loaded
        finally:
            served.loads.remove(loaded)

    async def unload(self, name: str) -> None:
        if name in self._served:
            self._served[name].pinned = 0  # until the catalogue is looked at again
        for address in list(self.replicas.of(name)):
            self.replicas.drop(name, address)

    # --- what checks ask

    def watch(self, accepted: Watch) -> None:
        """`accepted` is called with every answer that somebody waits for, as long as the call's inputs are there."""
        self._accepted = accepted

    def spread(self, model: ModelInfo, besides: Collection[str]) -> None:
        """Has another node than these load the model if one has memory to spare, unless one has or does."""
        self._served_of(model).asked_at = self._loop.time()
        if self.replicas.of(model.served).keys() <= set(besides):
            self.replicas.add_spare(model, besides)

    # --- the way of a request

    def _served_of(self, model: ModelInfo) -> _Served:
        served = self._served.get(model.served)
        if served is None:
            served = self._served[model.served] = _Served(model, pinned=model.replicas)
        served.info = model  # the same to nodes; but what whoever asks is told has their own name for it
        return served

    def _wait(self, request: _Request) -> None:
        """Raises Overloaded if the queue is full, or why there is no node for the model."""
        served = request.served
        if len(served.waiting) >= self._policy.queue:
            served.waiting.keep(lambda request: request.done is not None)
        call = request.call
        full = self._room.refusal(len(served.waiting), served.held, call.owner, request.size)
        if full is not None:
            seconds = max(0.1, len(served.waiting) * served.pace.mean)
            raise Overloaded(
                f"{call.model.name}: expected {full} to wait; come again in {seconds:.1f} s",
                min(30.0, seconds),
            )
        self._begin_loading(served)
        self._queue(request)

    def _queue(self, request: _Request, *, before: bool = False) -> None:
        request.served.waiting.add(request.call.owner, request.call.priority, request, before=before)
        request.queued = True
        self._room.add(request.served.held, request.call.owner, request.size)

    def _unqueue(self, request: _Request) -> None:
        if request.queued:
            request.queued = False
            self._room.drop(request.served.held, request.call.owner, request.size)

    def _begin_loading(self, served: _Served) -> None:
        """Has a node load the model, unless one does or has. Raises why there is none."""
        if any(replica.error is None for replica in self.replicas.of(served.info.served).values()):
            return
        if not self.replicas.add(served.info, pinned=served.pinned > 0):
            raise self.replicas.why_not(served.info)

    def _send(self, request: _Request) -> bool:
        """Hands a request to the best node that has room; False: none has."""
        served = request.served
        replicas = self.replicas.of(served.info.served)
        if not all(replica.told for replica in replicas.values()):
            self.replicas.tell(served.info, pinned=served.pinned > 0)
        candidates = [
            Candidate(replica, ceil_div(request.cost_us * node.offer.prices.inference_second, _MICRO), node.room, rate)
            for replica in replicas.values()
            if replica.state is ReplicaState.READY
            and (node := self._nodes.get(replica.node)) is not None
            and node.is_payable
            and not node.offer.draining
            and (rate := node.reliability)
        ]
        most = min(MAX_PRICE, ceil_div(request.cost_us * self._price, _MICRO))
        best = choose(candidates, most, request.tried)
        return best is not None and self._fly(request, best)

    def _fly(self, request: _Request, best: Candidate) -> bool:
        node, call = self._nodes.get(best.replica.node), request.call
        assert node is not None  # noqa: S101 - it was a moment ago
        flight = _Flight(request, node, best.replica, best.price, self._loop.time())
        try:
            head = encode_request(RequestHead(call.model.served, best.price, call.outputs), call.inputs)
            flight.stream = node.link.request(
                head, [tensor.data for tensor in call.inputs], partial(self._landed, flight)
            )
        except RetryableError:
            return False
        except TandemError as error:  # no node can be asked this
            self._finish(request, error)
            return True
        best.replica.outstanding += 1
        best.replica.used_at = flight.sent
        self._usage.begin(node, best.price)
        request.flights.append(flight)
        request.tried.append(node.address)
        self._watch(request)
        return True

    def _landed(self, flight: _Flight, reply: Responded | Abandoned | TandemError) -> None:
        """A node has answered, or will not; the request may be over since."""
        request, served, call = flight.request, flight.request.served, flight.request.call
        now = self._loop.time()
        self._usage.end(flight.node, flight.price)
        if flight in request.flights:
            self._end(flight)
        try:
            if isinstance(reply, TandemError):
                raise reply
            if isinstance(reply, Abandoned):
                check_answer(call, describe_response(reply.head, reply.size))
                self._usage.add(flight.node.address, call.owner, call.model, flight.price)
                raise reply.error
            answer = self._answer(flight, reply, now)
        except TandemError as error:
            self._failed(flight, error)
        else:
            flight.replica.timed(now - flight.sent)
            served.pace.add(now - flight.sent)
            self._usage.add(flight.node.address, call.owner, call.model, flight.price)
            if request.done is not None:
                self._accepted(flight.node, call, answer)
                self._finish(request, answer)
        self._pump(served.info.served)

    def _answer(self, flight: _Flight, reply: Responded, now: float) -> OnlineAnswer:
        """Raises ResultRejected for outputs that are not the model's."""
        request, served = flight.request, flight.request.served
        try:
            head, outputs = decode_response(reply.head, reply.body)
            check_answer(request.call, outputs)
        except TandemError as error:
            flight.node.score(accepted=False)
            raise ResultRejected(f"{flight.node.address}: {error.detail}") from error
        waited = int((flight.sent - request.begun) * _MICRO) + head.queue_us
        total = int((now - request.begun) * _MICRO)
        served.stats.add(request.call, waited, min(head.run_us, total), total, max(1, head.batch))
        served.stats.last_at = self._clock.now()
        return OnlineAnswer(outputs, head.provider, flight.node.address, head.run_us, waited, request.warm)

    def _failed(self, flight: _Flight, error: TandemError) -> None:
        request = flight.request
        if isinstance(error, NotFound):
            self.replicas.lost(request.call.model.served, flight.node.address)
        if request.done is None or request.flights:
            return  # it is over, or goes on elsewhere
        if (not error.retryable and not isinstance(error, NotFound)) or len(request.tried) >= self._policy.attempts:
            self._finish(request, error)
        else:
            request.failure = error
            request.served.stats.retried += 1
            if not self._send(request):
                self._again(request)

    def _again(self, request: _Request) -> None:
        """It waits for another node, before all of its owner that came later."""
        try:
            self._begin_loading(request.served)
        except TandemError as error:
            self._finish(request, request.failure or error)
            return
        self._queue(request, before=True)

    def _look_at(self, moment: float) -> None:
        """One timer for all: most requests are over long before they are due, and cost none."""
        if self._timer is not None:
            self._timer.cancel()
        self._next_due, self._timer = moment, self._loop.call_at(moment, self._sweep)

    def _sweep(self) -> None:
        """Ends what is over its time."""
        now, self._next_due = self._loop.time(), _NEVER
        for request in [each for each in self._open if each.due <= now]:
            self._expire(request)
        if self._open:
            self._look_at(min([request.due for request in self._open]))

    def _expire(self, request: _Request) -> None:
        reason = f"; the last attempt: {request.failure.code}: {request.failure.detail}" if request.failure else ""
        where = "a node" if request.flights else "the queue"
        detail = f"expected an answer within {request.timeout:g} s, it was still with {where}{reason}"
        self._finish(request, DeadlineExceeded(detail))

    def _cancel(self, request: _Request) -> None:
        if request.done is not None:
            self._fail(request.served, _CANCELLED)
            self._close(request)

    def _finish(self, request: _Request, outcome: OnlineAnswer | TandemError) -> None:
        """The request is over, unless it was before; whoever asked is told."""
        done = request.done
        if done is not None:
            if isinstance(outcome, TandemError):
                self._fail(request.served, outcome.code)
            self._close(request)
            tell(done, outcome)  # deadlines and others' turns do not hang on whoever asked

    def _close(self, request: _Request) -> None:
        """What still runs of it is of no use."""
        request.done = None
        self._open.pop(request, None)
        if request.late is not None:
            request.late.cancel()
        if request.queued:
            self._unqueue(request)
            request.call = request.call._replace(inputs=())  # it is met later, and nobody counts its bytes any more
        while request.flights:
            flight = request.flights[-1]
            self._end(flight)
            flight.node.link.cancel(flight.stream)
            self._pump(request.served.info.served)

    def _end(self, flight: _Flight) -> None:
        flight.request.flights.remove(flight)
        flight.replica.outstanding -= 1

    # --- stragglers

    def _watch(self, request: _Request) -> None:
        """Has a request sent a second time if it lags, where that is asked for."""
        if (request.call.hedge or request.call.model.settings.hedge) and request.late is None:
            request.late = self._loop.call_later(request.served.pace.late, self._hedge, request)

    def _hedge(self, request: _Request) -> None:
        others = self.replicas.of(request.call.model.served).keys() - set(request.tried)
        if request.flights and others and self._send(request):
            request.served.stats.hedged += 1

    # --- queues and replicas

    def _pump(self, name: str) -> None:
        """Something has changed: hands out what can be, and fails what has nowhere to go."""
        served = self._served.get(name)
        if served is None or not (served.waiting or served.loads):
            return
        if served.loads and self.ready(name):
            for loaded in served.loads:
                _settle(loaded)
        while any(self._turn(served, owner) for owner in served.waiting.owners if self._has_place(name)):
            pass
        if (served.waiting or served.loads) and all(
            replica.error is not None for replica in self.replicas.of(name).values()
        ):
            self._seek(served)

    def _has_place(self, name: str) -> bool:
        """Whether a node may have one more request, whatever it costs."""
        return any(
            replica.state is ReplicaState.READY and replica.outstanding + replica.reserved < replica.limit
            for replica in self.replicas.of(name).values()
        )

    def _turn(self, served: _Served, owner: str) -> bool:
        """Hands out a request of this owner, unless no node takes its next one."""
        while (entry := served.waiting.take(owner)) is not None:  # sending may end a session, and put others first
            request = entry[2]
            if request.done is None:
                continue
            if not self._send(request):
                served.waiting.put_back(owner, entry)
                return False
            self._unqueue(request)
            served.waiting.over(owner)
            return True
        served.waiting.over(owner)
        return False

    def _seek(self, served: _Served) -> None:
        """Every node that was asked cannot load the model: the next one is, unless it is the model's fault."""
        failed = list(self.replicas.of(served.info.served).values())
        final = any(replica.error is not None and not replica.error.retryable for replica in failed)
        more = not final and len(failed) < self._policy.attempts
        if more and self.replicas.add(served.info, pinned=served.pinned > 0):
            return
        error = self.replicas.why_not(served.info)
        for loaded in served.loads:
            _settle(loaded, error)
        waiting, served.waiting = served.waiting, Line()
        for request in waiting:
            self._finish(request, request.failure or error)

    def resume(self) -> None:
        """A node may take requests that could not before."""
        for name in list(self._served):
            self._pump(name)

    async def run(self) -> None:
        """Until cancelled: keeps as many replicas as are wanted."""
        looked = -self._policy.catalogue
        while True:
            now = self._clock.monotonic()
            if now - looked >= self._policy.catalogue:
                looked = now
                self._pin(await self._models())
            self.replicas.expire()
            self.resume()
            for served in list(self._served.values()):
                self._adjust(served, self._loop.time())
            await self._clock.sleep(self._policy.tick)

    def _pin(self, models: list[ModelInfo]) -> None:
        pinned: dict[str, int] = {}
        for model in models:
            self._served_of(model)
            pinned[model.served] = max(pinned.get(model.served, 0), model.replicas)
        for name, served in list(self._served.items()):
            old, served.pinned = served.pinned, pinned.get(name, 0)
            if (old > 0) != (served.pinned > 0):
                self.replicas.tell(served.info, pinned=served.pinned > 0)
            if len(self._served) > _MAX_SERVED and served.forgettable and not self.replicas.of(name):
                del self._served[name]

    def _adjust(self, served: _Served, now: float) -> None:
        name = served.info.served
        present = [each for each in self.replicas.of(name).values() if each.error is None]
        waiting = sum(request.done is not None for request in served.waiting)
        if not waiting or served.pressed_since is None:
            served.pressed_since = now if waiting else None
        pressed = now - served.pressed_since if served.pressed_since is not None else 0.0
        demand = Demand(served.pinned, len(present), waiting, pressed, now - served.asked_at)
        target = wanted(demand, self._policy.grow, self._policy.idle)
        loading = any(each.state is ReplicaState.LOADING for each in present)
        if target > len(present) and not loading:
            self.replicas.add(served.info, pinned=served.pinned > 0)
        for replica in sorted(present, key=lambda each: each.used_at)[: max(0, len(present) - target)]:
            if not replica.outstanding:
                self.replicas.drop(name, replica.node)

    def _fail(self, served: _Served, code: str) -> None:
        failures = served.stats.failures
        failures[code] = failures.get(code, 0) + 1


def _settle(future: "asyncio.Future[None]", error: TandemError | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
