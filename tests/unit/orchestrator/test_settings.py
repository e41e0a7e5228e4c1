"""The orchestrator's settings, as its own files and flags say them."""

from pathlib import Path

import pytest

from orchestrator.settings import HttpSettings, OrchestratorSettings
from tandem.protocol.errors import ConfigurationError
from tandem.protocol.media import VideoCodec
from tandem.settings import load_settings

CONFIG = Path(__file__).parents[3] / "config"
REQUIRED = ["--chain.contract", "0x" + "cc" * 20, "--chain.keystore", "key", "--chain.password-file", "password"]


def load(config: Path | None, *flags: str) -> OrchestratorSettings:
    return load_settings(OrchestratorSettings, config, [*REQUIRED, *flags])


def test_amounts_have_units() -> None:
    settings = load(
        CONFIG / "local" / "orchestrator.toml", "--payment.max-ahead", "0.25 ether", "--payment.max-face-value", "7"
    )
    assert settings.prices.megapixel[VideoCodec.H264] == 2000 * 10**9
    assert settings.prices.inference_second == 2 * 10**17
    assert (settings.payment.max_ahead, settings.payment.max_face_value) == (25 * 10**16, 7)
    with pytest.raises(ConfigurationError, match=r"flag --payment\.max-ahead: expected an amount like"):
        load(None, "--payment.max-ahead", "plenty")


@pytest.mark.parametrize(
    ("flags", "open_to_this_machine"),
    [
        ([], True),
        (["--http.public-url", "http://localhost:8080"], True),
        (["--http.public-url", "https://tandem.example"], False),
        (["--http.host", "10.0.0.7"], False),
        (["--http.public-url", "https://tandem.example", "--auth.anonymous-loopback", "true"], True),
        (["--auth.anonymous-loopback", "false"], False),
    ],
)
def test_what_others_can_reach_needs_a_key_from_everybody(flags: list[str], open_to_this_machine: bool) -> None:
    """A proxy beside it, such as nginx as it comes, passes on strangers' requests as its own."""
    assert load(None, *flags).anonymous_loopback is open_to_this_machine


def test_an_origin_names_an_address_as_a_url_does() -> None:
    assert HttpSettings(host="::1", port=80).origin == "http://[::1]:80"
