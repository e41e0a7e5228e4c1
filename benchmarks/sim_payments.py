"""One orchestrator, many nodes, very many tickets, and every winner redeemed: what is paid against what was earned.

Tickets pay on average what was earned; how far a node's luck may carry it from that is a formula,
sqrt((1 - p) / (p N)) of what it earned, for N tickets that win with probability p. Here it is put to the test with the
real parts of both sides (`payments.py`), a real contract on a local chain, and the ledger, which must balance to the
wei. `make simulate` runs it.
"""

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console
from rich.table import Table

from benchmarks.market import load
from benchmarks.payments import LIFETIME, Earning, Paying, open_nodes, open_orchestrator
from node.core.terms import Stakes
from node.ports.tickets import TicketTotals
from orchestrator.core.paying import PayingPolicy
from orchestrator.core.reconciliation import Reconciliation
from orchestrator.core.records import AccountRecord
from orchestrator.core.session import Identity
from tandem.chain.broker import TicketBroker, deployment
from tandem.chain.rpc import connect
from tandem.chain.settings import ChainSection
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import win_prob_from_odds
from tandem.protocol.units import format_amount
from tests.fixtures.anvil import Anvil, run_anvil, transaction_sender

_UNLOCK_PERIOD = 2 * LIFETIME
_FACE_VALUE = 10**16
_GAS_MONEY = 10**18
_AT_ONCE = 16
_SHOWN = 11
"""Nodes in the table, from the unluckiest to the luckiest."""


@dataclass(frozen=True, slots=True)
class Size:
    nodes: int = 200
    tickets: int = 1_000_000
    """Of all nodes together."""
    odds: int = 100
    """One in so many wins."""
    rounds: int = 4
    """After each of which nodes issue other terms and redeem what they have won under the old ones."""
    attempts: int = 4
    """Of a node in a round, of very different prices."""

    @property
    def per_node(self) -> int:
        return self.tickets // self.nodes

    @property
    def value(self) -> int:
        """Wei that a ticket is worth on average."""
        return _FACE_VALUE * win_prob_from_odds(self.odds) >> 256

    def deviation(self, count: int) -> float:
        """Predicted, of what so many tickets pay relative to what they are worth."""
        p = win_prob_from_odds(self.odds) / 2**256
        return math.sqrt((1 - p) / (p * count))

    def deposit(self) -> int:
        """Wei: what all winners are expected to take, and twelve deviations more."""
        return int(self.tickets * self.value * (1 + 12 * self.deviation(self.tickets)))

    def allocation(self) -> int:
        """Wei promised to a node: the winners of a round, even a very lucky one."""
        mean = self.per_node / self.rounds / self.odds
        return _FACE_VALUE * math.ceil(mean + 10 * math.sqrt(mean) + 10)


@dataclass(frozen=True, slots=True)
class NodeFigures:
    address: str
    tickets: int
    winners: int
    earned: int
    """Wei, as all amounts."""
    paid: int
    z: float
    """The relative deviation of what was paid from what was earned, in predicted deviations."""


@dataclass(frozen=True, slots=True)
class Report:
    size: Size
    nodes: Sequence[NodeFigures]
    transactions: int
    """That redeemed."""
    ledger: Reconciliation
    disagreements: Sequence[str]
    """Wherever ledger, contract and the nodes' books do not say the same to the wei; empty if all is well."""
    seconds: Mapping[str, float]
    """By what they were spent on."""

    @property
    def earned(self) -> int:
        return sum(node.earned for node in self.nodes)

    @property
    def paid(self) -> int:
        return sum(node.paid for node in self.nodes)

    @property
    def z(self) -> float:
        return (self.paid / self.earned - 1) / self.size.deviation(self.size.per_node * self.size.nodes)

    def share_within(self, deviations: float) -> float:
        return fmean(abs(node.z) <= deviations for node in self.nodes)


