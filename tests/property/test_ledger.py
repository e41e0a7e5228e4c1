"""The ledger over time: whatever nodes, senders and reorganisations do, it adds up, and to what the contract holds."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.adapters.store import open_store
from orchestrator.core.ledger import EntryKind
from orchestrator.core.reconciliation import ContractFigures, reconcile
from orchestrator.core.records import ChainEntry, ChainEvents, Failure
from orchestrator.ports.contract import BlockRef
from orchestrator.ports.store import Store
from orchestrator.service.watching import ChainWatcher, WatchPolicy
from tandem.chain.broker import SenderFunds
from tests.conformance.store.samples import NODE, PARAMS, earn, issue
from tests.fixtures.clock import ManualClock

FORGED = 10**6
"""Nonces from here on are never issued."""
FACE = PARAMS.face_value
REFUSED = Failure("ticket_unfunded", "no", retryable=False)
POLICY = WatchPolicy(confirmations=2, most_blocks=3, poll_seconds=1)


@dataclass
class Fork:
    """A chain that can be reorganised, and the contract on it. Every block is another one, also at the same height."""

    source: str = "1:0xc0:0x5e"
    sender: str = "0x5e"
    blocks: list[tuple[BlockRef, ChainEntry | None]] = field(default_factory=list)
    made: int = 0

    def mine(self, kind: EntryKind | None = None, amount: int = 0, nonces: tuple[int, ...] = ()) -> None:
        self.made += 1
        block = BlockRef(len(self.blocks), self.made.to_bytes(32))
        entry = None
        if kind is not None:
            entry = ChainEntry(kind, amount, block.number, block.hash, block.hash, 0)
        if nonces:
            entry = replace(entry, recipient=NODE, params_hash=PARAMS.hash(), sender_nonces=nonces)  # type: ignore[type-var]
        self.blocks.append((block, entry))

    def entries(self, last: int | None = None) -> list[ChainEntry]:
        return [entry for _, entry in self.blocks[: None if last is None else last + 1] if entry is not None]

    def held(self, last: int | None = None) -> int:
        return sum(entry.amount if entry.kind is EntryKind.FUNDED else -entry.amount for entry in self.entries(last))

    def redeemed(self) -> set[int]:
        return {nonce for entry in self.entries() for nonce in entry.sender_nonces}

    async def head(self) -> int:
        return len(self.blocks) - 1

    async def block(self, number: int) -> BlockRef:
        return self.blocks[number][0]

    async def first_block(self) -> int:
        return 1

    async def events(self, first: int, last: int) -> ChainEvents:
        return ChainEvents(tuple(entry for entry in self.entries(last) if entry.block_number >= first))

    async def funds(self, recipient: str, block: int | None = None) -> SenderFunds:  # noqa: ARG002
        return SenderFunds(self.held(block), 0, 0, 0, 0, None, None)

    async def credit(self, recipient: str) -> int:  # noqa: ARG002
        return 0


@dataclass
class Scene:
    store: Store
    fork: Fork
    watcher: ChainWatcher
    jobs: int = 0

    async def earn(self, amount: int) -> None:
        self.jobs += 1
        await earn(self.store, amount, self.jobs)

    async def issue(self, count: int) -> None:
        await self.store.decide_account(NODE, issue(count))

    async def answer(self, accepted: bool) -> None:
        for payment in (await self.store.open_payments(NODE))[:1]:
            await self.store.record_receipt(NODE, payment.id, None if accepted else REFUSED)

    async def redeem(self, wanted: Sequence[int]) -> None:
        issued = (await self.store.account(NODE)).next_nonce
        nonces = sorted(n for n in set(wanted) - self.fork.redeemed() if n < issued or n >= FORGED)
        if nonces and self.fork.held() >= len(nonces) * FACE:
            self.fork.mine(EntryKind.REDEEMED, len(nonces) * FACE, tuple(nonces))

    async def move(self, amount: int) -> None:
        if amount > 0:
            self.fork.mine(EntryKind.FUNDED, amount)
        elif self.fork.held() >= -amount:
            self.fork.mine(EntryKind.WITHDRAWN, -amount)

    async def reorganise(self, depth: int) -> None:
        for _ in range(min(depth, len(self.fork.blocks) - 1)):
            self.fork.blocks.pop()
        for _ in range(depth):
            self.fork.mine()

    async def watch(self, steps: int) -> None:
        for _ in range(steps):
            await self.watcher.advance()

    async def check(self) -> None:
        books = await self.store.books(self.fork.source)
        found = reconcile(books, self.fork.source, None)
        assert found.debits == found.credits
        assert [each for each in found.differences if "never issued" not in each] == []


async def play(steps: Sequence[tuple[str, Any]]) -> None:
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(f"sqlite:///{folder}/tandem.db", clock) as store:
            fork = Fork()
            fork.mine()
            scene = Scene(store, fork, ChainWatcher(store, fork, clock, POLICY))
            for name, value in steps:
                await getattr(scene, name)(value)
                await scene.check()
            await finish(scene)


async def finish(scene: Scene) -> None:
    """All is deep enough and read: nothing is left to explain but forged tickets."""
    fork, store = scene.fork, scene.store
    fork.mine()
    while await scene.watcher.advance():
        pass
    assert scene.watcher.watched is not None
    assert scene.watcher.watched.difference == 0
    books = await store.books(fork.source)
    found = reconcile(books, fork.source, ContractFigures(fork.held(), 0, 0))
    forged = len([nonce for nonce in fork.redeemed() if nonce >= FORGED])
    account = await store.account(NODE)
    assert account.redeemed == len(fork.redeemed()) * FACE
    assert account.unissued == forged * FACE
    assert bool(found.differences) == bool(forged)
    for payment in await store.payments_of(NODE):
        assert payment.receipt is not False or not fork.redeemed().intersection(payment.nonces)


nonces = st.lists(st.integers(0, 6) | st.integers(FORGED, FORGED + 1), min_size=1, max_size=3)
step = st.sampled_from(["earn", "issue", "answer", "redeem", "redeem", "move", "reorganise", "watch", "watch", "watch"])
VALUES = {
    "earn": st.integers(0, 2**80),
    "issue": st.integers(1, 3),
    "answer": st.booleans(),
    "redeem": nonces,
    "move": st.sampled_from([1, -1, FACE, -FACE]),
    "reorganise": st.integers(2, 6),
    "watch": st.integers(1, 3),
}
steps = st.lists(step.flatmap(lambda name: st.tuples(st.just(name), VALUES[name])), min_size=15, max_size=25)


@settings(max_examples=12, deadline=None)
@given(steps)
def test_the_ledger_is_what_the_contract_holds(steps: list[tuple[str, Any]]) -> None:
    asyncio.run(play([("move", 30 * FACE), ("issue", 3), ("issue", 3), ("answer", False), *steps]))
