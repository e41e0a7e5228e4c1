"""One side of on-line work as a process of its own, to be killed: sessions, streams, services and stores as they are.

`orchestrator` has clients that ask without an end, and says `window` when it has settled one. `node` answers at once;
told to stop, it takes no more, waits until all is settled and says for how many wei it has served since it began.
"""

import asyncio
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from node.ports.execution import Done, ModelFiles, ModelLoaded, ModelRun, WarmModel
from node.service.online import Counting
from node.service.usage import Usage
from orchestrator.service.online import OnlinePolicy
from tandem.clock import SystemClock
from tandem.protocol.errors import TandemError
from tandem.protocol.models import ModelSettings
from tandem.protocol.signing import Address
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures.node import NODE, ScriptedExecutors
from tests.fixtures.online import Exchange, LocalTransfer, call_of, dialling_node, exchange, model_info
from tests.fixtures.onnx_models import weighty

WINDOW = 0.05
_CLIENTS = 4
_POLICY = OnlinePolicy(tick=0.02, catalogue=0.02)
_X = Tensor("x", Datatype.FP32, (1,), struct.pack("<f", 1.0))
_Y = _X._replace(name="y")


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def orchestrator(folder: Path, port: int) -> None:
    models = folder / "models"
    models.mkdir(exist_ok=True)
    model = model_info(weighty(1), models, None, (1,))
    async with (
        exchange(folder, _POLICY, port=port, window=WINDOW, settled=lambda: say("window")) as here,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(here.usage.run())
        group.create_task(_trust(here))
        for _ in range(_CLIENTS):
            group.create_task(_ask(here, call_of(model, _X)))


async def _trust(here: Exchange) -> None:
    while True:
        await here.connected()
        await asyncio.sleep(0.01)


async def _ask(here: Exchange, call: object) -> None:
    while True:
        try:
            await here.online.infer(call)  # type: ignore[arg-type]
        except TandemError:
            await asyncio.sleep(0.01)


class Asked:
    def __init__(self, done: Done) -> None:
        self._handle = asyncio.get_running_loop().call_soon(done, ModelRun((_Y,), "CPU", 1, warm=True))

    def cancel(self) -> None:
        self._handle.cancel()


class Quick(ScriptedExecutors):
    """Inference that takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self._loaded: dict[str, ModelLoaded] = {}

    async def load(self, files: ModelFiles, settings: ModelSettings, *, pinned: bool = False) -> ModelLoaded:  # noqa: ARG002
        return self._loaded.setdefault(files.digest, ModelLoaded("CPU", 1000))

    async def unload(self, digest: str) -> None:
        self._loaded.pop(digest, None)

    def submit(self, digest: str, inputs: Sequence[Tensor], outputs: Sequence[str], done: Done) -> Asked:  # noqa: ARG002
        return Asked(done)

    def warm(self) -> tuple[WarmModel, ...]:
        return tuple(WarmModel(digest, loaded, pinned=False) for digest, loaded in self._loaded.items())

    def listen(self, changed: Callable[[], None]) -> None: ...


class Counted:
    """What was served, by the node's own count."""

    def __init__(self, usage: Counting) -> None:
        self._usage = usage
        self.begin, self.failed = usage.begin, usage.failed
        self.wei = 0

    def served(self, sender: Address, price: int) -> None:
        self.wei += price
        self._usage.served(sender, price)


async def node(folder: Path, port: int) -> None:
    clock, stop = SystemClock(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    transfer = LocalTransfer(folder / "models")
    async with dialling_node(f"http://127.0.0.1:{port}", folder, Quick(), transfer, NODE, clock) as online:
        usage = online.usage
        assert isinstance(usage, Usage)
        online.usage = counted = Counted(usage)
        await stop.wait()
        await online.drain(10.0)
        while usage._books.at_stake:
            await clock.sleep(0.01)
        await usage.written()
    say(counted.wei)


if __name__ == "__main__":
    sides = {"orchestrator": orchestrator, "node": node}
    asyncio.run(sides[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3])))
