"""Keeps deposit, reserve and allocations at their levels, or says what to do where it has no key to do it with.

One look: see to what is in flight, and go no further while anything is; read what the contract holds; decide; act. What
is planned is counted against the day's bound before it is sent, and sent through a journal in the store: a crash at any
point neither sends anything twice nor forgets what it spent.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.core.funding import Action, Allocate, FundDeposit, FundingPlan, FundingPolicy, Held, Recipient, plan
from orchestrator.core.records import AccountRecord
from orchestrator.ports.contract import TicketContract, Treasury
from orchestrator.ports.store import Store
from orchestrator.service.nodes import Nodes
from tandem import logging as log
from tandem.chain.broker import SenderFunds
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable, ConfigurationError
from tandem.protocol.signing import Address
from tandem.waiting import happens

logger = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0
_POLL_SECONDS = 60.0
_LEAST_PAUSE_SECONDS = 5.0
"""However many nodes connect."""
_IN_FLIGHT_PAUSE_SECONDS = 15.0
_LONGEST_PAUSE_SECONDS = 600.0


class FundsWatcher:
    """`treasury` None: it only warns. `advice` are the words of the command that does by hand what an action does."""

    def __init__(
        self,
        store: Store,
        contract: TicketContract,
        nodes: Nodes,
        clock: Clock,
        policy: FundingPolicy,
        treasury: Treasury | None,
        advice: Sequence[str],
    ) -> None:
        self._store = store
        self._contract = contract
        self._nodes = nodes
        self._clock = clock
        self._policy = policy
        self._treasury = treasury
        self._advice = advice
        self._failures = 0
        self._in_flight = False
        self._warned: frozenset[str] = frozenset()
        self._read: dict[Address, tuple[AccountRecord | None, SenderFunds]] = {}
        """What each node was promised, and how its account was then: every event that changes the one is seen in the
        other, so a thousand idle nodes are asked about once."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            if self._failures:
                await self._clock.sleep(min(_POLL_SECONDS * (1 << min(self._failures, 16)), _LONGEST_PAUSE_SECONDS))
                continue
            await self._clock.sleep(_LEAST_PAUSE_SECONDS)
            longest = _IN_FLIGHT_PAUSE_SECONDS if self._in_flight else _POLL_SECONDS
            await happens(self._nodes.arrived, self._clock, longest - _LEAST_PAUSE_SECONDS)
            self._nodes.arrived.clear()

    async def look(self) -> None:
        """Once. A chain that does not answer, or a transaction that it refuses, is tried again later."""
        try:
            self._in_flight = self._treasury is not None and not await self._treasury.settle()
            if not self._in_flight:
                await self._act(await self._plan())
        except (ChainUnavailable, ChainError, ConfigurationError) as error:
            self._failures += 1
            if self._failures == 1:  # once, until it works again
                log.event(logger, "funds_watch_failed", level=logging.WARNING, detail=str(error))
            return
        self._failures = 0

    async def _plan(self) -> FundingPlan:
        now = await self._store.now()
        block = await self._contract.head()
        funds = await self._contract.funds(self._contract.sender, block)
        held = Held(funds.deposit, funds.reserve, funds.allocated, funds.unlock_at is not None)
        recipients = await self._recipients(block)
        spent = await self._store.spent_since(now - _DAY_SECONDS)
        return plan(held, recipients, self._policy, spent=spent, now=now)

    async def _act(self, decided: FundingPlan) -> None:
        treasury = self._treasury
        if treasury is None:
            self._warn({_topic(action): self._by_hand(action) for action in decided.actions}, decided.warnings)
            return
        self._warn({}, decided.warnings)
        refused = None
        for action in decided.actions:
            try:
                await self._send(treasury, action)
            except ChainError as error:  # what one action lacks, such as funds, another may not need
                refused = refused or error
        if refused is not None:
            raise refused

    async def _send(self, treasury: Treasury, action: Action) -> None:
        amount = 0 if isinstance(action, Allocate) else action.amount
        spending = await self._store.spend(amount) if amount else None
        try:
            await treasury.submit(action)
        except (ChainUnavailable, ChainError):  # then nothing was sent
            if spending is not None:
                await self._store.unspend(spending)
            raise
        if isinstance(action, Allocate):
            for node, _ in action.allocations:
                self._read.pop(node, None)
        log.event(logger, "funds_moved", action=_topic(action), wei=amount or None)

    async def _recipients(self, block: int) -> list[Recipient]:
        """All that are connected, and all others to whom something may be promised."""
        accounts = {account.node: account for account in await self._store.accounts()}
        connected = {node.address for node in self._nodes}
        promised = {node for node, account in accounts.items() if account.active_at is not None}
        return [
            _recipient(
                node, await self._promised(node, accounts.get(node), block), accounts.get(node), node in connected
            )
            for node in sorted(promised | connected)
        ]

    async def _promised(self, node: Address, account: AccountRecord | None, block: int) -> SenderFunds:
        if node in self._read:
            then, funds = self._read[node]
            if then == account and funds.lowers_at is None:  # a lowering takes effect without an event
                return funds
        funds = await self._contract.funds(node, block)
        self._read[node] = account, funds
        return funds

    def _warn(self, commands: Mapping[str, str], warnings: Iterable[str]) -> None:
        """What was not said before. What is no longer so may be said again."""
        said = {*commands, *warnings}
        for topic in sorted(said - self._warned):
            log.event(
                logger,
                "funds_low",
                level=logging.WARNING,
                detail=f"{topic}; run: {commands[topic]}" if topic in commands else topic,
            )
        if self._warned and not said:
            log.event(logger, "funds_sufficient")
        self._warned = frozenset(said)

    def _by_hand(self, action: Action) -> str:
        account = " ".join(self._advice)
        if isinstance(action, Allocate):
            pairs = " ".join(f"{node} {amount}" for node, amount in action.allocations)
            return f"tandem chain allocate {account} {pairs}"
        what = "deposit" if isinstance(action, FundDeposit) else "reserve"
        return f"tandem chain fund {account} --sender {self._contract.sender} --{what} {action.amount}"


def _topic(action: Action) -> str:
    """The same for as long as the same is to be done, though amounts may change."""
    if isinstance(action, Allocate):
        return f"allocations to change: {', '.join(node for node, _ in action.allocations)}"
    return "the deposit is low" if isinstance(action, FundDeposit) else "the reserve is low"


def _recipient(node: Address, funds: SenderFunds, account: AccountRecord | None, connected: bool) -> Recipient:
    return Recipient(
        node=node,
        allocation=funds.allocation,
        lowered_to=funds.lowered_to,
        lowers_at=funds.lowers_at,
        connected=connected,
        earned=account.earned if account else 0,
        active_at=account.active_at if account else None,
        face_value=account.params.face_value if account and account.params else 0,
    )
