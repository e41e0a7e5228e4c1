"""`tandem orchestrator ledger`, beside a store that is in use."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, generate_latest

from orchestrator.cli import orchestrator
from orchestrator.core.paying import PayingPolicy
from orchestrator.core.records import Failure
from orchestrator.service.meters import MoneyMeters
from tests.integration.orchestrator.chain import ETHER, FACE, Books, catch_up


async def ledger(books: Books, folder: Path, *flags: str, columns: int = 80, **settings: str) -> Result:
    said = {
        "data": str(folder),
        "chain.rpc": books.anvil.url,
        "chain.stall": "0",
        "chain.contract": books.broker.address,
        "chain.sender": books.operator.address,
        "chain.keystore": "unused",
        "chain.password-file": "unused",
    } | {name.replace("_", "."): value for name, value in settings.items()}
    words = [word for name, value in said.items() for word in (f"--{name}", value)]
    env = {"COLUMNS": str(columns)}
    return await asyncio.to_thread(CliRunner().invoke, orchestrator, ["ledger", *words, *flags], env=env)


async def test_it_shows_each_node_and_that_all_is_well(books: Books, tmp_path: Path) -> None:
    await books.fund()
    await books.redeem((await books.pay(3))[:1])
    await catch_up(books.watcher())
    shown = await ledger(books, tmp_path)
    assert max(map(len, shown.output.splitlines())) <= 80, shown.output
    for expected in (
        f"{books.node.address[:6]}…{books.node.address[-4:]}",
        "in ether, rounded",
        " 0.03000",
        " 0.02000",
    ):
        assert expected in shown.output
    shown = await ledger(books, tmp_path, "--wide")
    assert shown.exit_code == 0, shown.output
    for expected in (books.node.address, "0.01 ether", "no difference", f"reserve {ETHER // 10**18} ether"):
        assert expected in shown.output
    found = json.loads((await ledger(books, tmp_path, "--json")).stdout)
    (node,) = found["nodes"]
    assert (node["issued"], node["redeemed"], node["owed"]) == (str(books.value(3)), str(FACE), "0")
    assert found["chain"] == str(2 * ETHER - FACE)
    assert found["contract"] == {"deposit": str(ETHER - FACE), "reserve": str(ETHER), "allocated": "0"}
    assert found["debits"] == found["credits"]
    assert found["differences"] == []


async def test_a_difference_is_shown_and_is_exit_code_1(books: Books, tmp_path: Path) -> None:
    await books.fund()
    await books.redeem(books.forge(4))
    await catch_up(books.watcher())
    shown = await ledger(books, tmp_path)
    assert shown.exit_code == 1
    assert "DIFFERENCE" in shown.output
    assert "never issued here" in shown.output
    as_json = await ledger(books, tmp_path, "--json")
    assert as_json.exit_code == 1
    assert len(json.loads(as_json.stdout)["differences"]) == 1


async def test_it_says_when_the_chain_does_not_answer(books: Books, tmp_path: Path) -> None:
    await books.fund()
    await catch_up(books.watcher())
    shown = await ledger(books, tmp_path, chain_rpc="http://127.0.0.1:1")
    assert shown.exit_code == 3, shown.output
    assert "not compared: connecting" in shown.output
    found = json.loads((await ledger(books, tmp_path, "--json", chain_rpc="http://127.0.0.1:1")).stdout)
    assert found["contract"] is None
    assert "connecting" in found["not_compared"]


async def test_it_makes_no_store(books: Books, tmp_path: Path) -> None:
    shown = await ledger(books, tmp_path / "elsewhere")
    assert shown.exit_code == 1
    assert "expected a store at" in shown.output
    assert not (tmp_path / "elsewhere").exists()


async def test_meters_say_what_the_ledger_says(books: Books) -> None:
    await books.fund()
    await books.redeem((await books.pay(3))[:1])
    await books.pay(2, number=1)
    await books.store.record_receipt(books.node.address, 2, Failure("ticket_unfunded", "", retryable=False))
    registry, watcher = CollectorRegistry(), books.watcher()
    meters = MoneyMeters(registry, books.store, watcher, books.clock, PayingPolicy(max_ahead=1, max_face_value=FACE))
    books.clock.advance(7)
    await meters.measure()
    unread = said(registry)
    assert (unread["tandem_reserve_wei"], unread["tandem_chain_age_seconds"]) == ("NaN", "7.0")
    await catch_up(watcher)
    books.clock.advance(5)
    await meters.measure()
    values = said(registry)
    assert float(values["tandem_issued_wei"]) == pytest.approx(books.value(5))
    assert float(values["tandem_refused_wei"]) == pytest.approx(books.value(2))
    assert float(values["tandem_owed_wei"]) == pytest.approx(books.value(2))
    assert (values["tandem_ahead_wei"], values["tandem_overdrawn_nodes"]) == ("0.0", "1.0")
    assert float(values["tandem_redeemed_wei"]) == FACE
    assert float(values["tandem_reserve_wei"]) == ETHER
    assert float(values["tandem_difference_wei"]) == 0
    assert float(values["tandem_chain_block"]) == await books.chain.head()
    assert float(values["tandem_chain_age_seconds"]) == 5


def said(registry: CollectorRegistry) -> dict[str, str]:
    lines = generate_latest(registry).decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
