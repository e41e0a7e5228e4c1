"""What encoders and ONNX Runtime are worth on this machine, measured by using them as a job would."""

import asyncio
import hashlib
import statistics
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from node.adapters.ffmpeg import SOFTWARE, Ffmpeg, Trials, VideoEncoder
from node.adapters.inference import WorkerInference
from node.adapters.workers import InferenceSettings
from node.ports.execution import ModelFiles
from tandem.clock import Clock
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import RetryableError
from tandem.protocol.tensors import Datatype, Tensor, elements

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_MAX_SESSIONS = 12
_WARM_UP = 3
_RUNS = 20
_MICRO = 10**6


@dataclass(frozen=True, slots=True)
class VideoSkill:
    """What works, and the output pixels a second of H.264."""

    encoders: tuple[VideoEncoder, ...] = ()
    audio_encoders: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    gpu_decoders: tuple[str, ...] = ()
    speed: int = 0
    sessions: int = 0
    """Hardware encoder sessions seen to work at the same time; drivers bound them, and do not say by how much."""


@dataclass(frozen=True, slots=True)
class ModelSkill:
    """The providers that work, best first; the runs a second of the best; and why others do not work."""

    providers: tuple[str, ...]
    speed: int
    missing: tuple[str, ...]


async def measure_video(ffmpeg: Ffmpeg, *, gpu: bool, sandbox: Sandbox, clock: Clock) -> VideoSkill:
    trials = Trials(ffmpeg, sandbox=sandbox, clock=clock)
    wanted = tuple(VideoEncoder) if gpu else SOFTWARE
    working = tuple([each for each in wanted if await trials.encodes(each)])
    return VideoSkill(
        working,
        await trials.audio_encoders(),
        await trials.filters(),
        await trials.gpu_decoders() if gpu else (),
        await trials.encode_speed(working) if VideoEncoder.X264 in working else 0,
        await count_sessions(trials, VideoEncoder.NVENC) if VideoEncoder.NVENC in working else 0,
    )


async def count_sessions(trials: Trials, encoder: VideoEncoder) -> int:
    """How many of a number of trial encodes at once succeed."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(trials.encodes(encoder)) for _ in range(_MAX_SESSIONS)]
    return sum(trial.result() for trial in running)


async def measure_models(*, gpu: bool, sandbox: Sandbox, clock: Clock) -> ModelSkill:
    settings = InferenceSettings(providers=(CUDA, CPU) if gpu else (CPU,))
    with tempfile.TemporaryDirectory(prefix="tandem-") as name:
        folder = Path(name)
        async with WorkerInference(folder, settings, sandbox=sandbox, clock=clock) as inference:
            try:
                ready = await inference.start()
                speed = await _speed(inference, folder)
            except RetryableError as error:
                return ModelSkill((), 0, (error.detail,))
    return ModelSkill(ready.providers, speed, ready.missing)


async def _speed(inference: WorkerInference, folder: Path) -> int:
    from node.children.models import CALIBRATION_SHAPE, calibration_model  # onnx is needed here alone

    data = calibration_model()
    model = folder / hashlib.sha256(data).hexdigest()
    model.write_bytes(data)
    count = elements(CALIBRATION_SHAPE)
    image = Tensor(
        name="x", datatype=Datatype.FP32, shape=CALIBRATION_SHAPE, data=struct.pack(f"<{count}f", *[0.5] * count)
    )
    files = ModelFiles(f"sha256:{model.name}", model)
    runs = [await inference.run(files, [image]) for _ in range(_WARM_UP + _RUNS)]
    return int(_MICRO / max(1, statistics.median(run.run_us for run in runs[_WARM_UP:])))
