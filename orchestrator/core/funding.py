"""What to do so that the contract holds enough, and what of the reserve to promise to whom: pure.

- Deposit and reserve are topped up to their level once they fall below a share of it, within a bound a day.
- A node is promised a trial, and on top of it what it has earned so far, up to the level: whoever makes nodes up has to
  do as much real work as it wants to be promised. Trials of nodes that have not yet earned as much share a part of the
  reserve, first come first served, and go back when nothing was earned in time; so a thousand made-up nodes
  hold that part for a while and no more.
- The sum of all allocations, lowerings under way included, never exceeds the reserve: the contract sees to it, and
  nothing is planned that it would refuse.
- What is promised to a node that is away or of no use for long is lowered, and freed once the lowering has taken
  effect.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tandem.protocol.signing import Address
from tandem.protocol.tickets import PAYMENT_WINNERS

_MOST_ALLOCATIONS = 100
"""In one transaction: at 50,000 gas each, well within what one may use. The others follow in the next."""


@dataclass(frozen=True, slots=True)
class FundingPolicy:
    """Levels and bounds; amounts in wei. A level of 0 is not kept."""

    deposit: int
    reserve: int
    allocation: int
    """What a node may be promised."""
    trial: int
    """Of it, without having earned anything."""
    trial_percent: int
    """The part of the reserve that all trials may take."""
    refill_below_percent: int
    """Of a level: what is above is left as it is."""
    max_a_day: int
    """What may be moved into the contract within any 24 hours."""
    idle_seconds: float
    """After which the allocation of a node that is away, or has not earned its trial, goes back."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the contract holds for the sender, in wei."""

    deposit: int
    reserve: int
    allocated: int
    """Lowerings that have not been freed included."""
    unlocking: bool


@dataclass(frozen=True, slots=True)
class Recipient:
    """A node, as far as its allocation goes."""

    node: Address
    allocation: int
    """Wei that it can draw, now."""
    lowered_to: int
    lowers_at: int | None
    """Seconds since the epoch; None unless a lowering is under way or was not freed yet."""
    connected: bool
    earned: int = 0
    """Wei, since the beginning."""
    active_at: float | None = None
    """Store time at which it last earned something or was promised more."""
    face_value: int = 0
    """Of its tickets, as agreed; 0 if nothing is."""

    @property
    def falls(self) -> bool:
        """A lowering is under way and has not taken effect."""
        return self.lowers_at is not None and self.allocation > self.lowered_to

    @property
    def to_be_freed(self) -> bool:
        """A lowering has taken effect, but still takes up its old part of the reserve."""
        return self.lowers_at is not None and not self.falls


@dataclass(frozen=True, slots=True)
class FundDeposit:
    amount: int


@dataclass(frozen=True, slots=True)
class FundReserve:
    amount: int


@dataclass(frozen=True, slots=True)
class Allocate:
    allocations: tuple[tuple[Address, int], ...]


Action = FundDeposit | FundReserve | Allocate


@dataclass(frozen=True, slots=True)
class FundingPlan:
    actions: tuple[Action, ...] = ()
    warnings: tuple[str, ...] = ()
    """What no action here can cure."""


def plan(held: Held, recipients: Sequence[Recipient], policy: FundingPolicy, *, spent: int, now: float) -> FundingPlan:
    """`spent`: wei moved into the contract within the last 24 hours."""
    if held.unlocking:
        return FundingPlan(
            warnings=("the sender's funds are being unlocked: nothing is funded or promised until that is cancelled",)
        )
    left = max(0, policy.max_a_day - spent)
    deposit = _refill(held.deposit, policy.deposit, policy)
    reserve = _refill(held.reserve, policy.reserve, policy)
    add_deposit = min(deposit, left)
    add_reserve = min(reserve, left - add_deposit)
    # First, since it costs gas alone; what is about to be added to the reserve is promised next time, once it is there.
    allocations, short = _allocations(held, recipients, policy, now)
    actions: list[Action] = [Allocate(allocations)] if allocations else []
    if add_deposit:
        actions.append(FundDeposit(add_deposit))
    if add_reserve:
        actions.append(FundReserve(add_reserve))
    warnings = []
    if add_deposit < deposit or add_reserve < reserve:
        warnings.append(
            f"deposit and reserve lack {deposit + reserve} wei, and funding.max_a_day leaves {left} of "
            f"{policy.max_a_day}: raise it, or look where the money goes"
        )
    return FundingPlan(tuple(actions), (*warnings, *short))


