"""Models and nodes over HTTP."""

from dataclasses import replace

from orchestrator.core.scheduling import Obstacle, Reason
from orchestrator.core.views import NodeView
from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.ids import AttemptRef, job_id
from tandem.protocol.messages import Offer
from tests.fixtures.api import DIGITS, NODE, PRICES, Api


async def test_a_model_is_registered_once(api: Api) -> None:
    artifact = await api.upload(DIGITS.read_bytes())
    request = {"name": "digits", "version": "2", "artifact": artifact}
    status, model = await api.call("POST", "/v1/models", json=request)
    assert status == 201
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    assert model["cost_us"] >= 1
    assert await api.call("POST", "/v1/models", json=request) == (200, model)
    assert await api.call("GET", "/v1/models/digits/versions/2") == (200, model)
    assert await api.call("GET", "/v1/models") == (200, {"models": [model]})


async def test_a_name_and_version_stand_for_one_artifact(api: Api) -> None:
    first, second = await api.upload(DIGITS.read_bytes()), await api.upload(b"another")
    await api.call("POST", "/v1/models", json={"name": "digits", "artifact": first})
    status, body = await api.call("POST", "/v1/models", json={"name": "digits", "artifact": second})
    assert (status, body["code"]) == (409, "conflict")


async def test_what_is_not_a_model_is_refused(api: Api) -> None:
    artifact = await api.upload(b"not a model")
    status, body = await api.call("POST", "/v1/models", json={"name": "bad", "artifact": artifact})
    assert (status, body["code"]) == (400, "invalid_model")
    assert (await api.call("GET", "/v1/models"))[1] == {"models": []}


async def test_an_unknown_artifact_is_404(api: Api) -> None:
    status, body = await api.call("POST", "/v1/models", json={"name": "m", "artifact": "sha256:" + "0" * 64})
    assert (status, body["code"]) == (404, "not_found")


async def test_a_wrong_name_is_refused(api: Api) -> None:
    for name in ["", "../x", "a b", "x" * 65]:
        status, body = await api.call("POST", "/v1/models", json={"name": name, "artifact": "sha256:" + "0" * 64})
        assert (status, body["code"]) == (400, "invalid_request")
        assert body["detail"].startswith("name: ")


async def test_an_unknown_model_is_404(api: Api) -> None:
    for path in ["nobody/versions/1", "a%20b/versions/1", "digits/versions/9"]:
        status, body = await api.call("GET", f"/v1/models/{path}")
        assert (status, body["code"]) == (404, "not_found")


async def test_nodes_are_shown_with_what_they_offer_and_earned(api: Api) -> None:
    assert await api.call("GET", "/v1/nodes") == (200, {"nodes": []})
    offer = Offer(
        capability=Capability(video_encoders=("libx264",)), capacity=Capacity(cpu=2000), prices=PRICES, max_unpaid=1
    )
    ref = AttemptRef(task=f"{job_id(0, bytes(8))}.0", number=1)
    api.nodes.append(NodeView(NODE, offer, connected_at=0.0, running=(ref,), earned=10**20, issued=3))
    (node,) = (await api.call("GET", "/v1/nodes"))[1]["nodes"]
    assert (node["address"], node["earned"], node["issued"]) == (NODE, str(10**20), "3")
    assert node["running"] == [str(ref)]
    assert node["connected_at"] == "1970-01-01T00:00:00Z"
    assert node["capability"]["video_encoders"] == ["libx264"]
    assert node["withheld"] is None
    api.nodes[0] = replace(api.nodes[0], withheld=Reason(Obstacle.DISTRUSTED, "it was outvoted"))
    (node,) = (await api.call("GET", "/v1/nodes"))[1]["nodes"]
    assert node["withheld"] == {"obstacle": "distrusted", "detail": "it was outvoted"}
