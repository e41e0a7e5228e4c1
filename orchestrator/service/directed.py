"""Requests that go to one node and no other: for whoever must know what this node makes of them.

To the node they are requests like any, in number too: a place is kept free for each, so that no node ever has more than
its limit. They are counted and owed like others.
"""

import asyncio
from functools import partial

from orchestrator.core.checks import Given
from orchestrator.core.online import OnlineCall, Replica, ReplicaState, check_answer
from orchestrator.service.nodes import ConnectedNode, Nodes
from orchestrator.service.replicas import Replicas
from orchestrator.service.usage import Usage
from tandem.clock import Clock
from tandem.protocol.errors import DeadlineExceeded, ResultRejected, TandemError, Unavailable
from tandem.protocol.models import ModelInfo
from tandem.protocol.online import MAX_PRICE, RequestHead, decode_response, describe_response, encode_request
from tandem.protocol.pricing import inference_cost
from tandem.protocol.streams import Abandoned, Responded
from tandem.protocol.units import ceil_div

_MICRO = 10**6
_FULL_SECONDS = 0.02
"""Between looks whether the node has room."""

Answer = asyncio.Future[Given]


class Directed:
    """`price`: the most wei a second of model cost."""

    def __init__(self, nodes: Nodes, replicas: Replicas, usage: Usage, clock: Clock, price: int) -> None:
        self._nodes = nodes
        self._replicas = replicas
        self._usage = usage
        self._clock = clock
        self._price = price

    def able(self, model: ModelInfo) -> list[ConnectedNode]:
        """Nodes where the model is ready, and that may be given work."""
        return [
            node
            for replica in self._replicas.of(model.served).values()
            if replica.state is ReplicaState.READY
            and replica.told
            and (node := self._nodes.get(replica.node)) is not None
            and node.is_payable
            and not node.offer.draining
        ]

    async def infer(self, node: ConnectedNode, call: OnlineCall, seconds: float) -> Given:
        """What this node answers. Raises Unavailable if it cannot be asked, DeadlineExceeded, and its own errors."""
        try:
            async with asyncio.timeout(seconds):
                await self._room(node, call)
                return await self._ask(node, call)
        except TimeoutError as error:
            raise DeadlineExceeded(f"expected an answer of {node.address} within {seconds:g} s, got none") from error

    async def _room(self, node: ConnectedNode, call: OnlineCall) -> None:
        replica = self._replica(node, call)
        replica.reserved += 1
        try:
            while replica.outstanding >= replica.limit:
                await self._clock.sleep(_FULL_SECONDS)
                if self._replica(node, call) is not replica:
                    raise Unavailable(f"expected {call.model.name} to stay on {node.address}, it was loaded anew")
        finally:
            replica.reserved -= 1

    def _replica(self, node: ConnectedNode, call: OnlineCall) -> Replica:
        found = self._replicas.of(call.model.served).get(node.address)
        if found is None or self._nodes.get(node.address) is not node or node not in self.able(call.model):
            raise Unavailable(f"expected {node.address} to have {call.model.name} ready, it has not any more")
        return found

    async def _ask(self, node: ConnectedNode, call: OnlineCall) -> Given:
        cost = inference_cost(call.model.cost_us, call.model.cost_inputs, call.inputs)
        price = ceil_div(cost * node.offer.prices.inference_second, _MICRO)
        if price > min(node.room, MAX_PRICE, ceil_div(cost * self._price, _MICRO)):
            raise Unavailable(f"expected {node.address} to run this for its price and to let itself be owed it")
        replica = self._replica(node, call)
        answer: Answer = asyncio.get_running_loop().create_future()
        head = encode_request(RequestHead(call.model.served, price, call.outputs), call.inputs)
        landed = partial(self._landed, node, replica, call, price, answer)
        stream = node.link.request(head, [tensor.data for tensor in call.inputs], landed)
        replica.outstanding += 1
        self._usage.begin(node, price)
        try:
            return await answer
        except asyncio.CancelledError:  # it took too long, or the process ends
            node.link.cancel(stream)
            raise

    def _landed(
        self,
        node: ConnectedNode,
        replica: Replica,
        call: OnlineCall,
        price: int,
        answer: Answer,
        reply: Responded | Abandoned | TandemError,
    ) -> None:
        self._usage.end(node, price)
        replica.outstanding -= 1
        try:
            if isinstance(reply, TandemError):
                raise reply
            given = _given(node, call, reply)
            self._usage.add(node.address, call.owner, call.model, price)
            if isinstance(reply, Abandoned):
                raise reply.error
        except TandemError as error:
            if isinstance(error, ResultRejected):
                node.score(accepted=False)
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(given)
        self._replicas.freed(call.model.served, node.address)


def _given(node: ConnectedNode, call: OnlineCall, reply: Responded | Abandoned) -> Given:
    """What may be owed for. Raises ResultRejected for outputs that are not the model's."""
    try:
        if isinstance(reply, Abandoned):
            check_answer(call, describe_response(reply.head, reply.size))
            return Given(node.address, "", ())
        head, outputs = decode_response(reply.head, reply.body)
        check_answer(call, outputs)
    except TandemError as error:
        raise ResultRejected(f"{node.address}: {error.detail}") from error
    return Given(node.address, head.provider, outputs)
