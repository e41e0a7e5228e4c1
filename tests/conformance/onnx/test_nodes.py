"""What bare ONNX Runtime passes of onnx's own suite passes through the whole on-line path, with the same values.

`make test` takes one part of it by the hash of the cases' names; `make conformance` all of it.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.web.oip.front import Hub
from orchestrator.web.oip.inferences import Inferences
from orchestrator.web.oip.memory import Memory
from tandem.protocol.models import ModelInfo
from tests.conformance.onnx.suite import Case, array_of, passing, raw_of
from tests.fixtures.node import NODE
from tests.fixtures.oip import Models, Protocol, described, no_others, request
from tests.fixtures.online import exchange, working_node
from tests.fixtures.onnx_models import put

PARTS = int(os.environ.get("ONNX_PARTS", "16"))
LEFT_OUT = Path(__file__).with_name("left_out.txt")
AT_ONCE = 8


async def asked(protocol: Protocol, case: Case, model: ModelInfo) -> None:
    """Sends each set of inputs as bytes, and compares."""
    for feeds, expected in case.sets:
        kinds = {spec.name: spec.datatype.value for spec in model.inputs}
        data = [raw_of(kinds[name], value) for name, value in feeds.items()]
        inputs = [
            described(name, kinds[name], value.shape, len(raw))
            for (name, value), raw in zip(feeds.items(), data, strict=True)
        ]
        body = {"inputs": inputs, "parameters": {"binary_data_output": True}}
        status, headers, answer = await protocol.send(request(body, *data, path=f"/v2/models/{model.name}/infer"))
        assert status == 200, (case.name, answer)
        length = int(headers["inference-header-content-length"])
        offset, got = length, []
        for output in json.loads(answer[:length])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            got.append(array_of(output["datatype"], output["shape"], answer[offset : offset + size]))
            offset += size
        case.check(expected, got)


def left_out() -> dict[str, str]:
    lines = (line.split(" ", 1) for line in LEFT_OUT.read_text().splitlines() if line and not line.startswith("#"))
    return {name: why.strip() for name, why in lines}


@pytest.mark.filterwarnings("ignore")  # of the reference implementations, which divide by zero on purpose
@pytest.mark.timeout(600)
async def test_what_onnx_runtime_passes_passes_here(tmp_path: Path) -> None:
    cases = list(passing(0, PARTS))
    assert len(cases) > 1000 / PARTS
    asking = [case for case in cases if not case.left_out]
    known = left_out()
    assert {case.name: case.left_out for case in cases if case.left_out} == {
        case.name: known[case.name] for case in cases if case.name in known
    }
    models = tmp_path / "models"
    models.mkdir()
    for case in asking:
        put(models, case.model)
    infos = [case.info(f"m{index}") for index, case in enumerate(asking)]
    failures: list[str] = []
    async with exchange(tmp_path) as running, working_node(running.origin, tmp_path, models, NODE):
        await running.connected()
        hub = Hub(
            Inferences(running.online, Models({each.name: each for each in infos}), 2**26), _anybody, Memory(2**28)
        )
        async with hub.serve("127.0.0.1", 0, no_others, grace=0.1) as server:
            protocol = Protocol(hub, server.sockets[0].getsockname()[1], None)  # type: ignore[arg-type]
            turns = asyncio.Semaphore(AT_ONCE)

            async def one(case: Case, info: ModelInfo) -> None:
                async with turns:
                    try:
                        await asked(protocol, case, info)
                    except AssertionError as error:
                        failures.append(f"{case.name}: {str(error)[:400]}")
                    finally:
                        await running.online.unload(info.digest)

            async with asyncio.TaskGroup() as group:
                for case, info in zip(asking, infos, strict=True):
                    group.create_task(one(case, info))
    assert not failures, "\n".join(failures)


async def _anybody(_headers: Mapping[str, str], _peer: str) -> str:
    return "local"
