import pytest
from pydantic import ValidationError

from tandem.protocol.media import MediaInfo


@pytest.mark.parametrize(
    "video",
    [
        {"frame_rate": (25, 0)},
        {"frame_rate": (-25, 1)},
        {"sample_aspect": (0, 1)},
        {"sample_aspect": (1, 0)},
        {"rotation": 45},
        {"frames": -1},
        {"width": 0},
    ],
)
def test_streams_that_would_break_arithmetic_are_refused(video: dict[str, object]) -> None:
    fields: dict[str, object] = {"codec": "h264", "width": 64, "height": 64, "frame_rate": (25, 1), "frames": 1}
    with pytest.raises(ValidationError):
        MediaInfo.model_validate({"format": "mp4", "duration_us": 1, "video": fields | video})
