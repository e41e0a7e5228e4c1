"""ONNX Runtime sessions, by the digest of their model. What is loaded and what has to go is the daemon's to say."""

import ctypes
import mmap
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from node.children.models import trial_model
from node.children.wire import Load, WorkerSettings
from node.core.providers import CPU, ON_GPU, options_of
from tandem.inspection.model_rules import TENSOR_TYPES, check_model, shape_of
from tandem.protocol.errors import ExecutionFailed, InvalidModel, TandemError, Unavailable
from tandem.protocol.models import WarmUpTensor
from tandem.protocol.tensors import MAX_TENSORS, Datatype, elements

DATATYPES: Mapping[str, Datatype] = {kind: Datatype(name) for kind, (name, _) in TENSOR_TYPES.items()}
DTYPES: Mapping[Datatype, np.dtype[Any]] = {Datatype(name): np.dtype(dtype) for name, dtype in TENSOR_TYPES.values()}

_PAGE = os.sysconf("SC_PAGE_SIZE")
_WAIT_SECONDS = 0.05
_ERRORS_ONLY = 4
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Of glibc's mallopt."""
_LOAD_BYTES = 128 * 2**10
_RUN_BYTES = 32 * 2**20
"""Smaller blocks are not mapped anew for every run, which cost a fifth of the time of a model of 36 ms."""
_KEEP_BYTES = 256 * 2**20
_CUDA_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")


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
class Session:
    """A session with the datatypes of its inputs and outputs, by name. Memory is in bytes."""

    session: ort.InferenceSession
    provider: str
    inputs: Mapping[str, Datatype]
    outputs: Mapping[str, Datatype]
    shapes: Mapping[str, tuple[int, ...]]
    """Of outputs, as the model says; -1 is any size."""
    binds: bool
    """Whether ONNX Runtime may be told where outputs are to lie: in main memory, and with elements of one size."""
    partial: bool = False
    memory: int = 0
    """Of main memory, measured when it was loaded, or of the files if that is more."""
    vram: int = 0
    calls: dict[bytes, Any] = field(default_factory=dict)
    """Those that were made ready, by their texts."""

    @property
    def batchable(self) -> bool:
        """Whether the first dimension of all inputs and outputs is open, and all elements are of one size."""
        arguments = (*self.session.get_inputs(), *self.session.get_outputs())
        strings = Datatype.BYTES in {*self.inputs.values(), *self.outputs.values()}
        return not strings and all(each.shape and not isinstance(each.shape[0], int) for each in arguments)