class Simulation:
    """All of it, step by step."""

    def __init__(self, size: Size, paying: Paying, nodes: Sequence[Earning]) -> None:
        self._size = size
        self._paying = paying
        self._nodes = nodes
        self._transactions = 0
        self._seconds: dict[str, float] = {}
        self._random = random.Random(1)  # noqa: S311 - prices are no secret

    async def run(self) -> Report:
        size = self._size
        prices = {node.address: self._prices() for node in self._nodes}
        for number in range(size.rounds):
            with self._timed("terms"):
                await _each(self._nodes, self._agree)
            for attempt in range(number * size.attempts, (number + 1) * size.attempts):
                with self._timed("attempts accepted"):
                    await self._paying.earn({node: prices[node][attempt] for node in prices})
                with self._timed("tickets signed, checked, written by both"):
                    await _each(self._nodes, self._settle_up)
        with self._timed("terms"):
            await _each(self._nodes, self._agree)
        with self._timed("ledger read from the chain, added up"):
            await self._paying.watch()
            return await self._report()

    def _prices(self) -> list[int]:
        """What the attempts of a node earn: all its tickets, cut at random."""
        size = self._size
        cuts = sorted(self._random.sample(range(1, size.per_node), size.rounds * size.attempts - 1))
        ends = [0, *cuts, size.per_node]
        return [(end - begin) * size.value for begin, end in pairwise(ends)]

    async def _agree(self, node: Earning) -> None:
        """Other terms, and what was won under the old ones redeemed."""
        await self._paying.adopt(node.address, await node.terms(Stakes(_FACE_VALUE, self._size.odds)))
        transactions = await node.redeem()
        self._transactions += transactions
        await node.look()

    async def _settle_up(self, node: Earning) -> None:
        while (payment := await self._paying.pay(node.address)) is not None:
            receipt = await node.take(payment)
            await self._paying.store.record_receipt(node.address, receipt.id, None)

    async def _report(self) -> Report:
        ledger = await self._paying.reconcile()
        disagreements = list(ledger.differences)
        if ledger.debits != ledger.credits:
            disagreements.append(f"debits {ledger.debits} and credits {ledger.credits} wei")
        figures = []
        for node in self._nodes:
            account = await self._paying.store.account(node.address)
            totals = await node.store.totals(time.time())
            disagreements += _disagreements(account, totals)
            luck = account.redeemed / account.earned - 1
            deviations = luck / self._size.deviation(totals.tickets)
            figures.append(
                NodeFigures(node.address, totals.tickets, totals.winners, account.earned, account.redeemed, deviations)
            )
        figures.sort(key=lambda each: each.z)
        return Report(self._size, figures, self._transactions, ledger, disagreements, self._seconds)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._seconds[what] = self._seconds.get(what, 0.0) + time.perf_counter() - begun


def _disagreements(account: AccountRecord, totals: TicketTotals) -> list[str]:
    """Between the ledger and a node's own books."""
    books = {
        "earned and signed": (account.earned, account.issued),
        "signed and received": (account.issued, totals.received),
        "redeemed by the ledger and by the node": (account.redeemed, totals.redeemed),
        "redeemed and won": (account.redeemed, totals.winners * _FACE_VALUE),
    }
    return [f"{account.node}, {what}: {one} and {other} wei" for what, (one, other) in books.items() if one != other]


