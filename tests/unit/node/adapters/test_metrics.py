"""Figures of models, as Prometheus reads them."""

import asyncio
import socket
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from node.adapters.inference import WorkerInference
from node.adapters.metrics import model_metrics
from node.core.meter import Meter
from node.ports.execution import ModelLoaded, WarmModel
from tandem.protocol.errors import ConfigurationError


def inference() -> WorkerInference:
    meter = Meter(requests=2, loads=1, hits=3)
    meter.failures["child_crashed"] = 1
    for run_us in (90, 2000):
        meter.run.add(run_us)
    loaded = ModelLoaded("CPUExecutionProvider", 1000, fallback="CUDAExecutionProvider: did not pass its trial")
    warm = (WarmModel("sha256:1", loaded, pinned=False),)
    return cast("WorkerInference", SimpleNamespace(meters=lambda: {"sha256:1": meter}, warm=lambda: warm))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_they_are_answered_on_this_machine_alone() -> None:
    port = free_port()
    async with model_metrics(port, inference()) as server:
        assert server is not None
        assert server.server_address[0] == "127.0.0.1"
        with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        assert 'tandem_model_requests_total{model="sha256:1"} 2.0' in lines
        assert 'tandem_model_failures_total{code="child_crashed",model="sha256:1"} 1.0' in lines
        assert 'tandem_model_run_seconds_bucket{le="0.0001",model="sha256:1"} 1.0' in lines
        assert 'tandem_model_run_seconds_count{model="sha256:1"} 2.0' in lines
        assert 'tandem_model_fallback{model="sha256:1",provider="CPUExecutionProvider"} 1.0' in lines
        with pytest.raises(ConfigurationError, match=r"inference\.metrics_port"):
            async with model_metrics(port, inference()):
                pass


async def test_without_a_port_there_are_none(tmp_path: Path) -> None:
    async with model_metrics(None, inference()) as server:
        assert server is None
