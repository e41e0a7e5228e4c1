import json
from pathlib import Path

import pytest

from node.app import inference_of, limited, offer_of, open_key, without_models
from node.ports.execution import Detected
from node.settings import CapacitySection, InferenceSection, KeySection, NodeSettings
from tandem.chain.keystore import create_keystore
from tandem.chain.settings import ChainSection
from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.errors import ConfigurationError
from tandem.protocol.media import VideoCodec

DETECTED = Detected(
    Capability(
        video_encoders=("libx264", "h264_nvenc"),
        execution_providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
        gpus=("H100",),
    ),
    Capacity(cpu=8000, memory=16_000, vram=80_000, cuda=1000, nvenc=10**9, encoder_sessions=8),
)


def settings(data: Path, **changes: object) -> NodeSettings:
    return NodeSettings(data=data, chain=ChainSection(contract="0x" + "ab" * 20), **changes)  # type: ignore[arg-type]


def test_a_key_is_made_and_is_private(tmp_path: Path) -> None:
    key = open_key(settings(tmp_path / "new"))
    stored = json.loads((tmp_path / "new" / "key.json").read_text())
    assert stored["address"].lower() in key.address.lower()
    for name in ("key.json", "key.password"):
        assert (tmp_path / "new" / name).stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_there_is_used(tmp_path: Path) -> None:
    (tmp_path / "key.password").write_text("secret\n")
    address = create_keystore(tmp_path / "key.json", tmp_path / "key.password", work_factor=2)
    assert open_key(settings(tmp_path)).address == address


def test_a_key_whose_password_is_missing_is_left_alone(tmp_path: Path) -> None:
    keystore = tmp_path / "elsewhere.json"
    keystore.write_text("{}")
    with pytest.raises(ConfigurationError, match=r"key\.password"):
        open_key(settings(tmp_path, key=KeySection(keystore=keystore)))
    assert keystore.read_text() == "{}"


def test_the_offer_has_the_settings_prices(tmp_path: Path) -> None:
    offer = offer_of(settings(tmp_path), DETECTED)
    assert offer.capacity == DETECTED.capacity
    assert (offer.prices.megapixel[VideoCodec.H264], offer.prices.inference_second) == (2 * 10**8, 5 * 10**10)
    assert offer.max_unpaid == 10**15


def test_everything_detected_is_offered_by_default() -> None:
    assert limited(DETECTED, CapacitySection()) == DETECTED


def test_the_operator_may_keep_some_for_himself() -> None:
    found = limited(DETECTED, CapacitySection(cpu=2.5, memory=99_999))
    assert (found.capacity.cpu, found.capacity.memory, found.capacity.vram) == (2500, 16_000, 80_000)


def test_without_the_gpu_nothing_of_it_is_offered() -> None:
    found = limited(DETECTED, CapacitySection(gpu=False))
    assert found.capacity == Capacity(cpu=8000, memory=16_000)
    assert found.capability.video_encoders == ("libx264",)
    assert found.capability.execution_providers == ("CPUExecutionProvider",)
    assert found.capability.gpus == ()


def test_gpu_memory_of_models_is_not_offered_for_video() -> None:
    inference = inference_of(InferenceSection(vram=50_000), DETECTED)
    assert inference.vram_mib == 50_000
    assert without_models(DETECTED, inference).capacity.vram == 30_000
    assert inference_of(InferenceSection(), DETECTED).vram_mib == 40_000


def test_cores_are_shared_by_the_workers() -> None:
    without_gpu = limited(DETECTED, CapacitySection(gpu=False))
    found = inference_of(InferenceSection(), without_gpu)
    assert (found.workers, found.slots, found.vram_mib, found.cache_mib) == (4, 2, 0, 4000)
    assert inference_of(InferenceSection(workers=3, memory=100), without_gpu).slots == 3


def test_no_worker_may_take_all_of_the_memory_unless_models_may() -> None:
    assert inference_of(InferenceSection(), DETECTED).memory_mib == 8000
    assert inference_of(InferenceSection(memory=12_000), DETECTED).memory_mib == 12_000
