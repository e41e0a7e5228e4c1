from pathlib import Path

import pytest

from node.settings import NodeSettings
from orchestrator.settings import OrchestratorSettings
from tandem.chain.settings import ChainSection
from tandem.chain.transactions import TransactionPolicy
from tandem.protocol.errors import ConfigurationError
from tandem.settings import load_settings

ONE, TWO = "https://one.example/v3/key", "http://127.0.0.1:8545"
CONTRACT = ("--chain.contract", "0x" + "ab" * 20)
LOCAL = Path(__file__).parents[4] / "config" / "local"


def rpc(*flags: str, config: Path | None = None) -> tuple[str, ...]:
    return load_settings(NodeSettings, config, [*CONTRACT, *flags]).chain.rpc


@pytest.mark.parametrize(
    ("said", "expected"),
    [(ONE, (ONE,)), (f"{ONE},{TWO}", (ONE, TWO)), (f'["{ONE}", "{TWO}"]', (ONE, TWO))],
)
def test_one_endpoint_or_several(
    said: str, expected: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rpc("--chain.rpc", said) == expected
    file = tmp_path / "node.toml"
    file.write_text(f"[chain]\nrpc = {said if said.startswith('[') else repr(said)}\n")
    assert rpc(config=file) == expected
    monkeypatch.setenv("TANDEM_NODE__CHAIN__RPC", said)
    assert rpc() == expected


def test_the_flag_may_be_repeated() -> None:
    assert rpc("--chain.rpc", ONE, "--chain.rpc", TWO) == (ONE, TWO)


@pytest.mark.parametrize("said", ["", "rpc.example", "ws://rpc.example", "http://", "http://[", f"{ONE},", "[]", "[1]"])
def test_what_is_no_endpoint_is_refused(said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"chain\.rpc"):
        rpc("--chain.rpc", said)


KEY = ("--chain.keystore", "key", "--chain.password-file", "password")


def test_a_local_chain_makes_blocks_on_demand() -> None:
    def chains(folder: Path) -> tuple[ChainSection, ChainSection]:
        node = load_settings(NodeSettings, folder / "node.toml", CONTRACT).chain
        return node, load_settings(OrchestratorSettings, folder / "orchestrator.toml", (*CONTRACT, *KEY)).chain

    assert [(chain.confirmations, chain.stall) for chain in chains(LOCAL)] == [(1, 0), (1, 0)]
    assert [(chain.confirmations, chain.stall) for chain in chains(LOCAL.parent)] == [(12, 120), (12, 120)]


def test_the_policy_of_transactions() -> None:
    section = ChainSection(contract=CONTRACT[1], max_fee_per_gas=9, max_priority_fee_per_gas=2, replace_after=60)
    assert section.policy() == TransactionPolicy(12, 9, 2, poll_seconds=4.0, replace_after_seconds=60)
    assert (section.domain.chain_id, section.domain.contract) == (31337, section.contract)