def target(recipient: Recipient, policy: FundingPolicy) -> int:
    """What the node should be promised, in wei, if there is room."""
    if not recipient.connected and not recipient.allocation:
        return 0
    return min(policy.allocation, policy.trial + recipient.earned)


def _refill(amount: int, level: int, policy: FundingPolicy) -> int:
    """What is missing to the level; nothing while there is enough."""
    return level - amount if amount * 100 < level * policy.refill_below_percent else 0


def _allocations(
    held: Held, recipients: Sequence[Recipient], policy: FundingPolicy, now: float
) -> tuple[tuple[tuple[Address, int], ...], tuple[str, ...]]:
    """What to set, and what there is no room for. Lowerings come first in one call: they free nothing at once."""
    if not policy.allocation:
        return (), tuple(_too_small(recipients))
    changes = [(each.node, each.lowered_to) for each in recipients if each.to_be_freed]
    changes += [(each.node, 0) for each in recipients if _goes_back(each, policy, now)]
    settled = {node for node, _ in changes}
    wanting = [each for each in recipients if each.node not in settled and _wants_more(each, policy)]
    free = held.reserve - held.allocated
    trials = held.reserve * policy.trial_percent // 100 - sum(
        each.allocation for each in recipients if _on_trial(each, policy)
    )
    refused = 0
    for each in sorted(wanting, key=lambda one: (_on_trial(one, policy), one.active_at or 0.0, one.node)):
        more = target(each, policy) - each.allocation
        room = min(free, trials) if _on_trial(each, policy) else free
        if more > room:
            refused += 1
            continue
        changes.append((each.node, target(each, policy)))
        free -= more
        trials -= more if _on_trial(each, policy) else 0
    changes = changes[:_MOST_ALLOCATIONS]
    changing = {node for node, _ in changes}
    left = [each for each in recipients if each.node not in changing]  # the others may turn to other terms
    return tuple(changes), (*_no_room(refused), *_too_small(left))


def _no_room(refused: int) -> Iterator[str]:
    if refused:
        yield (
            f"{refused} nodes wait for an allocation that the reserve has no room for: raise funding.reserve, or "
            "funding.trial_percent if they are new"
        )


def _too_small(recipients: Sequence[Recipient]) -> Iterator[str]:
    """Of connected nodes, which get no work for it."""
    for each in recipients:
        promised = each.lowered_to if each.falls else each.allocation
        least = PAYMENT_WINNERS * each.face_value
        if each.connected and promised < least:
            yield (
                f"the allocation of {each.node}, {promised} wei, is less than the {least} of {PAYMENT_WINNERS} winning "
                "tickets, without which it refuses payments: raise funding.allocation, or allocate by hand"
            )


def _on_trial(recipient: Recipient, policy: FundingPolicy) -> bool:
    return recipient.earned < policy.trial


def _goes_back(recipient: Recipient, policy: FundingPolicy, now: float) -> bool:
    """Whether an allocation that serves nobody is to be lowered now."""
    useful = recipient.connected and not _on_trial(recipient, policy)
    if useful or not recipient.allocation or recipient.lowers_at is not None:
        return False
    return recipient.active_at is not None and now - recipient.active_at >= policy.idle_seconds


def _wants_more(recipient: Recipient, policy: FundingPolicy) -> bool:
    """Connected, and promised so little of what it should be that a transaction is worth it."""
    wanted = target(recipient, policy)
    if not recipient.connected or not wanted:
        return False
    if recipient.falls:
        return not _on_trial(recipient, policy) and wanted >= recipient.allocation
    return recipient.allocation * 100 < wanted * policy.refill_below_percent
