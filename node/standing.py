"""What `tandem node status` says: from the ticket store, also while the node runs, and from the chain if it answers."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from node.adapters.contract import EthereumTicketContract
from node.adapters.ticket_store import SqliteTicketStore
from node.core.acceptance import Backing
from node.core.exposure import Balance
from node.core.standing import Exposure, Note, Topic, chain_standing, obstacles
from node.settings import NodeSettings
from tandem.clock import Clock
from tandem.protocol.errors import ConfigurationError, TandemError
from tandem.protocol.signing import Address, SigningKey

_CHAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Wei:
    """Of everything that is said, these are amounts."""

    amount: int


@dataclass(frozen=True, slots=True)
class _Look:
    """At the chain; `failure` says why it came to nothing."""

    backing: Backing | None = None
    credit: int = 0
    failure: str | None = None


Shown = Wei | int | str | Mapping[str, int] | tuple[str, ...]

_WEI = frozenset(
    {"earned", "on_line", "lost", "received", "outstanding", "in_flight", "expired", "redeemed", "gas_spent"}
)


async def standing(settings: NodeSettings, key: SigningKey, clock: Clock) -> dict[str, Shown]:
    """By name, in the order in which it is shown. Raises ConfigurationError if there is no ticket store."""
    path = settings.data / "tickets.db"
    if not path.exists():
        raise ConfigurationError(f"expected a ticket store at {path}, found none; start the node first")
    async with SqliteTicketStore(path, key.address, settings.chain.domain) as store:
        notes = {note.topic: note for note in await store.notes()}
        totals = asdict(await store.totals(clock.now()))
        sender = settings.orchestrator.sender or _sender(notes)
        balance = await store.balance(sender) if sender else Balance()
        look = await _look(settings, key, store, clock, sender)
    shown: dict[str, Shown] = {"address": key.address}
    shown |= {name: Wei(value) if name in _WEI else value for name, value in totals.items()}
    shown |= {"unpaid": Wei(max(0, balance.unpaid)), "chain": chain_standing(notes, look.failure)}
    if look.backing is not None:
        shown["allocation"] = Wei(look.backing.promised)
    if look.credit:
        shown["credit"] = Wei(look.credit)
    tickets, promised = settings.tickets, look.backing.promised if look.backing else None
    exposure = Exposure(
        unpaid=balance.unpaid,
        most=tickets.max_unpaid,
        missed=balance.missed,
        outstanding=totals["outstanding"],
        promised=promised,
        face_value=tickets.min_face_value,
    )
    return shown | {"problems": obstacles(notes, exposure, clock.now())}


def _sender(notes: Mapping[str, Note]) -> Address | None:
    note = notes.get(Topic.SENDER)
    return note.text if note else None


async def _look(
    settings: NodeSettings, key: SigningKey, store: SqliteTicketStore, clock: Clock, sender: Address | None
) -> _Look:
    try:
        contract = EthereumTicketContract(settings.chain, key, store, clock)
        async with asyncio.timeout(_CHAIN_SECONDS), contract:
            credit = await contract.credit()
            return _Look(await contract.backing(sender, frozenset()) if sender else None, credit)
    except TandemError as error:
        return _Look(failure=error.detail)
    except TimeoutError:
        return _Look(failure=f"expected one within {_CHAIN_SECONDS:.0f} s")
