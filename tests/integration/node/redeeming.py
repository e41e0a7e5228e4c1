"""A redeemer on a real chain; as a process of its own it stops at a point that it is told, and waits to be killed."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from node.adapters.contract import EthereumTicketContract
from node.adapters.ticket_store import SqliteTicketStore
from node.core.acceptance import Till, check, fund
from node.core.redemption import RedemptionPolicy
from node.core.terms import Stakes, issue
from node.ports.contract import RedemptionOutcome
from node.service.backing import BackingView
from node.service.gas import GasMeter
from node.service.link import Link
from node.service.notes import Notes
from node.service.redemption import Redeemer
from node.service.terms import Surroundings, Terms
from tandem.chain.settings import ChainSection
from tandem.chain.transactions import SignedTransaction
from tandem.clock import SystemClock
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import TicketParams
from tandem.waiting import Bell
from tests.fixtures.node import backing, payment, policy_for, until

FACE = 10**16
STAKES = Stakes(FACE, 1)
POLICY = RedemptionPolicy(gas_percent=100, urgent_before=10, poll=0.02)


class StoppingStore(SqliteTicketStore):
    """Says that it has come to the point, and goes no further."""

    point = ""

    async def record(self, transaction: SignedTransaction) -> None:
        await super().record(transaction)
        await self._stop("journalled")

    async def settle(self, outcome: RedemptionOutcome, now: float) -> None:
        await self._stop("mined")
        await super().settle(outcome, now)
        await self._stop("settled")

    async def in_flight(self) -> dict[str, int]:  # asked for when a round is over
        found = await super().in_flight()
        if found:
            await self._stop("broadcast")
        return dict(found)

    async def _stop(self, point: str) -> None:
        if point == self.point:
            print(point, flush=True)  # noqa: T201 - what the parent waits for
            await asyncio.Event().wait()


@asynccontextmanager
async def redeeming(
    store: SqliteTicketStore, chain: ChainSection, key: SigningKey, policy: RedemptionPolicy = POLICY
) -> AsyncIterator[Bell]:
    """The redeemer of a node without an orchestrator at work; the bell gives it another look."""
    clock, link = SystemClock(), Link()
    bell = Bell(clock)
    async with EthereumTicketContract(chain, key, store, clock) as contract:
        view = BackingView(contract, clock, refresh=0.0)
        around = Surroundings(contract, view, GasMeter(store, contract, clock), Notes(store, clock))
        terms = Terms(store, around, link, clock, recipient=key.address, policy=policy_for(STAKES), agreed_bell=bell)
        redeemer = Redeemer(store, around, terms, clock, policy=policy, bell=bell)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(redeemer.run())
            yield bell
            task.cancel()


async def rounds(bell: Bell, count: int = 1) -> None:
    """Lets the redeemer look again, so many times from beginning to end."""
    for _ in range(count + 1):
        bell.ring()
        await until(lambda: not bell._rung.is_set())


async def win(
    store: SqliteTicketStore,
    chain: ChainSection,
    node: SigningKey,
    sender: str,
    signer: SigningKey,
    nonces: Iterable[int],
    *,
    lifetime: int = 1000,
) -> TicketParams:
    """Winners of an epoch that is closed, so that they may be redeemed."""
    epochs = await store.epochs()
    now = SystemClock().now()
    params = issue(STAKES, store.secret, sender, node.address, epochs.current, int(now) + lifetime)
    till = Till(chain.domain, store.secret, sender, node.address, epochs, now, 1.0)
    message = payment(params, nonces, number=epochs.current, key=signer, domain=chain.domain)
    covered = replace(backing(10**20), signers={signer.address: 2**64 - 1})
    await store.take(fund(check(message, till, frozenset()), covered, 0), bytes(32))
    await store.close_epochs((await store.rotate()).current - 1)
    return params


async def _main(path: str, url: str, contract: str, secret: str, point: str) -> None:
    chain = ChainSection(rpc=(url,), contract=contract, confirmations=1, poll=0.02, stall=0)
    key = SigningKey.from_bytes(bytes.fromhex(secret))
    store = StoppingStore(Path(path), key.address, chain.domain)
    store.point = point
    async with store, redeeming(store, chain, key):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
