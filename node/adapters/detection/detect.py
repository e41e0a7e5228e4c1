"""What the node offers, from what was measured."""

import asyncio
from pathlib import Path

from node.adapters.detection import doctor, survey
from node.adapters.detection.machine import Machine, read_machine
from node.adapters.detection.measuring import CUDA
from node.adapters.detection.survey import Survey
from node.adapters.ffmpeg import VideoEncoder, find_ffmpeg
from node.ports.execution import Detected
from tandem.clock import Clock
from tandem.process import detect_sandbox
from tandem.protocol.capacity import Capacity

_RESERVED_MIB = 512
"""For the system and the daemon itself."""
_CUDA_WHOLE = 1000


async def detect(clock: Clock, cache: Path | None = None) -> Detected:
    """Measures this machine, or reads from `cache` what was measured before of the same hardware and versions.

    Raises ConfigurationError if ffmpeg is missing, or not exactly one ONNX Runtime is installed.
    """
    machine = await asyncio.to_thread(read_machine)
    sandbox, ffmpeg = await detect_sandbox(), await find_ffmpeg(clock)
    subject = survey.fingerprint(machine, sandbox, ffmpeg)
    known = survey.load(cache, subject) if cache else None
    if known is None:
        known = await survey.measure(machine, sandbox, ffmpeg, clock)
        if cache:
            await asyncio.to_thread(survey.save, cache, known)
    problems = [finding for finding in doctor.findings_of(machine, known) if not finding.ok]
    return Detected(known.capability, capacity_of(machine, known), tuple(str(finding) for finding in problems))


def capacity_of(machine: Machine, known: Survey) -> Capacity:
    """All of the CPU; of the GPUs the first, since the worker and ffmpeg use that one."""
    capability = known.capability
    nvenc = VideoEncoder.NVENC in capability.video_encoders
    cuda = CUDA in capability.execution_providers
    return Capacity(
        cpu=machine.millicores,
        memory=max(_RESERVED_MIB, machine.memory_mib - _RESERVED_MIB),
        cuda=_CUDA_WHOLE if cuda else 0,
        vram=machine.gpus[0].memory_mib if machine.gpus and (cuda or nvenc) else 0,
        nvenc=capability.encode_speed if nvenc else 0,
        encoder_sessions=known.encoder_sessions,
    )
