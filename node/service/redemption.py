"""Redeems winners. The order is what matters: rotate, agree, close, reveal, write down."""

import logging
from collections.abc import Iterable
from itertools import groupby

from node.core.redemption import RedemptionPolicy, WinningSet, plan
from node.core.terms import recipient_rand
from node.ports.contract import TicketContract
from node.ports.tickets import TicketStore
from node.service.backing import BackingView
from node.service.terms import Terms
from tandem import logging as log
from tandem.chain.redemption import RedemptionResult
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable
from tandem.waiting import Bell

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 15.0
_MAX_WAIT_SECONDS = 600.0
"""Far less than winners have left once they are urgent, or they would expire during the wait."""
_AGREE_SECONDS = 120.0


class Redeemer:
    def __init__(
        self,
        store: TicketStore,
        contract: TicketContract,
        view: BackingView,
        terms: Terms,
        clock: Clock,
        *,
        policy: RedemptionPolicy,
        won: Bell,
    ) -> None:
        self._store = store
        self._contract = contract
        self._view = view
        self._terms = terms
        self._clock = clock
        self._policy = policy
        self._won = won
        self._recovered = False

    async def run(self) -> None:
        """Until cancelled. A chain that is away or refuses is asked again, less and less often."""
        wait = _LOOK_SECONDS
        while True:
            try:
                await self._round()
                wait = _LOOK_SECONDS
            except (ChainUnavailable, ChainError) as error:
                log.event(logger, "redemption_delayed", level=logging.WARNING, seconds=wait, detail=error.detail)
                await self._clock.sleep(wait)
                wait = min(2 * wait, _MAX_WAIT_SECONDS)
            await self._won.wait(_LOOK_SECONDS)

    async def _round(self) -> None:
        await self._recover()
        await self._store.prune(self._clock.now())
        for planned in await self._plans(await self._store.winners(self._clock.now())):
            await self._close(planned)
        epochs = await self._store.epochs()
        open_no_more = [won for won in await self._store.winners(self._clock.now()) if won.epoch <= epochs.closed]
        for planned in await self._plans(open_no_more):
            await self._redeem(planned)

    async def _recover(self) -> None:
        """Once: what an earlier process left in flight is paid by now, or will be; its winners wait for that."""
        if self._recovered:
            return
        for result in await self._contract.recover():
            await self._settle(result)
        self._recovered = True

    async def _plans(self, winners: Iterable[WinningSet]) -> list[tuple[WinningSet, ...]]:
        """What to redeem now, a transaction each: the winners of one sender."""
        plans = []
        for sender, sets in groupby(sorted(winners, key=_sender), key=_sender):
            backing = await self._view.read(sender)
            gas_price = await self._contract.gas_price()
            plans.append(plan(sets, backing, gas_price, self._clock.now(), self._policy))
        return [planned for planned in plans if planned]

    async def _close(self, planned: tuple[WinningSet, ...]) -> None:
        """Makes sure that what is to be revealed is not in use any more.

        A redemption is public from the moment it is sent, and who knows the random number can choose which tickets win.
        So the orchestrator is first given other terms, and says that it signs under those alone. If it does not answer
        in time, it is away or at odds: then the winners count for more than tickets that it may still have signed under
        the old terms, which are refused from here on, and which it makes good.
        """
        epochs = await self._store.epochs()
        if all(winning.epoch <= epochs.closed for winning in planned):
            return
        through = await self._terms.rotate()
        agreed = await self._terms.agreed(_AGREE_SECONDS)
        await self._store.close_epochs(through)
        log.event(logger, "epochs_closed", through=through, agreed=agreed)

    async def _redeem(self, planned: tuple[WinningSet, ...]) -> None:
        rands = tuple(recipient_rand(self._store.secret, winning.params, winning.epoch) for winning in planned)
        await self._settle(await self._contract.redeem(planned, rands))

    async def _settle(self, result: RedemptionResult) -> None:
        await self._store.settle(result, self._clock.now())
        self._view.forget()
        log.event(
            logger,
            "redemption",
            tx_hash="0x" + result.tx_hash.hex(),
            tickets=sum(len(paid.sender_nonces) for paid in result.paid),
            amount=result.amount_wei,
            gas_cost=result.gas_cost_wei,
            not_paid=[refused.reason.name.lower() for refused in result.not_paid] or None,
        )


def _sender(winning: WinningSet) -> str:
    return winning.params.sender
