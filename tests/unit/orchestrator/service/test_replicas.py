from orchestrator.core.online import ReplicaState
from orchestrator.service.nodes import ConnectedNode, Nodes
from orchestrator.service.replicas import ReplicaPolicy, Replicas
from orchestrator.web.signing import UrlSigner
from tandem.protocol.messages import ModelState, ModelStatus, WarmModel
from tests.fixtures.clock import ManualClock
from tests.fixtures.protocol import NODE, offer
from tests.unit.orchestrator.service.conftest import Recorder


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def test_models_that_a_node_was_not_asked_for_are_not_kept(clock: ManualClock) -> None:
    replicas = Replicas(Nodes(), UrlSigner(bytes(32), "http://o", clock), clock, ReplicaPolicy(1), lambda _: None)
    node = ConnectedNode(NODE.address, Recorder(), offer(), clock.now())
    for number in range(1000):
        replicas.status(node, ModelStatus(model=digest(number), state=ModelState.READY))
    assert list(replicas.models()) == []
    node.offer = offer().model_copy(update={"models": (WarmModel(model=digest(1), provider="cpu", memory=1),)})
    replicas.offered(node)
    assert [replica.state for replica in replicas.of(digest(1)).values()] == [ReplicaState.READY]