class Sessions:
    """Loads one model at a time; those that are loaded do not wait for it."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._sessions: dict[str, Session] = {}
        self._loading = threading.Lock()
        self.missing: list[str] = []
        self.providers = tuple(name for name in settings.providers if self._tried(name))

    def get(self, model: str) -> Session:
        try:
            return self._sessions[model]
        except KeyError:
            raise Unavailable(f"expected a model that is loaded, got {model}; load it first") from None

    def load(self, order: Load, cancellation: Cancellation) -> Session:
        """Raises InvalidModel, Unavailable, ExecutionFailed for a warm-up that does not run, Cancelled."""
        while not self._loading.acquire(timeout=_WAIT_SECONDS):
            cancellation.check()
        save_memory(loading=True)
        try:
            self._sessions.pop(order.model, None)
            session = self._measured(order, cancellation)
            _warm_up(session, order.warm_up, cancellation)
            self._sessions[order.model] = session
        finally:
            save_memory(loading=False)
            self._loading.release()
            give_back()
        return session

    def unload(self, model: str) -> None:
        self._sessions.pop(model, None)
        give_back()

    def _measured(self, order: Load, cancellation: Cancellation) -> Session:
        resident, free = _resident(), _free_vram()
        files = {name: _mapped(self._settings.models / digits) for name, digits in order.data.items()}
        data = _read(self._settings.models / order.file)
        size = len(data) + sum(map(len, files.values()))
        check_model(data, {name: len(view) for name, view in files.items()})
        session = self._open_best(data, files, order.provider, cancellation)
        # What reading and checking took is not the model's, so it goes before the measurement.
        del data
        for view in files.values():
            view.release()
        give_back()
        on_gpu = order.provider in ON_GPU
        session.memory = max(0 if on_gpu else size, _resident() - resident)
        session.vram = max(size, free - _free_vram()) if on_gpu else 0
        return session

    def _open_best(
        self, data: bytes, files: Mapping[str, memoryview], provider: str, cancellation: Cancellation
    ) -> Session:
        """All of it on the provider; or else those operators that the provider has, and the session says so."""
        try:
            return self._open(data, files, [provider], cancellation)
        except InvalidModel:
            if provider == CPU:
                raise
        session = self._open(data, files, [provider, CPU], cancellation)
        session.partial = True
        return session

    def _open(
        self, data: bytes, files: Mapping[str, memoryview], providers: list[str], cancellation: Cancellation
    ) -> Session:
        options = self._options(alone=providers != [CPU] and CPU not in providers)
        if files:
            sizes = [len(view) for view in files.values()]
            options.add_external_initializers_from_files_in_memory(list(files), list(files.values()), sizes)
        chosen = [(each, options_of(each, self._settings.device, self._settings.memory_bytes)) for each in providers]
        try:
            with cancellation.loading(options):
                session = ort.InferenceSession(data, options, providers=chosen)
        except (Cancelled, MemoryError):
            raise
        except Exception as error:
            cancellation.check()
            raise InvalidModel(f"expected a model that ONNX Runtime loads, got: {error}") from error
        # Kept by ONNX Runtime's Python for a fall-back that we do not want: the whole file once more.
        session._model_bytes = b""  # noqa: SLF001
        active = session.get_providers()[0]
        if active != providers[0]:
            # ONNX Runtime falls back to the CPU without a word.
            raise InvalidModel(f"expected the model to run on {providers[0]}, got {active}")
        inputs, outputs = _datatypes(session.get_inputs()), _datatypes(session.get_outputs())
        binds = active == CPU and Datatype.BYTES not in {*inputs.values(), *outputs.values()}
        return Session(session, active, inputs, outputs, _shapes(session.get_outputs()), binds)

    def _options(self, *, alone: bool) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._settings.threads
        options.inter_op_num_threads = 1
        # An arena never gives memory back, and gains nothing on a CPU.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = _ERRORS_ONLY
        # Waiting threads would burn the cores that the transcodes need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        if alone:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _tried(self, provider: str) -> bool:
        """Whether a tiny model really runs on it."""
        try:
            if provider in ON_GPU:
                ort.preload_dlls()
            trial = self._open(trial_model(), {}, [provider], Cancellation())
            trial.session.run(None, {"x": np.zeros(1, np.float32)})
        except Exception as error:  # noqa: BLE001 - whatever stops it, the provider cannot be used
            detail = error.detail if isinstance(error, TandemError) else str(error)
            self.missing.append(f"{provider}: {detail}")
            return False
        return True


def _warm_up(session: Session, runs: tuple[tuple[WarmUpTensor, ...], ...], cancellation: Cancellation) -> None:
    for tensors in runs:
        try:
            feeds = {tensor.name: _filled(session.inputs[tensor.name], tensor) for tensor in tensors}
            session.session.run(None, feeds, cancellation.options)
        except (KeyError, ValueError, OverflowError) as error:
            raise InvalidModel(f"expected warm-up inputs that the model takes, got: {error}") from error
        except MemoryError:
            raise
        except Exception as error:
            cancellation.check()
            raise ExecutionFailed(f"expected the model to run on its warm-up inputs, got: {error}") from error


def _filled(datatype: Datatype, tensor: WarmUpTensor) -> Any:
    empty: Any = "" if datatype is Datatype.BYTES else 0
    if len(tensor.data) == elements(tensor.shape):
        return np.array(tensor.data, DTYPES[datatype]).reshape(tensor.shape)
    return np.full(tensor.shape, tensor.data[0] if tensor.data else empty, DTYPES[datatype])


def _opened(path: Path) -> int:
    """A descriptor of a regular file that has no other name, for the folder is to hold artifacts alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Unavailable(f"expected the model artifact {path.name} in the cache: {error.strerror}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise Unavailable(f"expected the model artifact {path.name} in the cache: it is a link or no file")
    return descriptor


def _read(path: Path) -> bytes:
    with open(_opened(path), "rb") as file:
        return file.read()


def _mapped(path: Path) -> memoryview:
    """The file's bytes, read as they are needed: ONNX Runtime copies what it keeps."""
    descriptor = _opened(path)
    try:
        size = os.fstat(descriptor).st_size
        return memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b"")
    finally:
        os.close(descriptor)


def _datatypes(arguments: Any) -> dict[str, Datatype]:
    if len(arguments) > MAX_TENSORS:
        raise InvalidModel(f"expected at most {MAX_TENSORS} inputs and as many outputs, got {len(arguments)}")
    unknown = [argument for argument in arguments if argument.type not in DATATYPES]
    if unknown:
        raise InvalidModel(
            f"{unknown[0].name!r}: expected one of {sorted(DATATYPES)}, got {unknown[0].type}; "
            "change the model's inputs and outputs to such tensors"
        )
    return {argument.name: DATATYPES[argument.type] for argument in arguments}


def _shapes(arguments: Any) -> dict[str, tuple[int, ...]]:
    return {argument.name: shape_of(argument.shape) for argument in arguments}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE


def _free_vram() -> int:
    """Bytes, as CUDA tells them, of the device in use; 0 where there is none."""
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    for name in _CUDA_RUNTIMES:
        with suppress(OSError, AttributeError):
            loaded = ctypes.CDLL(name, os.RTLD_NOLOAD | os.RTLD_LAZY)
            loaded.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
            break
    return free.value


def save_memory(*, loading: bool) -> None:
    """What a load frees is to go back to the system, which glibc would keep; what a run frees is for the next run."""
    with suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LOAD_BYTES if loading else _RUN_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _LOAD_BYTES if loading else _KEEP_BYTES)
        library.mallopt(_ARENA_MAX, 2)


def give_back() -> None:
    """Returns freed memory to the system, which glibc would keep; other C libraries have no such call."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
