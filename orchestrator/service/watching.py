"""Reads the contract's events into the ledger: from a cursor in the store, a bounded range of blocks at a time.

Only blocks that are deep enough are read. The cursor's hash is compared with the chain's before every step, and a range
counts only if its last block is the same one before and after; so what is written belongs to one chain. Should blocks
vanish that were deep enough, their entries are taken back. The cursor moves in the transaction that writes the entries:
a crash at any point repeats nothing and leaves nothing out.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.core.records import ChainEvents, Cursor, Finding
from orchestrator.ports.contract import BlockRef, TicketContract
from orchestrator.ports.store import Store
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable, ConfigurationError

logger = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS = 300.0
_LOOK_BACK = 64


@dataclass(frozen=True, slots=True)
class WatchPolicy:
    confirmations: int
    """Blocks from an event's own on until it counts; 1 trusts the newest block."""
    most_blocks: int
    """Read in one step."""
    poll_seconds: float
    from_block: int | None = None
    """Where to begin; by default where the contract was deployed."""


@dataclass(frozen=True, slots=True)
class Watched:
    """How far the ledger is, for whoever runs it."""

    block_number: int
    seen_at: float
    """Seconds since the epoch: when the ledger was last found to be up to date with the chain."""
    deposit: int
    reserve: int
    allocated: int
    difference: int
    """Wei that the contract holds beyond what the ledger says, as of the block."""


class ChainWatcher:
    """`promised` is told of the recipients whose allocations have changed."""

    def __init__(
        self,
        store: Store,
        contract: TicketContract,
        clock: Clock,
        policy: WatchPolicy,
        promised: Callable[[Iterable[str]], None] | None = None,
    ) -> None:
        self._store = store
        self._contract = contract
        self._clock = clock
        self._policy = policy
        self._promised = promised
        self._step = policy.most_blocks
        self._failures = 0
        self._taken_back = False
        self.watched: Watched | None = None
        """None until the ledger was up to date for the first time since the start."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            more = await self.look()
            if not more:
                await self._clock.sleep(self._pause())

    async def look(self) -> bool:
        """One step; whether there is more to read at once. A chain that does not answer is asked again later."""
        try:
            more = await self.advance()
        except (ChainUnavailable, ChainError, ConfigurationError) as error:
            self._failed(error)
            return False
        if self._failures:
            log.event(logger, "chain_watch_resumed", failures=self._failures)
        self._failures = 0
        taken_back, self._taken_back = self._taken_back, False
        return more and not taken_back  # an endpoint that cannot make up its mind does not fill the ledger

    async def advance(self) -> bool:
        """Reads the next range of blocks. Raises what the contract's port does."""
        head = await self._contract.head()
        cursor = await self._store.cursor(self._contract.source) or await self._begin()
        if head < cursor.block_number:
            return False  # this endpoint is behind, or the chain is about to grow again from an earlier block
        if (await self._contract.block(cursor.block_number)).hash != cursor.block_hash:
            await self._take_back(cursor)
            self._taken_back = True
            return True
        last = min(head - self._policy.confirmations + 1, cursor.block_number + self._step)
        if last > cursor.block_number and not await self._read(cursor, last):
            return True
        if last < head - self._policy.confirmations + 1:
            return True
        await self._compare()
        return False

    async def _begin(self) -> Cursor:
        first = self._policy.from_block
        if first is None:
            first = await self._contract.first_block()
        before = await self._contract.block(max(first - 1, 0))
        cursor = Cursor(self._contract.source, before.number, before.hash)
        await self._store.begin_at(cursor)
        log.event(logger, "chain_watch_begun", block=before.number)
        return cursor

    async def _read(self, cursor: Cursor, last: int) -> bool:
        """Whether the range was read: not if the endpoint finds it too long."""
        target = await self._contract.block(last)
        try:
            events = await self._contract.events(cursor.block_number + 1, last)
        except ChainError:
            if self._step == 1:
                raise
            self._step = max(1, min(self._step, last - cursor.block_number) // 2)
            return False
        if not await self._is_one_chain(events, target):
            raise ChainUnavailable(f"expected one chain while events up to block {last} were read, got several")
        findings = await self._store.record_blocks(cursor, target.number, target.hash, events)
        if self._promised is not None:
            self._promised(events.recipients)
        self._step = min(2 * self._step, self._policy.most_blocks)
        if events.entries:
            log.event(logger, "chain_read", first=cursor.block_number + 1, last=last, entries=len(events.entries))
        _shout(findings)
        return True

    async def _is_one_chain(self, events: ChainEvents, target: BlockRef) -> bool:
        """Whether the last block, and every one that an entry names, are of the chain as it is now."""
        named = {BlockRef(each.block_number, each.block_hash) for each in events.entries} | {target}
        for each in sorted(named, key=lambda block: block.number):
            if await self._contract.block(each.number) != each:
                return False
        return True

    async def _take_back(self, cursor: Cursor) -> None:
        """To the newest block with entries that is still there."""
        ancestor = await self._ancestor(cursor)
        taken_back = await self._store.take_back(cursor, ancestor.number, ancestor.hash)
        log.event(
            logger,
            "chain_reorganised",
            level=logging.WARNING,
            block=cursor.block_number,
            back_to=ancestor.number,
            entries=taken_back,
            detail=f"expected block {cursor.block_number} to stay, since it was {self._policy.confirmations} deep; "
            "raise chain.confirmations if this happens again",
        )

    async def _ancestor(self, cursor: Cursor) -> BlockRef:
        below = cursor.block_number
        while blocks := await self._store.entry_blocks(cursor.source, below, _LOOK_BACK):
            for number, block_hash in blocks:
                if (await self._contract.block(number)).hash == block_hash:
                    return BlockRef(number, block_hash)
            below = blocks[-1][0]
        first = self._policy.from_block
        if first is None:
            first = await self._contract.first_block()
        return await self._contract.block(max(first - 1, 0))

    async def _compare(self) -> None:
        """The ledger is up to date: does the contract hold what it says?"""
        cursor = await self._store.cursor(self._contract.source)
        if cursor is None:
            return
        funds = await self._contract.funds(self._contract.sender, cursor.block_number)
        difference = funds.deposit + funds.reserve - cursor.balance
        if difference and (self.watched is None or self.watched.difference != difference):
            log.event(
                logger,
                "ledger_difference",
                level=logging.ERROR,
                block=cursor.block_number,
                wei=difference,
                detail="the contract and the ledger disagree; see `tandem orchestrator ledger`",
            )
        self.watched = Watched(
            cursor.block_number, self._clock.now(), funds.deposit, funds.reserve, funds.allocated, difference
        )

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:  # once, until it works again
            log.event(logger, "chain_watch_failed", level=logging.WARNING, detail=str(error))

    def _pause(self) -> float:
        return min(self._policy.poll_seconds * (1 << min(self._failures, 16)), _LONGEST_PAUSE_SECONDS)


def _shout(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.unissued:
            log.event(
                logger,
                "unissued_tickets_redeemed",
                level=logging.ERROR,
                recipient=finding.recipient,
                tx_hash="0x" + finding.tx_hash.hex(),
                wei=finding.unissued,
                detail="the contract paid for tickets that this store never issued: somebody else holds the signing "
                "key, or the store is an old copy; revoke the signer, and see `tandem orchestrator ledger`",
            )
        if finding.voided:
            log.event(
                logger,
                "refused_tickets_redeemed",
                level=logging.WARNING,
                node=finding.recipient,
                tx_hash="0x" + finding.tx_hash.hex(),
                wei=finding.voided,
                detail="the node redeemed tickets that it had refused; the refusal is void",
            )
