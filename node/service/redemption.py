"""Redeems winners. The order is what matters: rotate, agree, close, reveal, write down.

Nothing here waits for a transaction, or for an orchestrator: each round does what can be done now.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from node.core.redemption import Market, RedemptionPolicy, Setback, WinningSet, plan, waits_for_gas
from node.core.standing import Topic
from node.core.terms import recipient_rand
from node.ports.contract import RedemptionOutcome
from node.ports.tickets import TicketStore
from node.service.terms import Surroundings, Terms
from tandem import logging as log
from tandem.chain.events import Refusal
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable, FeeCapExceeded
from tandem.protocol.signing import Address
from tandem.waiting import Bell

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 15.0
_MAX_WAIT_SECONDS = 120.0
"""Far less than winners have left once they are urgent, or they would expire during the wait."""
_AGREE_SECONDS = 120.0
_MOST_AT_ONCE = 16
"""Transactions in a round."""
_LOOK_BACK_SECONDS = 60.0
_UNDONE_WITHIN_SECONDS = 3600.0
"""Reorganisations go no further back than this."""
_SET_BACK = (
    "the contract could not pay winners that were sent, for want of the sender's funds or of gas; they are sent again "
    "when it holds more, or after a while"
)


@dataclass(frozen=True, slots=True)
class _Rotation:
    """Other terms were sent out; once they are agreed, or at `deadline`, epochs up to `through` are closed."""

    through: int
    deadline: float


class Redeemer:
    """`bell` is rung when there is a winner, and when new terms are agreed."""

    def __init__(
        self,
        store: TicketStore,
        around: Surroundings,
        terms: Terms,
        clock: Clock,
        *,
        policy: RedemptionPolicy,
        bell: Bell,
    ) -> None:
        self._store = store
        self._around = around
        self._terms = terms
        self._clock = clock
        self._policy = policy
        self._bell = bell
        self._rotation: _Rotation | None = None
        self._sent: dict[int, tuple[Address, int]] = {}
        """By tx_nonce, whose winners are in it, and what was available for them."""
        self._setbacks: dict[Address, Setback] = {}
        self._set_back = False
        """Whether winners wait because of one."""
        self._dear = ""
        """Why winners wait for gas to be cheaper."""
        self._refused = False
        """Whether a transaction could not be sent in the last round."""
        self._looked_back_at: float | None = None

    async def run(self) -> None:
        """Until cancelled. A chain that is away is asked again, less and less often."""
        wait = _LOOK_SECONDS
        while True:
            try:
                await self._round()
                wait = _LOOK_SECONDS
                if self._around.notes.say(Topic.CHAIN):
                    log.event(logger, "chain_answers")
            except (ChainUnavailable, ChainError) as error:
                self._around.notes.say(Topic.CHAIN, error.detail)
                log.event(logger, "redemption_delayed", level=logging.WARNING, seconds=wait, detail=error.detail)
                await self._clock.sleep(wait)
                wait = min(2 * wait, _MAX_WAIT_SECONDS)
            await self._bell.wait(await self._pause())

    async def _pause(self) -> float:
        pause = self._policy.poll if await self._store.in_flight() else _LOOK_SECONDS
        if self._rotation is not None:
            pause = min(pause, max(0.0, self._rotation.deadline - self._clock.monotonic()))
        return pause

    async def _round(self) -> None:
        for outcome in await self._around.contract.outcomes():
            await self._settle(outcome)
        await self._look_back()
        await self._store.prune(self._clock.now())
        await self._around.gas.price()
        was_dear, self._dear = self._dear, ""
        if not self._refused or self._rotation is not None:  # else every winner would turn to new terms for nothing
            await self._close(await self._plans(await self._store.winners(self._clock.now())))
        await self._redeem_closed()
        if self._dear and not was_dear:
            log.event(logger, "redemption_waits_for_gas", level=logging.WARNING, detail=self._dear)

    async def _redeem_closed(self) -> None:
        """A sender whose winners cannot be sent does not stand in the way of others."""
        epochs, refused = await self._store.epochs(), set[Address]()
        for _ in range(_MOST_AT_ONCE):
            winners = await self._store.winners(self._clock.now())
            plans = await self._plans(
                won for won in winners if won.epoch <= epochs.closed and _sender(won) not in refused
            )
            if not plans:
                break
            if not await self._redeem(plans[0]):
                refused.add(_sender(plans[0][0]))
        self._refused = bool(refused)
        if not refused:
            self._around.notes.say(Topic.REDEMPTION, self._dear or (_SET_BACK if self._set_back else ""))

    async def _look_back(self) -> None:
        """A block that was deep enough may be undone all the same: what was paid in it is to be redeemed again."""
        now = self._clock.monotonic()
        if self._looked_back_at is not None and now - self._looked_back_at < _LOOK_BACK_SECONDS:
            return
        self._looked_back_at = now
        for paid in await self._store.paid_since(self._clock.now() - _UNDONE_WITHIN_SECONDS):
            if await self._around.contract.is_undone(paid):
                await self._store.take_back(paid)
                log.event(logger, "redemption_undone", level=logging.WARNING, tx_hash="0x" + paid.tx_hash.hex())

    async def _plans(self, winners: Iterable[WinningSet]) -> list[tuple[WinningSet, ...]]:
        """What to redeem now, a transaction each: the winners of one sender."""
        in_flight = await self._store.in_flight()
        self._set_back = False
        plans = []
        for sender, group in groupby(sorted(winners, key=_sender), key=_sender):
            sets = tuple(group)
            signers = frozenset[Address]().union(*(winning.signers for winning in sets))
            backing = await self._around.view.recent(sender, signers)
            now = self._clock.now()
            if not self._may_try(sender, backing.available, now):
                continue
            market = Market(backing, await self._around.gas.price(), now, in_flight.get(sender, 0))
            plans.append(plan(sets, market, self._policy))
            self._dear = self._dear or waits_for_gas(sets, market, self._policy)
        return [planned for planned in plans if planned]

    def _may_try(self, sender: Address, available: int, now: float) -> bool:
        setback = self._setbacks.get(sender)
        if setback is None or setback.is_over(available, now):
            return True
        self._setbacks[sender] = setback.see(available)
        self._set_back = True
        return False

    async def _close(self, plans: list[tuple[WinningSet, ...]]) -> None:
        """Makes sure that what is to be revealed is not in use any more.

        A redemption is public from the moment it is sent, and who knows the random number can choose which tickets win.
        So the orchestrator is first given other terms, and says that it signs under those alone. If it does not answer
        in time, it is away or at odds: then the winners count for more than tickets that it may still have signed under
        the old terms, which are refused from here on, and which it makes good.
        """
        if self._rotation is None:
            epochs = await self._store.epochs()
            if all(winning.epoch <= epochs.closed for planned in plans for winning in planned):
                return
            self._rotation = _Rotation(await self._terms.rotate(), self._clock.monotonic() + _AGREE_SECONDS)
        agreed = self._terms.agreed
        if agreed or self._clock.monotonic() >= self._rotation.deadline:
            await self._store.close_epochs(self._rotation.through)
            log.event(logger, "epochs_closed", through=self._rotation.through, agreed=agreed)
            self._rotation = None

    async def _redeem(self, planned: tuple[WinningSet, ...]) -> bool:
        """Whether it was sent; if not, nothing was spent, and the next round tries again."""
        sender = _sender(planned[0])
        backing = await self._around.view.recent(sender)
        rands = tuple(recipient_rand(self._store.secret, winning.params, winning.epoch) for winning in planned)
        try:
            tx_nonce = await self._around.contract.redeem(planned, rands)
        except (ChainError, FeeCapExceeded) as error:
            if self._around.notes.say(Topic.REDEMPTION, error.detail):
                log.event(logger, "redemption_refused", level=logging.WARNING, code=error.code, detail=error.detail)
            return False
        self._sent[tx_nonce] = sender, backing.available
        tickets = sum(len(winning.tickets) for winning in planned)
        log.event(logger, "redemption_sent", tx_nonce=tx_nonce, sets=len(planned), tickets=tickets)
        return True

    async def _settle(self, outcome: RedemptionOutcome) -> None:
        await self._store.settle(outcome, self._clock.now())
        await self._around.contract.acknowledge(outcome)
        self._around.view.forget()
        sender, available = self._sent.pop(outcome.tx_nonce, (None, 0))
        if sender is not None:
            self._learn(sender, available, outcome)
        _log(outcome)

    def _learn(self, sender: Address, available: int, outcome: RedemptionOutcome) -> None:
        result = outcome.result
        if result is None:
            return
        unfunded = any(refused.reason is Refusal.UNFUNDED for refused in result.not_paid)
        if unfunded or outcome.is_reverted:
            earlier = self._setbacks.get(sender)
            self._setbacks[sender] = Setback.after(earlier, available, self._clock.now())
        elif result.paid:
            self._setbacks.pop(sender, None)


def _log(outcome: RedemptionOutcome) -> None:
    result = outcome.result
    if result is None:
        log.event(logger, "redemption_displaced", level=logging.WARNING, tx_nonce=outcome.tx_nonce)
        return
    log.event(
        logger,
        "redemption",
        tx_nonce=outcome.tx_nonce,
        tx_hash="0x" + result.tx_hash.hex(),
        tickets=sum(len(paid.sender_nonces) for paid in result.paid),
        amount=result.amount_wei,
        gas_cost=result.gas_cost_wei,
        not_paid=[refused.reason.name.lower() for refused in result.not_paid] or None,
        reverted=outcome.is_reverted or None,
    )


def _sender(winning: WinningSet) -> Address:
    return winning.params.sender
