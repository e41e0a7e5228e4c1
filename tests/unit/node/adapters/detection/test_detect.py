"""Detection, with the real ffmpeg and the real ONNX Runtime."""

import re
from pathlib import Path

import pytest

from node.adapters import inference
from node.adapters.detection import detect, doctor, survey
from node.adapters.detection.detect import capacity_of
from node.adapters.detection.doctor import findings_of
from node.adapters.detection.machine import Gpu, Machine
from node.adapters.detection.measuring import count_sessions
from node.adapters.detection.survey import Fingerprint, Survey
from node.adapters.ffmpeg import Ffmpeg, Trials, VideoEncoder, find_ffmpeg
from tandem.clock import SystemClock
from tandem.process import detect_sandbox, landlock
from tandem.protocol.capacity import Capability, Capacity, Sandbox
from tandem.protocol.errors import ConfigurationError

GPU = Machine("a processor", 4000, 8192, (Gpu("a card", 24_000), Gpu("another", 8000)), "580.1")


def survey_of(capability: Capability, *, sessions: int = 0, missing: tuple[str, ...] = ()) -> Survey:
    subject = Fingerprint(
        cpu="a processor",
        millicores=4000,
        gpus=(),
        driver=None,
        sandbox=capability.sandbox,
        ffmpeg="f",
        runtime="onnxruntime-gpu 1.31.1",
        code="c",
    )
    return Survey(fingerprint=subject, capability=capability, encoder_sessions=sessions, missing_providers=missing)


async def test_what_was_measured_is_offered_and_remembered(tmp_path: Path) -> None:
    file = tmp_path / "node" / "detected.json"
    first = await detect(SystemClock(), file)
    assert set(first.capability.video_encoders) >= {VideoEncoder.X264, VideoEncoder.X265, VideoEncoder.VP9}
    assert (first.capability.audio_encoders, first.capability.filters) == (("aac", "libopus"), ("tonemap",))
    assert "CPUExecutionProvider" in first.capability.execution_providers
    assert first.capability.encode_speed > 10**5
    assert first.capability.inference_speed > 1
    assert first.capacity.cpu > 0
    assert first.capacity.memory > 0
    written = file.stat().st_mtime_ns
    assert await detect(SystemClock(), file) == first
    assert file.stat().st_mtime_ns == written
    assert [path.name for path in file.parent.iterdir()] == ["detected.json"]


async def test_measurements_of_other_things_are_not_used(tmp_path: Path) -> None:
    file = tmp_path / "detected.json"
    known = survey_of(Capability())
    survey.save(file, known)
    assert survey.load(file, known.fingerprint) == known
    assert survey.load(file, known.fingerprint.model_copy(update={"driver": "2"})) is None
    file.write_text("{}")
    assert survey.load(file, known.fingerprint) is None


async def test_measurements_by_other_code_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "trial.py").write_text('ENCODERS = ("libx264",)')
    monkeypatch.setattr(survey, "_CODE", (tmp_path,))
    ffmpeg = Ffmpeg(Path("/usr/bin/ffmpeg"), "7")
    before = survey.fingerprint(GPU, Sandbox.LIMITS, ffmpeg)
    assert survey.fingerprint(GPU, Sandbox.LIMITS, ffmpeg) == before
    survey.save(tmp_path / "detected.json", survey_of(Capability()).model_copy(update={"fingerprint": before}))
    (tmp_path / "trial.py").write_text('ENCODERS = ("libx264", "libvvenc")')
    assert survey.load(tmp_path / "detected.json", survey.fingerprint(GPU, Sandbox.LIMITS, ffmpeg)) is None


def test_the_trials_are_part_of_what_measurements_depend_on() -> None:
    files = {file.name for folder in survey._CODE for file in folder.rglob("*.py")}
    assert files >= {"trial.py", "measuring.py", "inference_worker.py", "confinement.py", "landlock.py"}


async def test_trial_encodes_at_once_are_counted() -> None:
    clock = SystemClock()
    ffmpeg, sandbox = await find_ffmpeg(clock), await detect_sandbox()
    assert await count_sessions(Trials(ffmpeg, sandbox=sandbox, clock=clock), VideoEncoder.X264) == 12


def test_a_gpu_is_offered_for_what_it_was_seen_to_do() -> None:
    both = Capability(
        video_encoders=("h264_nvenc", "libx264"),
        execution_providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
        encode_speed=9,
    )
    expected = Capacity(cpu=4000, memory=7680, cuda=1000, vram=24_000, nvenc=9, encoder_sessions=5)
    assert capacity_of(GPU, survey_of(both, sessions=5)) == expected
    assert capacity_of(GPU, survey_of(Capability(encode_speed=9))) == Capacity(cpu=4000, memory=7680)


def test_the_doctor_says_what_is_missing_and_what_to_do() -> None:
    known = survey_of(Capability(sandbox=Sandbox.LIMITS), missing=("CUDAExecutionProvider: no libcudnn",))
    findings = {finding.what: finding for finding in findings_of(GPU, known)}
    wrong = {"sandbox", "video", "models", "models on the GPU", "video on the GPU"}
    assert {what for what, finding in findings.items() if not finding.ok} == wrong
    assert all(finding.remedy for finding in findings.values() if not finding.ok)
    assert "bubblewrap" in findings["sandbox"].remedy
    assert "libcudnn" in str(findings["models on the GPU"])


@pytest.mark.parametrize(("abi", "left"), [(1, "signal.*empty"), (3, "signal"), (7, "names and sizes of other files$")])
def test_the_doctor_says_what_landlock_leaves_open(monkeypatch: pytest.MonkeyPatch, abi: int, left: str) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: abi)
    findings = findings_of(GPU, survey_of(Capability(sandbox=Sandbox.LANDLOCK)))
    found = next(finding for finding in findings if finding.what == "sandbox")
    assert found.ok
    assert re.search(left, str(found))


def test_the_doctor_is_content_with_a_cpu() -> None:
    machine = Machine("a processor", 2000, 4096, (), None)
    capability = Capability(
        video_encoders=("libx264",), execution_providers=("CPUExecutionProvider",), sandbox=Sandbox.BUBBLEWRAP
    )
    findings = findings_of(machine, survey_of(capability))
    assert all(finding.ok for finding in findings)
    assert "works on the CPU" in findings[-1].found


@pytest.mark.parametrize(
    ("packages", "expected"),
    [(("onnxruntime", "onnx"), "got both"), (("no-such-package",), "got neither")],
)
async def test_two_runtimes_or_none_are_a_named_error(
    monkeypatch: pytest.MonkeyPatch, packages: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr(inference, "_PACKAGES", packages)
    with pytest.raises(ConfigurationError, match=expected):
        inference.installed_package()
    findings = await doctor.examine(SystemClock())
    assert [finding.ok for finding in findings] == [True, False]
    assert expected in findings[-1].found
