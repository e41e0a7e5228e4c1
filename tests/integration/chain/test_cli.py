import json
import re
import stat
import subprocess
import sys
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
OTHER = "0x" + "44" * 20
TIME = r"[0-9-]{10}T[0-9:]{8}\+00:00"


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
    allocated = run("allocate", *operator.account, RECIPIENT, "2gwei", OTHER, "500000000")
    assert allocated.output.splitlines() == [
        f"{RECIPIENT} alone may draw 2 gwei",
        f"{OTHER} alone may draw 500000000 wei",
    ]
    found = run("funds", *operator.common, operator.address, RECIPIENT, "--json")
    assert json.loads(found.output) == {
        "deposit": str(5 * 10**17),
        "reserve": str(3 * 10**9),
        "allocated": str(25 * 10**8),
        "allocation": str(2 * 10**9),
        "lowered_to": "0",
        "lowers_at": None,
        "unlock_at": None,
    }
    lowered = run("allocate", *operator.account, RECIPIENT, "1gwei").output
    assert re.fullmatch(rf"{RECIPIENT} alone may draw 2 gwei, and 1 gwei from {TIME} on\n", lowered)
    assert re.fullmatch(
        "deposit     0.5 ether, shared by all recipients\n"
        "reserve     3 gwei, of it 2.5 gwei allocated\n"
        rf"allocation  2 gwei, for this recipient alone, and 1 gwei from {TIME} on\n"
        "locked\n",
        run("funds", *operator.common, operator.address, RECIPIENT).output,
    )


def test_a_signer_is_authorised_and_revoked(operator: Operator) -> None:
    result = run("authorise-signer", *operator.account, RECIPIENT)
    assert result.output == f"{RECIPIENT} may sign tickets of {operator.address}\n"
    revoked = run("revoke-signer", *operator.account, RECIPIENT)
    assert re.fullmatch(rf"{RECIPIENT} may sign tickets of {operator.address} until {TIME}\n", revoked.output)


def test_money_is_unlocked_and_withdrawn(anvil: Anvil, operator: Operator) -> None:
    run("fund", *operator.account, "--deposit", "3gwei", "--reserve", "5gwei")
    run("allocate", *operator.account, RECIPIENT, "1gwei")
    assert re.fullmatch(
        rf"{operator.address}: may be withdrawn from {TIME} on\n", run("unlock", *operator.account).output
    )
    assert run("cancel-unlock", *operator.account).output == f"{operator.address}: locked\n"
    run("unlock", *operator.account)
    early = run("withdraw-deposit", *operator.account, "1gwei")
    assert (early.exit_code, bool(re.search(rf"the funds are locked until {TIME}: withdraw then", early.output))) == (
        1,
        True,
    )
    anvil.warp(61)
    outputs = [
        run("withdraw-deposit", *operator.account, "1gwei", "--to", OTHER).output,
        run("withdraw-deposit", *operator.account, "all").output,
        run("withdraw-reserve", *operator.account, "all", "--to", OTHER).output,
    ]
    assert outputs == [
        f"sent 1 gwei of the deposit to {OTHER}\n",
        f"sent 2 gwei of the deposit to {operator.address}\n",
        f"sent 4 gwei of the reserve to {OTHER}\n",
    ]
    assert run("balance", "--rpc", anvil.url, OTHER).output == "5 gwei\n"
    nothing = run("withdraw-deposit", *operator.account, "all")
    assert nothing.output == "Error: expected a deposit of the account to withdraw, there is none\n"
    assert run("withdraw-credit", *operator.account).exit_code == 1


def test_several_endpoints_and_confirmations(anvil: Anvil, operator: Operator, keystore: tuple[str, ...]) -> None:
    elsewhere = ("--rpc", "http://127.0.0.1:1", *operator.account)
    assert run("balance", "--rpc", "http://127.0.0.1:1", "--rpc", anvil.url, RECIPIENT).exit_code == 0
    assert run("fund", *elsewhere, "--deposit", "1", "--chain-id", "31337").exit_code == 0
    wrong = run("fund", *operator.account, "--deposit", "1", "--chain-id", "1")
    assert "expected chain 1, it serves chain 31337" in wrong.output
    with anvil.mining_every_second():
        assert run("fund", *operator.account, "--deposit", "1", "--confirmations", "2").exit_code == 0


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
        (lambda folder: (folder / "key.json").write_text("{}"), "expected a keystore in .*key.json"),
        (lambda folder: (folder / "key.json").write_text('{"version": 3}'), "expected a keystore in .*key.json"),
        (lambda folder: (folder / "key.json").write_text("correct horse"), "expected a keystore in .*key.json"),
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
        ("fund", *operator.account, "--deposit", "1000ether"),
        ("fund", *operator.account, "--deposit", "1", "--max-fee-per-gas", "1"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")
        assert result.output.count("\n") == 1


def test_allocations_come_in_pairs(operator: Operator) -> None:
    for arguments in ((RECIPIENT,), (RECIPIENT, "1", OTHER), (RECIPIENT, "1 pound"), ("0x12", "1")):
        result = run("allocate", *operator.account, *arguments)
        assert result.exit_code == 2
    twice = run("allocate", *operator.account, RECIPIENT, "1", OTHER, "1", RECIPIENT, "2")
    assert (twice.exit_code, f"got {RECIPIENT} several times" in twice.output) == (2, True)
    for arguments in (("allocate", RECIPIENT, "-1ether"), ("withdraw-deposit", "-1"), ("fund", "--deposit", "-1gwei")):
        negative = run(arguments[0], *operator.account, *arguments[1:])
        assert (negative.exit_code, "expected an amount of 0 or more, got '-1" in negative.output) == (2, True)


def test_what_the_contract_refuses_is_said_in_words(operator: Operator) -> None:
    run("fund", *operator.account, "--reserve", "5gwei")
    for arguments, said in (
        (("allocate", RECIPIENT, "1ether"), "1 ether of the reserve is wanted and 5 gwei of it is free"),
        (("withdraw-deposit", "1"), "the funds are locked: begin with `tandem chain unlock`"),
        (("revoke-signer", OTHER), f"{OTHER} may not sign for this account"),
    ):
        assert said in run(arguments[0], *operator.account, *arguments[1:]).output


@pytest.mark.parametrize(
    "arguments", [("--rpc", "rpc.example"), ("--deposit", "0.5"), ("--deposit", "-1"), ("--sender", "0x12"), ()]
)
def test_wrong_arguments_are_refused(operator: Operator, arguments: tuple[str, ...]) -> None:
    assert run("fund", *operator.account, *arguments).exit_code == 2


def test_a_command_says_nothing_of_an_endpoint_that_another_stands_in_for(anvil: Anvil) -> None:
    nobody = ("--rpc", "http://127.0.0.1:1")
    words = [sys.executable, "-m", "tandem", "chain", "balance", RECIPIENT]
    answered = subprocess.run([*words, *nobody, "--rpc", anvil.url], capture_output=True, text=True, check=False)
    assert (answered.returncode, answered.stderr) == (0, "")
    failed = subprocess.run([*words, *nobody], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert "127.0.0.1:1: Connect call failed" in line
