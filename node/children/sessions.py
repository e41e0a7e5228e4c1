"""ONNX Runtime sessions, kept warm by the digest of their model and evicted least-recently-used by measured bytes."""

import ctypes
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from node.children.models import trial_model
from node.children.wire import WorkerSettings
from tandem.inspection.model_rules import TENSOR_TYPES, check_model
from tandem.protocol.errors import InvalidModel, TandemError, Unavailable
from tandem.protocol.tensors import Datatype

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

DATATYPES: Mapping[str, Datatype] = {kind: Datatype(name) for kind, (name, _) in TENSOR_TYPES.items()}

_PAGE = os.sysconf("SC_PAGE_SIZE")
_WAIT_SECONDS = 0.05
_CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    # The exhaustive search takes half a second for every new shape.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Results are compared with those of other machines, some without such cores.
    "use_tf32": "0",
}


class Cancelled(Exception):
    """The daemon no longer wants the result."""


class Cancellation:
    """Ends a load or a run from another thread. One for each request, since ONNX Runtime's flag never clears."""

    def __init__(self) -> None:
        self.options = ort.RunOptions()
        self._loading: ort.SessionOptions | None = None
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.options.terminate = True
        if self._loading is not None:
            self._loading.set_load_cancellation_flag(True)

    @contextmanager
    def loading(self, options: ort.SessionOptions) -> Iterator[None]:
        self._loading = options
        self.check()
        try:
            yield
        finally:
            self._loading = None

    def check(self) -> None:
        if self.cancelled:
            raise Cancelled


@dataclass(slots=True)
class Loaded:
    """A session with the datatypes of its inputs and outputs, by name."""

    session: ort.InferenceSession
    provider: str
    inputs: Mapping[str, Datatype]
    outputs: Mapping[str, Datatype]
    size: int = 0
    """Bytes of main memory, measured when it was loaded, or of the file if that is more."""
    users: int = 0


class SessionCache:
    """Loads one model at a time; those that are loaded do not wait for it."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._changing = threading.Lock()
        self._loading = threading.Lock()
        self.missing: list[str] = []
        self.providers = tuple(name for name in settings.providers if self._tried(name))

    @contextmanager
    def use(self, model: str, cancellation: Cancellation) -> Iterator[tuple[Loaded, bool]]:
        """The model's session, and whether it was warm. Raises InvalidModel, Unavailable, Cancelled."""
        warm = self._take(model)
        loaded = warm or self._load(model, cancellation)
        try:
            yield loaded, warm is not None
        finally:
            with self._changing:
                loaded.users -= 1
            self._evict()

    def _take(self, model: str) -> Loaded | None:
        with self._changing:
            loaded = self._loaded.get(model)
            if loaded is not None:
                loaded.users += 1
                self._loaded.move_to_end(model)
            return loaded

    def _load(self, model: str, cancellation: Cancellation) -> Loaded:
        while not self._loading.acquire(timeout=_WAIT_SECONDS):
            cancellation.check()
        try:
            return self._take(model) or self._add(model, cancellation)
        finally:
            self._loading.release()

    def _add(self, model: str, cancellation: Cancellation) -> Loaded:
        before = _resident()
        data = _read(self._settings.models / model)
        check_model(data)
        loaded = self._open(data, self.providers[0], cancellation)
        loaded.size, loaded.users = len(data), 1
        # What reading and checking took is not the model's, so it goes before the measurement.
        del data
        _give_back()
        loaded.size = max(loaded.size, _resident() - before)
        with self._changing:
            self._loaded[model] = loaded
        self._evict()
        return loaded

    def _evict(self) -> None:
        with self._changing:
            excess = sum(loaded.size for loaded in self._loaded.values()) - self._settings.cache_bytes
            idle = [model for model, loaded in self._loaded.items() if not loaded.users]
            evicted = []
            while excess > 0 and idle:
                evicted.append(self._loaded.pop(idle.pop(0)))
                excess -= evicted[-1].size
        if evicted:
            evicted.clear()
            _give_back()

    def _open(self, data: bytes, provider: str, cancellation: Cancellation) -> Loaded:
        options = self._options()
        try:
            with cancellation.loading(options):
                session = ort.InferenceSession(data, options, providers=[self._provider(provider)])
        except (Cancelled, MemoryError):
            raise
        except Exception as error:
            cancellation.check()
            raise InvalidModel(f"expected a model that ONNX Runtime loads, got: {error}") from error
        # Kept by ONNX Runtime's Python for a fall-back that we do not want: the whole file once more.
        session._model_bytes = b""  # noqa: SLF001
        active = session.get_providers()[0]
        if active != provider:
            # ONNX Runtime falls back to the CPU without a word.
            raise Unavailable(f"expected the model to run on {provider}, got {active}")
        return Loaded(session, active, _datatypes(session.get_inputs()), _datatypes(session.get_outputs()))

    def _options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._settings.threads
        options.inter_op_num_threads = 1
        # An arena never gives memory back, and gains nothing on a CPU.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        # Waiting threads would burn the cores that the transcodes need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return options

    def _provider(self, name: str) -> Any:
        return (name, {"device_id": str(self._settings.device), **_CUDA_OPTIONS}) if name == CUDA else name

    def _tried(self, provider: str) -> bool:
        """Whether a tiny model really runs on it."""
        try:
            if provider == CUDA:
                ort.preload_dlls()
            loaded = self._open(trial_model(), provider, Cancellation())
            loaded.session.run(None, {"x": np.zeros(1, np.float32)})
        except Exception as error:  # noqa: BLE001 - whatever stops it, the provider cannot be used
            detail = error.detail if isinstance(error, TandemError) else str(error)
            self.missing.append(f"{provider}: {detail}")
            return False
        return True


def _read(path: Path) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:  # noqa: PTH123 - of a descriptor
            return file.read()
    except OSError as error:
        raise Unavailable(f"expected the model artifact {path.name} in the cache: {error.strerror}") from error


def _datatypes(arguments: Any) -> dict[str, Datatype]:
    unknown = [argument for argument in arguments if argument.type not in DATATYPES]
    if unknown:
        raise InvalidModel(
            f"{unknown[0].name!r}: expected one of {sorted(DATATYPES)}, got {unknown[0].type}; "
            "change the model's inputs and outputs to such tensors"
        )
    return {argument.name: DATATYPES[argument.type] for argument in arguments}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _give_back() -> None:
    """Returns freed memory to the system, which glibc would keep; other C libraries have no such call."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
