"""Which models are warm on which nodes: by what nodes say, and by what they are asked for."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.online import Replica, ReplicaState, has_spare, host, limit_of, unfit
from orchestrator.core.scheduling import NodeState
from orchestrator.ports.urls import Urls
from orchestrator.service.nodes import ConnectedNode, Nodes
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import TandemError, Unavailable, error_from_wire
from tandem.protocol.messages import LoadModel, ModelState, ModelStatus, UnloadModel
from tandem.protocol.models import ModelInfo

logger = logging.getLogger(__name__)

_URL_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ReplicaPolicy:
    """Seconds. `price`: the most wei a second of model cost that a node may ask."""

    price: int
    load: float = 300.0
    """After which a node that says nothing of a model counts as one that cannot load it."""
    retry: float = 15.0
    """Before a model is tried again on a node that could not load it."""


class Replicas:
    """`changed` is called with the name of what is served when a replica became ready, or one that was tried cannot."""

    def __init__(
        self, nodes: Nodes, urls: Urls, clock: Clock, policy: ReplicaPolicy, changed: Callable[[str], None]
    ) -> None:
        self._nodes = nodes
        self._urls = urls
        self._clock = clock
        self._policy = policy
        self._changed = changed
        self._by_model: dict[str, dict[str, Replica]] = {}

    def of(self, served: str) -> Mapping[str, Replica]:
        """By node, in whatever state."""
        return self._by_model.get(served, {})

    def models(self) -> Iterable[str]:
        return list(self._by_model)

    # --- what nodes say

    def offered(self, node: ConnectedNode) -> None:
        """A node has connected, or offers anew: what it has warm is ready, and nothing else is."""
        warm = {each.model for each in node.offer.models}
        for served in self.models():
            replica = self._by_model[served].get(node.address)
            if replica is not None and replica.state is ReplicaState.READY and served not in warm:
                self.lost(served, node.address)
        for served in warm:
            self._ready(served, node)

    def status(self, node: ConnectedNode, said: ModelStatus) -> None:
        """A model's state on a node has changed."""
        match said.state:
            case ModelState.READY:
                if node.address in self.of(said.model):  # else its offer, which is bounded, will say so
                    self._ready(said.model, node)
            case ModelState.UNLOADED:
                self.lost(said.model, node.address)
            case ModelState.FAILED:
                error = error_from_wire(said.code or Unavailable.code, said.detail, retryable=said.retryable)
                self._failed(said.model, node.address, error)
            case ModelState.LOADING:
                pass

    def left(self, address: str) -> None:
        """A node's session has ended."""
        for served in self.models():
            self.lost(served, address)

    # --- what is asked for

    def add(self, model: ModelInfo, *, pinned: bool) -> bool:
        """Has one more node load the model; False: there is none for it. A pinned one never makes room for others."""
        return self._add(model, self._nodes.states(), self.of(model.served), pinned=pinned)

    def add_spare(self, model: ModelInfo, besides: Collection[str]) -> bool:
        """The same on a node that has memory to spare, and is none of these."""
        spare = [state for state in self._nodes.states() if has_spare(model, state)]
        return self._add(model, spare, self.of(model.served).keys() | set(besides), pinned=False)

    def _add(self, model: ModelInfo, states: Sequence[NodeState], without: Collection[str], *, pinned: bool) -> bool:
        best = host(model, states, self._policy.price, without)
        node = self._nodes.get(best.address) if best is not None else None
        if node is None:
            return False
        limit = limit_of(node.offer, model.settings.max_batch)
        replica = Replica(node.address, ReplicaState.LOADING, self._clock.monotonic(), limit)
        self._by_model.setdefault(model.served, {})[node.address] = replica
        node.link.send(self._order(model, pinned=pinned))
        log.event(logger, "model_wanted", model=model.name, version=model.version, node=node.address)
        return True

    def tell(self, model: ModelInfo, *, pinned: bool) -> None:
        """Says to every node that has the model what it costs; each answers at once if it is ready."""
        for replica in list(self.of(model.served).values()):  # a link that ends by this has others change it
            node = self._nodes.get(replica.node)
            if replica.error is None and node is not None:
                replica.state, replica.told, replica.since = ReplicaState.LOADING, True, self._clock.monotonic()
                replica.limit = limit_of(node.offer, model.settings.max_batch)
                node.link.send(self._order(model, pinned=pinned))

    def drop(self, served: str, address: str) -> None:
        """Has a node let go of the model."""
        self.lost(served, address)
        node = self._nodes.get(address)
        if node is not None:
            node.link.send(UnloadModel(model=served))

    def freed(self, served: str, address: str) -> None:
        """A request that was to go there and nowhere else is over: another one may."""
        if address in self.of(served):
            self._changed(served)

    def distrust(self, address: str) -> None:
        """Has a node that gets no work let go of all models."""
        for served in self.models():
            if address in self.of(served):
                self.drop(served, address)

    def lost(self, served: str, address: str) -> None:
        """The node has the model no more."""
        replicas = self._by_model.get(served)
        if replicas is not None and replicas.pop(address, None) is not None:
            if not replicas:
                del self._by_model[served]
            self._changed(served)

    def expire(self) -> None:
        """Gives up on loads that take too long, and forgets failures after a while."""
        now = self._clock.monotonic()
        for served in self.models():
            for replica in list(self._by_model[served].values()):
                age = now - replica.since
                if replica.state is ReplicaState.LOADING and age > self._policy.load:
                    late = Unavailable(f"expected the node to load the model within {self._policy.load:.0f} s")
                    self._failed(served, replica.node, late)
                elif replica.state is ReplicaState.FAILED and age > self._policy.retry:
                    self.lost(served, replica.node)

    def why_not(self, model: ModelInfo) -> TandemError:
        """Why there is no node for the model: the error of the last that tried, or what each node lacks."""
        failed = [replica for replica in self.of(model.served).values() if replica.error is not None]
        if failed:
            error = max(failed, key=lambda replica: replica.since).error
            assert error is not None  # noqa: S101 - chosen for it
            return error
        states = self._nodes.states()
        reasons = [f"{node.address}: {unfit(model, node, self._policy.price)}" for node in states[:5]]
        said = "; ".join(reasons) or "none is connected"
        return Unavailable(
            f"expected a node that can serve {model.name} version {model.version}, there is none: {said}"
        )

    # --- one replica

    def _ready(self, served: str, node: ConnectedNode) -> None:
        replicas = self._by_model.setdefault(served, {})
        replica = replicas.get(node.address)
        if replica is None:
            replica = replicas[node.address] = Replica(
                node.address, ReplicaState.READY, self._clock.monotonic(), limit_of(node.offer, 1), told=False
            )
        replica.state, replica.error = ReplicaState.READY, None
        replica.used_at = self._clock.monotonic()
        self._changed(served)

    def _failed(self, served: str, address: str, error: TandemError) -> None:
        replica = self.of(served).get(address)
        if replica is not None:
            replica.state, replica.error, replica.since = ReplicaState.FAILED, error, self._clock.monotonic()
            log.event(logger, "model_failed", model=served, node=address, code=error.code, detail=error.detail)
            self._changed(served)

    def _order(self, model: ModelInfo, *, pinned: bool) -> LoadModel:
        until = self._clock.now() + _URL_SECONDS
        return LoadModel(
            model=model.served,
            artifact=model.artifact,
            size=model.size,
            url=self._urls.download(model.artifact, until),
            files=model.files,
            file_urls=tuple(self._urls.download(file.artifact, until) for file in model.files),
            inputs=model.cost_inputs,
            cost_us=model.cost_us,
            settings=model.settings.run,
            pinned=pinned,
        )
