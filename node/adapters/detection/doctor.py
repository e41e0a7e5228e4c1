"""What was found on this machine, what is missing, and how to get it."""

import asyncio
from dataclasses import dataclass

from node.adapters.detection import survey
from node.adapters.detection.machine import Machine, read_machine
from node.adapters.detection.measuring import CPU, CUDA
from node.adapters.detection.survey import Survey
from node.adapters.ffmpeg import VideoEncoder, find_ffmpeg
from node.adapters.inference import installed_package
from tandem.clock import Clock
from tandem.process import detect_sandbox, landlock
from tandem.protocol.capacity import Capability, Sandbox
from tandem.protocol.errors import ConfigurationError

_TRUNCATION_HANDLED, _SIGNALS_SCOPED = 3, 6
"""The versions of Landlock from which on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `remedy` says what to do where it is not `ok`."""

    what: str
    ok: bool
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.found}" + (f"; {self.remedy}" if self.remedy else "")


async def examine(clock: Clock) -> list[Finding]:
    """Looks at everything and measures it anew; takes some ten seconds. Raises nothing on purpose."""
    machine = await asyncio.to_thread(read_machine)
    try:
        installed_package()
        ffmpeg = await find_ffmpeg(clock)
        measured = await survey.measure(machine, await detect_sandbox(), ffmpeg, clock)
    except ConfigurationError as error:
        return [_machine(machine), Finding("installation", ok=False, found=error.detail)]
    return findings_of(machine, measured)


def findings_of(machine: Machine, measured: Survey) -> list[Finding]:
    capability = measured.capability
    return [
        _machine(machine),
        _sandbox(capability),
        _video(capability),
        _models(measured),
        *(_gpu(machine, measured) if machine.gpus else [_no_gpu(machine)]),
    ]


def _machine(machine: Machine) -> Finding:
    return Finding(
        "machine", ok=True, found=f"{machine.cpu}, {machine.millicores / 1000:g} cores, {machine.memory_mib} MiB"
    )


def _sandbox(capability: Capability) -> Finding:
    match capability.sandbox:
        case Sandbox.BUBBLEWRAP:
            return Finding("sandbox", ok=True, found="bubblewrap confines ffmpeg and models")
        case Sandbox.LANDLOCK:
            found = f"Landlock confines ffmpeg and models, but lets them {_left_open(landlock.abi())}"
            return Finding("sandbox", ok=True, found=found)
        case Sandbox.LIMITS:
            return Finding(
                "sandbox",
                ok=False,
                found="ffmpeg and models run under resource limits alone",
                remedy="install the package bubblewrap, and allow user namespaces if the node does not run as root; "
                "or run Linux 6.12 or newer with Landlock",
            )


def _left_open(abi: int) -> str:
    left = ["see the names and sizes of other files"]
    if abi < _SIGNALS_SCOPED:
        left.append("signal the node's processes (before Linux 6.12)")
    if abi < _TRUNCATION_HANDLED:
        left.append("empty files that they may read (before Linux 6.2)")
    return ", and ".join(left)


def _video(capability: Capability) -> Finding:
    ok = VideoEncoder.X264 in capability.video_encoders
    names = ", ".join((*capability.video_encoders, *capability.filters)) or "no encoder passed its trial"
    return Finding(
        "video",
        ok=ok,
        found=f"ffmpeg {capability.ffmpeg}: {names}; {capability.encode_speed / 10**6:.1f} megapixels a second",
        remedy="" if ok else "install an ffmpeg with libx264",
    )


def _models(measured: Survey) -> Finding:
    capability = measured.capability
    ok = CPU in capability.execution_providers
    names = ", ".join(capability.execution_providers) or "; ".join(measured.missing_providers)
    return Finding(
        "models",
        ok=ok,
        found=f"{measured.fingerprint.runtime}: {names}; {capability.inference_speed} calibration runs a second",
        remedy="" if ok else "install the extra `cpu` or `gpu` of tandem anew",
    )


def _no_gpu(machine: Machine) -> Finding:
    found = f"driver {machine.driver}, but no GPU" if machine.driver else "no NVIDIA driver answers"
    return Finding("GPU", ok=True, found=f"{found}; the node works on the CPU")


def _gpu(machine: Machine, measured: Survey) -> list[Finding]:
    names = ", ".join(f"{gpu.name} ({gpu.memory_mib} MiB)" for gpu in machine.gpus)
    cuda = CUDA in measured.capability.execution_providers
    nvenc = VideoEncoder.NVENC in measured.capability.video_encoders
    return [
        Finding("GPU", ok=True, found=f"{names}, driver {machine.driver}"),
        Finding(
            "models on the GPU",
            ok=cuda,
            found="CUDA" if cuda else "; ".join(measured.missing_providers) or "CUDA did not pass its trial",
            remedy="" if cuda else "uninstall onnxruntime, then install the extra `gpu` of tandem",
        ),
        Finding(
            "video on the GPU",
            ok=nvenc,
            found="NVENC" if nvenc else "NVENC did not pass its trial",
            remedy=""
            if nvenc
            else "some GPUs have no encoder (A100, H100); otherwise update the driver, and in a container allow the "
            "capability `video`",
        ),
    ]
