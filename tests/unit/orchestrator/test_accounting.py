"""Which key may fund."""

import json
import logging
from pathlib import Path

import pytest
from eth_account import Account

from orchestrator.accounting import _funding_key
from orchestrator.core.session import Identity
from orchestrator.settings import ChainSettings, FundingSettings, OrchestratorSettings
from tandem.protocol.errors import ConfigurationError
from tandem.protocol.signing import SigningKey
from tests.fixtures.protocol import DOMAIN, ORIGIN, SENDER, SIGNER


def keystore(folder: Path, name: str, key: SigningKey) -> Path:
    path = folder / name
    path.write_text(json.dumps(Account.encrypt(key.secret, "secret", iterations=2)))
    return path


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret\n")
    return path


def settings(chain: Path, funding: Path | None, password: Path) -> OrchestratorSettings:
    return OrchestratorSettings(
        chain=ChainSettings(contract=DOMAIN.contract, keystore=chain, password_file=password),
        funding=FundingSettings(keystore=funding, password_file=password if funding else None),
    )


def identity(signer: SigningKey, sender: SigningKey = SENDER) -> Identity:
    return Identity(signer, sender.address, DOMAIN, ORIGIN)


def test_without_a_keystore_there_is_no_key(tmp_path: Path, password: Path) -> None:
    signing = keystore(tmp_path, "signer", SIGNER)
    assert _funding_key(settings(signing, None, password), identity(SIGNER)) is None


def test_the_senders_key_funds(tmp_path: Path, password: Path) -> None:
    signing, funding = keystore(tmp_path, "signer", SIGNER), keystore(tmp_path, "operator", SENDER)
    key = _funding_key(settings(signing, funding, password), identity(SIGNER))
    assert key is not None
    assert key.address == SENDER.address


def test_a_key_that_is_not_the_senders_is_refused(tmp_path: Path, password: Path) -> None:
    signing = keystore(tmp_path, "signer", SIGNER)
    with pytest.raises(ConfigurationError, match=f"expected the key of the sender {SENDER.address}"):
        _funding_key(settings(signing, signing, password), identity(SIGNER))


def test_one_key_for_all_takes_naming_the_same_file_twice(
    tmp_path: Path, password: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, copy = keystore(tmp_path, "one", SENDER), keystore(tmp_path, "copy", SENDER)
    with pytest.raises(ConfigurationError, match=r"expected another key than chain\.keystore's"):
        _funding_key(settings(one, copy, password), identity(SENDER))
    assert _funding_key(settings(one, one, password), identity(SENDER)) is not None
    (warning,) = caplog.records
    assert (warning.levelno, warning.getMessage()) == (logging.WARNING, "one_key_for_all")


def test_a_keystore_comes_with_its_password(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected keystore and password_file, or neither"):
        FundingSettings(keystore=tmp_path)
