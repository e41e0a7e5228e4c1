from tandem.protocol.capacity import Capability
from tandem.protocol.placement import need
from tests.fixtures.protocol import inference_work, media, transcode_work

CPU = Capability(video_encoders=("libx264",), execution_providers=("CPUExecutionProvider",))
GPU = Capability(
    video_encoders=("libx264", "h264_nvenc"), execution_providers=("CUDAExecutionProvider", "CPUExecutionProvider")
)


def test_a_transcode_takes_a_core_or_an_encoder_session_a_rendition() -> None:
    work = transcode_work()
    on_cpu, on_gpu = need(work, CPU), need(work, GPU)
    assert (on_cpu.cpu, on_cpu.encoder_sessions, on_cpu.vram) == (1000, 0, 0)
    assert (on_gpu.encoder_sessions, on_gpu.vram) == (len(work.video), 400 * len(work.video))
    assert on_gpu.cpu < on_cpu.cpu
    assert on_gpu.cuda == 0


def test_memory_grows_with_the_picture() -> None:
    assert need(transcode_work(media(320, 240)), CPU).memory < need(transcode_work(media(3840, 2160)), CPU).memory


def test_inference_takes_no_encoder() -> None:
    on_cpu, on_gpu = need(inference_work(), CPU), need(inference_work(), GPU)
    assert (on_cpu.cuda, on_cpu.vram) == (0, 0)
    assert on_gpu.cuda > 0
    assert (on_gpu.cuda, on_gpu.vram) == (250, 0)
    assert on_gpu.encoder_sessions == 0
