import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tandem.chain.keystore import create_keystore, load_keystore
from tandem.cli.chain import chain
from tandem.protocol.errors import ConfigurationError
from tests.fixtures.anvil import Anvil

RECIPIENT = "0x" + "22" * 20


def run(*arguments: str) -> Result:
    return CliRunner().invoke(chain, list(arguments))


@dataclass(frozen=True, slots=True)
class Operator:
    """A keystore with 100 ether, and a contract deployed by it."""

    address: str
    common: tuple[str, ...]
    account: tuple[str, ...]


@pytest.fixture
def keystore(tmp_path: Path) -> tuple[str, ...]:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    create_keystore(tmp_path / "key.json", password, work_factor=2)
    return ("--keystore", str(tmp_path / "key.json"), "--password-file", str(password))


def test_the_password_is_the_first_line(tmp_path: Path, keystore: tuple[str, ...]) -> None:
    assert keystore
    address = load_keystore(tmp_path / "key.json", tmp_path / "password").address
    for said in ("correct horse", "correct horse\r\n", "correct horse\nbattery staple\n"):
        (tmp_path / "again").write_bytes(said.encode())
        assert load_keystore(tmp_path / "key.json", tmp_path / "again").address == address


@pytest.fixture
def operator(anvil: Anvil, tmp_path: Path, keystore: tuple[str, ...]) -> Operator:
    address = load_keystore(tmp_path / "key.json", tmp_path / "password").address
    anvil.rpc("anvil_setBalance", address, hex(100 * 10**18))
    result = run("deploy", "--rpc", anvil.url, *keystore, "--unlock-period", "60", "--json")
    assert result.exit_code == 0, result.output
    common = ("--rpc", anvil.url, "--contract", json.loads(result.output)["contract"])
    return Operator(address, common, (*common, *keystore))


def test_deploy_prints_the_address(anvil: Anvil, operator: Operator, keystore: tuple[str, ...]) -> None:
    result = run("deploy", "--rpc", anvil.url, *keystore, "--unlock-period", "60")
    assert result.output.startswith("0x")
    assert len(result.output) == len(operator.address) + 1


def test_fund_allocate_and_look(operator: Operator) -> None:
    funded = run("fund", *operator.account, "--deposit", "0.5ether", "--reserve", "3gwei")
    assert funded.output.splitlines() == [
        f"added 0.5 ether to the deposit of {operator.address}",
        f"added 3 gwei to the reserve of {operator.address}",
    ]
    assert run("allocate", *operator.account, RECIPIENT, "2gwei").exit_code == 0
    found = run("funds", *operator.common, operator.address, RECIPIENT, "--json")
    assert json.loads(found.output) == {
        "deposit": str(5 * 10**17),
        "reserve": str(3 * 10**9),
        "allocated": str(2 * 10**9),
        "allocation": str(2 * 10**9),
        "lowered_to": "0",
        "lowers_at": None,
        "unlock_at": None,
    }
    lowered = run("allocate", *operator.account, RECIPIENT, "1gwei").output
    assert "allocation  2 gwei, for this recipient alone" in lowered
    assert "falls to 1 gwei at " in lowered
    assert lowered.endswith("locked\n")


def test_authorise_signer(operator: Operator) -> None:
    result = run("authorise-signer", *operator.account, RECIPIENT)
    assert result.output == f"{RECIPIENT} may sign tickets of {operator.address}\n"


def test_balance(anvil: Anvil) -> None:
    anvil.rpc("anvil_setBalance", RECIPIENT, hex(10**17))
    assert run("balance", "--rpc", anvil.url, RECIPIENT).output == "0.1 ether\n"
    assert json.loads(run("balance", "--rpc", anvil.url, RECIPIENT, "--json").output)["wei"] == str(10**17)


def test_keystore_create(tmp_path: Path) -> None:
    password, path = tmp_path / "password", tmp_path / "new.json"
    password.write_text("correct horse")
    result = run("keystore", "create", str(path), "--password-file", str(password))
    assert result.output.strip() == load_keystore(path, password).address
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = run("keystore", "create", str(path), "--password-file", str(password))
    assert (again.exit_code, "File exists" in again.output) == (1, True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "password").write_text("wrong"), "check that the two belong together"),
        (lambda folder: (folder / "password").write_text("\n"), "expected a password"),
        (lambda folder: (folder / "password").unlink(), "expected a password"),
        (lambda folder: (folder / "key.json").unlink(), "expected a keystore"),
        (lambda folder: (folder / "key.json").write_text("{}"), "check that the two belong together"),
    ],
)
def test_a_keystore_that_does_not_open(
    tmp_path: Path, keystore: tuple[str, ...], spoil: Callable[[Path], object], message: str
) -> None:
    spoil(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        load_keystore(tmp_path / "key.json", tmp_path / "password")


def test_errors_are_one_line_and_exit_code_1(anvil: Anvil, operator: Operator) -> None:
    for arguments in (
        ("balance", "--rpc", "http://127.0.0.1:1", RECIPIENT),
        ("funds", "--rpc", anvil.url, "--contract", RECIPIENT, RECIPIENT, RECIPIENT),
        ("allocate", *operator.account, RECIPIENT, "1ether"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")
        assert result.output.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--deposit", "0.5"), ("--deposit", "-1"), ("--sender", "0x12"), ()])
def test_wrong_arguments_are_refused(operator: Operator, arguments: tuple[str, ...]) -> None:
    assert run("fund", *operator.account, *arguments).exit_code == 2
