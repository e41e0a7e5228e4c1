"""Everything that is measured, in one piece that can be kept on disk."""

import hashlib
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile

from pydantic import ValidationError

import node
import tandem
from node.adapters.detection.machine import Machine
from node.adapters.detection.measuring import measure_models, measure_video
from node.adapters.ffmpeg import Ffmpeg
from node.adapters.inference import installed_package
from tandem.clock import Clock
from tandem.protocol.capacity import Capability, Sandbox
from tandem.protocol.ids import Frozen

_CODE = (
    *(Path(folder) / part for folder in node.__path__ for part in ("adapters", "children")),
    *(Path(folder) / "process" for folder in tandem.__path__),
)
"""What decides which trials there are, and how each runs. A version says nothing of work between two releases."""


class Fingerprint(Frozen):
    """What the measurements depend on; when any of it changes, they are taken anew."""

    cpu: str
    millicores: int
    gpus: tuple[str, ...]
    driver: str | None
    sandbox: Sandbox
    ffmpeg: str
    runtime: str
    code: str


class Survey(Frozen):
    """The measurements, and of what."""

    fingerprint: Fingerprint
    capability: Capability
    encoder_sessions: int = 0
    missing_providers: tuple[str, ...] = ()


def fingerprint(machine: Machine, sandbox: Sandbox, ffmpeg: Ffmpeg) -> Fingerprint:
    """Raises ConfigurationError unless exactly one ONNX Runtime is installed."""
    package = installed_package()
    return Fingerprint(
        cpu=machine.cpu,
        millicores=machine.millicores,
        gpus=tuple(f"{gpu.name} {gpu.memory_mib} MiB" for gpu in machine.gpus),
        driver=machine.driver,
        sandbox=sandbox,
        ffmpeg=f"{ffmpeg.path} {ffmpeg.version}",
        runtime=f"{package} {importlib.metadata.version(package)}",
        code=code_digest(_CODE),
    )


def code_digest(folders: Iterable[Path]) -> str:
    """Of the Python sources in them."""
    digest = hashlib.sha256()
    for file in sorted(path for folder in folders for path in folder.rglob("*.py")):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


async def measure(machine: Machine, sandbox: Sandbox, ffmpeg: Ffmpeg, clock: Clock) -> Survey:
    """Takes some ten seconds. One after the other, since they would disturb each other."""
    subject = fingerprint(machine, sandbox, ffmpeg)
    gpu = bool(machine.gpus)
    video = await measure_video(ffmpeg, gpu=gpu, sandbox=sandbox, clock=clock)
    models = await measure_models(gpu=gpu, sandbox=sandbox, clock=clock)
    capability = Capability(
        video_encoders=video.encoders,
        audio_encoders=video.audio_encoders,
        filters=video.filters,
        gpu_decoders=video.gpu_decoders,
        execution_providers=models.providers,
        gpus=tuple(each.name for each in machine.gpus),
        encode_speed=video.speed,
        inference_speed=models.speed,
        sandbox=sandbox,
        ffmpeg=ffmpeg.version,
    )
    return Survey(
        fingerprint=subject,
        capability=capability,
        encoder_sessions=video.sessions,
        missing_providers=models.missing,
    )


def load(file: Path, subject: Fingerprint) -> Survey | None:
    """What was measured before, if it was of the same things."""
    try:
        survey = Survey.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    return survey if survey.fingerprint == subject else None


def save(file: Path, survey: Survey) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=file.parent, prefix=file.name, delete=False) as temporary:
        temporary.write(survey.model_dump_json(indent=2))
    Path(temporary.name).replace(file)
