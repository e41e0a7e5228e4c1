"""The servers under measurement, each started as its own documentation says, each in a virtual environment of its own.

`scripts/setup.sh peers` makes those. A peer that is not installed, or does not start here, is left out and named.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PEERS = _ROOT / ".venv" / "peers"
_HERE = Path(__file__).parent / "peers"
_START_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is up. `headers` go with every request."""

    name: str
    url: str
    binary: bool = True
    """Whether it takes the binary tensor extension."""
    batches: bool = False
    """Whether it has the transformer with batching as well, called `transformer-batched`."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def infer(self, model: str) -> str:
        return f"{self.url}/v2/models/{model}/infer"


@contextmanager
def peers(folder: Path, models: Path, provider: str) -> Iterator[list[Server]]:
    """All peers that can be had. `folder` is theirs to write; `models` holds the ONNX files."""
    with ExitStack() as stack:
        found = []
        for start in (_fastapi, _triton, _mlserver):
            try:
                found.append(stack.enter_context(start(folder, models, provider)))
            except (FileNotFoundError, TimeoutError) as error:
                print(f"left out: {error}", file=sys.stderr)
        yield found


@contextmanager
def _fastapi(folder: Path, models: Path, provider: str) -> Iterator[Server]:
    port = _free_port()
    command = [*_program("fastapi", "uvicorn"), "--app-dir", str(_HERE), "fastapi_app:app", "--port", str(port)]
    settings = {"MODELS": str(models), "PROVIDER": provider}
    with _running("FastAPI", [*command, "--log-level", "warning"], folder, settings, f"http://127.0.0.1:{port}/docs"):
        yield Server("FastAPI", f"http://127.0.0.1:{port}")


@contextmanager
def _triton(folder: Path, models: Path, provider: str) -> Iterator[Server]:
    port = _free_port()
    command = [*_program("pytriton", "python"), str(_HERE / "pytriton_server.py"), str(models), str(port), provider]
    url = f"http://127.0.0.1:{port}"
    with _running("Triton", command, folder, {}, f"{url}/v2/models/small/ready"):
        yield Server("Triton (Python backend)", url, batches=True)


@contextmanager
def _mlserver(folder: Path, models: Path, provider: str) -> Iterator[Server]:
    port, root = _free_port(), folder / "mlserver"
    for path in models.glob("*.onnx"):
        home = root / path.stem
        home.mkdir(parents=True)
        settings = {"name": path.stem, "implementation": "mlserver_runtime.OnnxModel", "parameters": {"uri": str(path)}}
        (home / "model-settings.json").write_text(json.dumps(settings))
    ports = {"http_port": port, "grpc_port": _free_port(), "metrics_port": _free_port(), "parallel_workers": 0}
    (root / "settings.json").write_text(json.dumps({**ports, "host": "127.0.0.1", "debug": False}))
    command = [*_program("mlserver", "mlserver"), "start", str(root)]
    url = f"http://127.0.0.1:{port}"
    environment = {"PROVIDER": provider, "PYTHONPATH": str(_HERE)}
    with _running("MLServer", command, folder, environment, f"{url}/v2/models/small/ready"):
        yield Server("MLServer", url, binary=False)


def _program(peer: str, name: str) -> list[str]:
    path = _PEERS / peer / "bin" / name
    if not path.exists():
        raise FileNotFoundError(f"{peer}: expected {path}; run scripts/setup.sh peers")
    return [str(path)]


@contextmanager
def _running(
    name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str], ready: str
) -> Iterator[None]:
    """A process and all its children, up once `ready` answers; ended when the block is left."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            _await(name, process, ready, Path(log.name))
            yield
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)


def _await(name: str, process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    last = time.monotonic() + _START_SECONDS
    while time.monotonic() < last and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - this very machine
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise TimeoutError(f"{name}: expected it to start, it said: {log.read_text(errors='replace')[-400:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
