"""Runs some answers a second time on another node, and strikes the node that two others contradict.

Which answer is looked at is drawn when it is there: nothing is kept of the others, and neither the node that gave it
nor the one that runs it again can tell. The second run is owed to its node like any, as usage of the market itself.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NoReturn

from prometheus_client import CollectorRegistry, Counter, Gauge

from orchestrator.core.checks import MARKET, CheckPolicy, Draws, Given, Ruling, difference, rule
from orchestrator.core.online import OnlineAnswer, OnlineCall
from orchestrator.service.directed import Directed
from orchestrator.service.nodes import ConnectedNode, Nodes
from orchestrator.service.online import Online
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import TandemError
from tandem.protocol.messages import Problem
from tandem.protocol.models import ModelInfo
from tandem.protocol.pricing import inference_cost
from tandem.protocol.tensors import Tensor

logger = logging.getLogger(__name__)

_MICRO = 10**6
_AT_ONCE = 4
_SECONDS, _FACTOR = 5.0, 20.0
"""That one run may take, and further ones for each second of its model's cost."""
_ALIKE = 0.5  # how often a node of the same provider goes first; always would let two that invent one check each other
_TRIES = 2
"""Nodes that are asked, one after the other, for one more answer."""
_MOST = 3
"""Answers to the same inputs."""
_TICK = 1.0
_OUTVOTED, _DISPUTED = "outvoted", "disputed"


@dataclass(frozen=True, slots=True)
class _Drawn:
    call: OnlineCall
    given: Given
    size: int
    """Bytes that are kept for it."""


