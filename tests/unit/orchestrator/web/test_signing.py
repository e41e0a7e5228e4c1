"""Signed URLs."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from orchestrator.web.signing import UrlSigner
from tandem.protocol.errors import Forbidden
from tandem.protocol.ids import AttemptRef, job_id
from tests.fixtures.clock import ManualClock

ARTIFACT = "sha256:" + "a" * 64
REF = AttemptRef(task=f"{job_id(0, bytes(8))}.0", number=3)


def signer(clock: ManualClock, secret: bytes = bytes(32)) -> UrlSigner:
    return UrlSigner(secret, "https://tandem.example/", clock)


def parts(url: str) -> tuple[str, dict[str, str]]:
    split = urlsplit(url)
    return split.path, dict(parse_qsl(split.query))


def test_a_signed_url_is_good_until_it_expires(clock: ManualClock) -> None:
    url = signer(clock).download(ARTIFACT, clock.now() + 60)
    assert url.startswith(f"https://tandem.example/v1/node/artifacts/{ARTIFACT}?")
    signer(clock).verify("GET", *parts(url))
    clock.advance(60)
    with pytest.raises(Forbidden, match="expired"):
        signer(clock).verify("GET", *parts(url))


def test_an_upload_is_bound_in_size(clock: ManualClock) -> None:
    path, query = parts(signer(clock).upload(REF, "720p", 1000, clock.now() + 60))
    assert path == f"/v1/node/attempts/{REF.task}/3/outputs/720p"
    signer(clock).verify("PUT", path, query)
    with pytest.raises(Forbidden):
        signer(clock).verify("PUT", path, query | {"limit": "1001"})


@pytest.mark.parametrize(
    "change", [{"signature": "00"}, {"signature": "é"}, {"expires": "99999999999"}, {"limit": "1"}, {"expires": ""}]
)
def test_a_changed_url_is_refused(clock: ManualClock, change: dict[str, str]) -> None:
    path, query = parts(signer(clock).download(ARTIFACT, clock.now() + 60))
    with pytest.raises(Forbidden):
        signer(clock).verify("GET", path, query | change)


def test_another_path_method_or_secret_is_refused(clock: ManualClock) -> None:
    path, query = parts(signer(clock).download(ARTIFACT, clock.now() + 60))
    for other, method, at in [
        (signer(clock), "PUT", path),
        (signer(clock), "GET", path[:-1] + "b"),
        (signer(clock, b"1" * 32), "GET", path),
    ]:
        with pytest.raises(Forbidden):
            other.verify(method, at, query)
    with pytest.raises(Forbidden):
        signer(clock).verify("GET", path, {})


def test_a_short_secret_is_refused(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        signer(clock, b"short")
