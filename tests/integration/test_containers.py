"""The container files, as far as they can be checked without an engine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from node.settings import NodeSettings
from orchestrator.settings import OrchestratorSettings
from tandem.settings import every_setting, variable
from tests.fixtures.anvil import run_anvil

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DEPLOY = ROOT / "docker" / "deploy.sh"


def compose_command() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and _works([*command, "version"]):
            return command
    pytest.skip("neither `docker compose` nor `docker-compose` is installed")


def test_the_compose_file_is_valid() -> None:
    command = [*compose_command(), "--file", str(COMPOSE), "--profile", "gpu", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_variable_in_the_compose_file_is_a_setting() -> None:
    known = {
        variable(cls, setting.path) for cls in (NodeSettings, OrchestratorSettings) for setting in every_setting(cls)
    }
    used = set(re.findall(r"TANDEM_\w+", COMPOSE.read_text()))
    assert used
    assert used <= known


def test_the_image_of_the_orchestrator_reads_arrow_with_the_version_that_the_tests_have() -> None:
    (pinned,) = re.findall(r"^pyarrow==\S+", (ROOT / "requirements" / "arrow.txt").read_text(), re.MULTILINE)
    assert f"\n{pinned} " in (ROOT / "requirements" / "dev.txt").read_text()
    stage = re.search(r"AS packages-cpu\n(.*?)\n\n", (ROOT / "Dockerfile").read_text(), re.DOTALL)
    assert stage is not None
    assert "-r /tmp/arrow.txt" in stage[1]


@pytest.mark.timeout(180)  # ten processes
def test_the_deployer_puts_the_contract_where_the_compose_file_says_and_once() -> None:
    with run_anvil() as anvil:
        first, second = deploy(anvil.url), deploy(anvil.url)
    assert "may sign tickets" in first
    assert first.count("alone may draw 5 ether") == 2
    assert "the contract is there already" in second


def deploy(rpc: str) -> str:
    text = COMPOSE.read_text()
    addresses = {name.upper(): address for name, address in re.findall(r'(\w+): (?:&\w+ )?"(0x\w{40})"', text)}
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KEYS": str(ROOT / "docker" / "keys"),
        "RPC": rpc,
        **addresses,
    }
    done = subprocess.run([DEPLOY], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
