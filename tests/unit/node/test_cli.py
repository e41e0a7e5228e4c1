import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner, Result

from node.adapters.ticket_store import SqliteTicketStore
from node.cli import node
from node.core.acceptance import check, fund
from tandem.chain.keystore import create_keystore
from tests.fixtures.node import ALWAYS, DOMAIN, NOW, SENDER, backing, payment, ref, terms, till

CONTRACT = ["--chain.contract", DOMAIN.contract]


def key_in(folder: Path) -> str:
    (folder / "key.password").write_text("secret\n")
    return create_keystore(folder / "key.json", folder / "key.password", work_factor=2)


async def _earn(folder: Path, address: str, **notes: str) -> None:
    params = terms(ALWAYS).model_copy(update={"recipient": address})
    async with SqliteTicketStore(folder / "tickets.db", address, DOMAIN) as store:
        own = replace(till(), recipient=address)
        checked = check(payment(params, range(2)), own, frozenset())
        await store.take(fund(checked, backing(), 0), bytes(32))
        await store.earn(SENDER.address, ref(), 5000)
        if notes:
            await store.note("alive", str(int(time.time())), NOW)
        for topic, text in notes.items():
            await store.note(topic, text, NOW)


def status(folder: Path, *flags: str) -> Result:
    nobody = ("--chain.rpc", "http://127.0.0.1:1")
    return CliRunner().invoke(node, ["status", *CONTRACT, *nobody, "--data", str(folder), *flags])


def test_status_shows_what_was_earned_and_received(tmp_path: Path) -> None:
    address = key_in(tmp_path)
    asyncio.run(_earn(tmp_path, address))
    result = status(tmp_path, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.output)
    assert (shown["address"], shown["earned"], shown["received"]) == (address, "5000", "1998")
    assert (shown["tickets"], shown["winners"], shown["attempts"]) == (2, 2, 1)
    assert shown["problems"] == ["the node is not running: start it with `tandem node run`"]
    text = status(tmp_path)
    assert "earned       5000 wei" in text.output
    assert "refused      none" in text.output


def test_status_answers_while_the_chain_does_not(tmp_path: Path) -> None:
    address = key_in(tmp_path)
    asyncio.run(_earn(tmp_path, address, chain="timeout", sender=SENDER.address, session="nobody there"))
    shown = json.loads(status(tmp_path, "--json").output)
    assert shown["chain"].startswith("no answer since 2027-01-15 08:00:00 UTC: ")
    assert shown["unpaid"] == "3002"
    assert [problem.split(",")[0] for problem in shown["problems"]] == [
        "no session with the orchestrator",
        "no RPC endpoint answers usefully; work goes on until too much is unpaid",
    ]
    assert "nobody there\n             no RPC endpoint" in status(tmp_path).output


def test_status_without_a_node_says_so(tmp_path: Path) -> None:
    key_in(tmp_path)
    result = CliRunner().invoke(node, ["status", *CONTRACT, "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "start the node first" in result.output


def test_the_key_command_names_the_address(tmp_path: Path) -> None:
    address = key_in(tmp_path)
    result = CliRunner().invoke(node, ["key", "create", *CONTRACT, "--data", str(tmp_path)])
    assert result.output == f"{address}\n"


def test_a_missing_setting_is_one_line() -> None:
    result = CliRunner().invoke(node, ["run"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: configuration_error: chain.contract")