async def _each(nodes: Sequence[Earning], act: Callable[[Earning], Awaitable[None]]) -> None:
    """Some nodes at once: one waits for its disk while another computes, and the chain's endpoint keeps up."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def run(node: Earning) -> None:
        async with room:
            await act(node)

    async with asyncio.TaskGroup() as group:
        for node in nodes:
            group.create_task(run(node))


async def simulate(folder: Path, anvil: Anvil, size: Size) -> Report:
    """On a contract of its own, with new stores in the folder."""
    sender, signer = anvil.keys[0], SigningKey.generate()
    keys = [SigningKey.generate() for _ in range(size.nodes)]
    for key in keys:
        anvil.rpc("anvil_setBalance", key.address, hex(_GAS_MONEY))
    async with connect(anvil.url) as chain:
        transactions = transaction_sender(chain, sender)
        deployed = await transactions.send(deployment(_UNLOCK_PERIOD), "deploy")
        assert deployed.contract is not None  # noqa: S101 - it was mined
        broker = TicketBroker(chain, deployed.contract)
        allocations = [(key.address, size.allocation()) for key in keys]
        calls = [
            broker.fund_deposit(sender.address, size.deposit()),
            broker.fund_reserve(sender.address, size.nodes * size.allocation()),
            broker.authorise_signer(signer.address),
            *(broker.allocate(allocations[first : first + 100]) for first in range(0, size.nodes, 100)),
        ]
        for call in calls:
            await transactions.send(call, "fund")
        identity = Identity(signer, sender.address, broker.domain, "http://127.0.0.1")
        policy = PayingPolicy(max_ahead=10 * size.value, max_face_value=_FACE_VALUE)
        settings = ChainSection(rpc=(anvil.url,), contract=broker.address, confirmations=1, stall=0)
        async with (
            open_orchestrator(folder, settings, identity, policy) as paying,
            open_nodes(folder, settings, identity, keys) as nodes,
        ):
            return await Simulation(size, paying, nodes).run()


def show(report: Report, console: Console) -> None:
    size = report.size
    winners = sum(node.winners for node in report.nodes)
    console.print(
        f"{size.nodes} nodes, {size.tickets:,} tickets of which one in {size.odds} wins, "
        f"{winners:,} winners redeemed in {report.transactions:,} transactions; {load()}"
    )
    console.print(
        f"paid / earned = {format_amount(report.paid)} / {format_amount(report.earned)} = "
        f"{report.paid / report.earned:.6f}; predicted 1 ± {size.deviation(size.tickets):.6f}: "
        f"{report.z:+.2f} deviations"
    )
    ledger = report.ledger
    assert ledger.contract is not None  # noqa: S101 - it was asked
    console.print(
        f"ledger: {ledger.entries:,} entries, debits less credits {ledger.debits - ledger.credits} wei; the contract "
        f"holds {ledger.contract.deposit + ledger.contract.reserve - ledger.chain} wei more than it says"
    )
    console.print("\n".join(report.disagreements) or "all books agree to the wei")
    console.print(_shares(report))
    console.print(_some_nodes(report))
    table = Table(title="Where the time went", title_justify="left")
    table.add_column("")
    table.add_column("s", justify="right")
    for what, seconds in report.seconds.items():
        table.add_row(what, f"{seconds:.1f}")
    console.print(table)


def _shares(report: Report) -> Table:
    scores = [node.z for node in report.nodes]
    table = Table(title="Deviations of the nodes, in predicted ones", title_justify="left")
    for column in ("", "mean", "sd", "within 1", "within 2", "within 3"):
        table.add_column(column, justify="right")
    shares = [f"{report.share_within(deviations):.1%}" for deviations in (1, 2, 3)]
    table.add_row("measured", f"{fmean(scores):+.3f}", f"{stdev(scores):.3f}", *shares)
    normal = [f"{math.erf(deviations / math.sqrt(2)):.1%}" for deviations in (1, 2, 3)]
    table.add_row("normal", "0", "1", *normal)
    return table


def _some_nodes(report: Report) -> Table:
    predicted = report.size.deviation(report.size.per_node)
    table = Table(title=f"Nodes from the unluckiest on; predicted for each: 1 ± {predicted:.3f}", title_justify="left")
    for column in ("node", "tickets", "winners", "earned", "paid", "ratio", "deviations"):
        table.add_column(column, justify="right")
    for node in _spread(report.nodes):
        amounts = (f"{amount / 10**18:.3f}" for amount in (node.earned, node.paid))
        counts = (f"{node.tickets:,}", str(node.winners))
        table.add_row(node.address[:8], *counts, *amounts, f"{node.paid / node.earned:.3f}", f"{node.z:+.2f}")
    return table


def _spread(nodes: Sequence[NodeFigures]) -> Sequence[NodeFigures]:
    count = min(_SHOWN, len(nodes))
    return [nodes[round(index * (len(nodes) - 1) / max(1, count - 1))] for index in range(count)]


def main() -> None:
    parser, usual = argparse.ArgumentParser(description=__doc__.splitlines()[0]), Size()
    for name in ("nodes", "tickets", "odds", "rounds"):
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name), help="default %(default)s")
    size = Size(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as folder, run_anvil() as anvil:
        report = asyncio.run(simulate(Path(folder), anvil, size))
    show(report, Console())
    if report.disagreements:
        sys.exit("expected all books to agree")


if __name__ == "__main__":
    main()