class Checks:
    """Hears of every answer of `online`."""

    def __init__(
        self,
        nodes: Nodes,
        directed: Directed,
        online: Online,
        clock: Clock,
        policy: CheckPolicy,
        dice: Random,
        registry: CollectorRegistry,
    ) -> None:
        self._nodes = nodes
        self._directed = directed
        self._online = online
        self._clock = clock
        self._policy = policy
        self._dice = dice
        self._draws = Draws(policy.share, dice.random)
        self._queue: asyncio.Queue[_Drawn] = asyncio.Queue()
        self._held = 0
        self._spare = policy.rate
        """Checks that may begin now."""
        self._spared_at = clock.monotonic()
        distrusted = Gauge("tandem_distrusted_nodes", "Nodes that get no work, outvoted too often.", registry=registry)
        distrusted.set_function(lambda: len(nodes.suspended()))
        online.watch(self.accepted)
        self._results = Counter("tandem_checks", "Answers run a second time, by result.", ["result"], registry=registry)

    # --- requests on line

    def accepted(self, node: ConnectedNode, call: OnlineCall, answer: OnlineAnswer) -> None:
        """Called with every answer, while the call's inputs are still there."""
        if self._draws.falls(node.trust.weight):
            self._keep(node, call, answer)

    def _keep(self, node: ConnectedNode, call: OnlineCall, answer: OnlineAnswer) -> None:
        size = sum(len(tensor.data) for tensor in (*call.inputs, *answer.outputs))
        if self._held + size > self._policy.memory or not self._begins() or not self.ready(call.model, node.address):
            return
        self._held += size
        given = Given(node.address, answer.provider, _copied(answer.outputs))
        self._queue.put_nowait(_Drawn(call._replace(inputs=_copied(call.inputs)), given, size))

    def ready(self, model: ModelInfo, besides: str) -> bool:
        """Whether two runs can be compared, and there is another node than this one for the second.

        If not, one is to load the model, if one can, for answers to come.
        """
        if model.unrepeatable is not None:
            return False
        if any(node.address != besides for node in self._directed.able(model)):
            return True
        self._online.spread(model, (besides,))
        return False

    def _begins(self) -> bool:
        """Whether one more may be run now, by how many a second there may be."""
        now = self._clock.monotonic()
        self._spare = min(max(1.0, self._policy.rate), self._spare + self._policy.rate * (now - self._spared_at))
        self._spared_at = now
        if self._spare < 1:
            return False
        self._spare -= 1
        return True

    async def run(self) -> NoReturn:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._work())
            while True:
                self._forgive()
                await self._clock.sleep(_TICK)

    async def _work(self) -> None:
        while True:
            drawn = await self._queue.get()
            try:
                await self.check(drawn.call, drawn.given)
            finally:
                self._held -= drawn.size

    # --- any answer

    def drawn_rows(self, node: str, rows: int, most: int) -> list[int]:
        """Which of so many answers of a node are to be looked at, `most` at most."""
        found = list(self._draws.of_rows(rows, self._nodes.trust(node).weight))
        return self._dice.sample(found, min(most, len(found)))

    async def check(self, call: OnlineCall, given: Given) -> Ruling:
        """Runs the call elsewhere, and once more if the answers differ, and does to the nodes what follows."""
        call = call._replace(owner=MARKET)
        answers, ruling = [given], Ruling()
        while len(answers) < _MOST and not ruling.decided:
            another = await self._another(call, answers)
            if another is None:
                break
            answers.append(another)
            settings = call.model.settings
            ruling = await asyncio.to_thread(rule, answers, settings.tolerance, batched=settings.max_batch > 1)
        self._follow(call.model, answers, ruling)
        return ruling

    async def _another(self, call: OnlineCall, answers: Sequence[Given]) -> Given | None:
        """Of a node that has not answered yet, if there is one."""
        asked = {answer.node for answer in answers}
        others = [node for node in self._directed.able(call.model) if node.address not in asked]
        drawn = self._dice.sample(others, len(others))
        if self._dice.random() < _ALIKE:
            drawn.sort(key=lambda node: _provider(node, call.model) != answers[0].provider)
        cost = inference_cost(call.model.cost_us, call.model.cost_inputs, call.inputs) / _MICRO
        for node in drawn[:_TRIES]:
            try:
                return await self._directed.infer(node, call, _SECONDS + _FACTOR * cost)
            except TandemError as error:
                detail = f"{error.code}: {error.detail}"
                log.event(logger, "check_unanswered", level=logging.DEBUG, node=node.address, detail=detail)
        return None

    def _follow(self, model: ModelInfo, answers: Sequence[Given], ruling: Ruling) -> None:
        result = _result(answers, ruling)
        self._results.labels(result).inc()
        if result in {_OUTVOTED, _DISPUTED}:
            self._say(result, model, answers, ruling)
        for address in ruling.confirmed:
            self._nodes.trust(address).agreed()
            self._score(address, accepted=True)
        for address in ruling.outvoted:
            self._strike(address)
        if result == _DISPUTED:
            for answer in answers:
                self._nodes.trust(answer.node).disputed()
            self._online.spread(model, [answer.node for answer in answers])  # a third one, for the next time

    def _strike(self, address: str) -> None:
        self._score(address, accepted=False)
        trust = self._nodes.trust(address)
        if not trust.outvoted(self._clock.now(), self._policy) or trust.suspended is None:
            return
        obstacle, detail = trust.suspended.obstacle, trust.suspended.detail
        log.event(logger, f"node_{obstacle}", level=logging.WARNING, node=address, detail=detail)
        node = self._nodes.get(address)
        if node is not None:
            node.link.send(Problem(code=obstacle, detail=detail))
        self._online.replicas.distrust(address)

    def _score(self, address: str, *, accepted: bool) -> None:
        node = self._nodes.get(address)
        if node is not None:
            node.score(accepted=accepted)

    def _say(self, result: str, model: ModelInfo, answers: Sequence[Given], ruling: Ruling) -> None:
        found = (difference(answers[0].outputs, each.outputs, model.settings.tolerance) for each in answers[1:])
        log.event(
            logger,
            "inference_check",
            level=logging.WARNING,
            result=result,
            model=model.name,
            version=model.version,
            owner=model.owner,
            nodes=[answer.node for answer in answers],
            outvoted=sorted(ruling.outvoted) or None,
            difference=next((each for each in found if each), None),
        )

    def _forgive(self) -> None:
        for address, trust in self._nodes.suspended():
            if trust.forgive(self._clock.now()):
                log.event(logger, "node_forgiven", node=address)


def _result(answers: Sequence[Given], ruling: Ruling) -> str:
    if len(answers) == 1:
        return "unanswered"
    if not ruling.decided:
        return _DISPUTED
    return _OUTVOTED if ruling.outvoted else "confirmed"


def _copied(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Their data may lie in a request's body, whose memory is used again."""
    return tuple(tensor._replace(data=bytes(tensor.data)) for tensor in tensors)


def _provider(node: ConnectedNode, model: ModelInfo) -> str | None:
    return next((warm.provider for warm in node.offer.models if warm.model == model.served), None)
