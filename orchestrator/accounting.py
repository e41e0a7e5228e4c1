"""The part of the composition that deals with the contract: the ledger's watcher and the funds'."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from orchestrator.adapters.contract import EthereumTicketContract, EthereumTreasury
from orchestrator.adapters.store import look_into_books
from orchestrator.core.funding import FundingPolicy
from orchestrator.core.paying import PayingPolicy
from orchestrator.core.reconciliation import Reconciliation, reconcile
from orchestrator.core.session import Identity
from orchestrator.ports.store import Store
from orchestrator.service.funding import FundsWatcher
from orchestrator.service.ledger import contract_figures
from orchestrator.service.meters import MoneyMeters
from orchestrator.service.nodes import Nodes
from orchestrator.service.watching import ChainWatcher, WatchPolicy
from orchestrator.settings import FundingSettings, OrchestratorSettings
from tandem import logging as log
from tandem.chain.keystore import load_keystore
from tandem.clock import Clock, SystemClock
from tandem.protocol.errors import ChainError, ChainUnavailable, ConfigurationError
from tandem.protocol.signing import Address, SigningKey

logger = logging.getLogger(__name__)


def store_url(data: Path) -> str:
    return f"sqlite:///{data.resolve() / 'tandem.db'}"


@dataclass(frozen=True, slots=True)
class Accounting:
    watcher: ChainWatcher
    funds: FundsWatcher
    registry: CollectorRegistry
    meters: MoneyMeters
    """Which are in it."""
    paying: PayingPolicy

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        return [self.watcher.run(), self.funds.run()]


@asynccontextmanager
async def accounting(
    settings: OrchestratorSettings, identity: Identity, clock: Clock, store: Store, nodes: Nodes
) -> AsyncIterator[Accounting]:
    """Raises ConfigurationError for a funding key that will not do."""
    key = await asyncio.to_thread(_funding_key, settings, identity)
    async with _contract(settings, identity.sender, clock) as contract:
        watcher = ChainWatcher(store, contract, clock, _watch_policy(settings), nodes.promised)
        treasury = None
        if key is not None:
            journal = store.journal(f"{settings.chain.chain_id}:{key.address}")
            treasury = EthereumTreasury(contract, key, journal, clock, settings.chain.policy())
        policy = _funding_policy(settings.funding)
        funds = FundsWatcher(store, contract, nodes, clock, policy, treasury, _advice(settings))
        registry = CollectorRegistry()
        paying = PayingPolicy(settings.payment.max_ahead, settings.payment.max_face_value)
        meters = MoneyMeters(registry, store, watcher, clock, paying)
        yield Accounting(watcher, funds, registry, meters, paying)


async def reconciled(settings: OrchestratorSettings) -> tuple[Reconciliation, str | None]:
    """The books beside the contract's figures, or the reason why these are not there."""
    clock = SystemClock()
    sender = settings.chain.sender
    if sender is None:
        key = await asyncio.to_thread(load_keystore, settings.chain.keystore, settings.chain.password_file)
        sender = key.address
    async with _contract(settings, sender, clock) as contract:
        books = await look_into_books(store_url(settings.data), contract.source)
        try:
            return reconcile(books, contract.source, await contract_figures(books, contract)), None
        except (ChainUnavailable, ChainError) as error:
            return reconcile(books, contract.source, None), error.detail


def _contract(settings: OrchestratorSettings, sender: Address, clock: Clock) -> EthereumTicketContract:
    return EthereumTicketContract(lambda: settings.chain.connect(clock), settings.chain.domain, sender)


def _watch_policy(settings: OrchestratorSettings) -> WatchPolicy:
    return WatchPolicy(
        confirmations=settings.chain.confirmations,
        most_blocks=settings.ledger.most_blocks,
        poll_seconds=settings.ledger.poll,
        from_block=settings.ledger.from_block,
    )


def _funding_policy(funding: FundingSettings) -> FundingPolicy:
    return FundingPolicy(
        deposit=funding.deposit,
        reserve=funding.reserve,
        allocation=funding.allocation,
        trial=funding.trial,
        trial_percent=funding.trial_percent,
        refill_below_percent=funding.refill_below_percent,
        max_a_day=funding.max_a_day,
        idle_seconds=funding.idle_after,
    )


def _funding_key(settings: OrchestratorSettings, identity: Identity) -> SigningKey | None:
    funding = settings.funding
    if funding.keystore is None or funding.password_file is None:
        return None
    key = load_keystore(funding.keystore, funding.password_file)
    if key.address != identity.sender:
        raise ConfigurationError(
            f"funding.keystore: expected the key of the sender {identity.sender}, whose reserve is promised to nodes, "
            f"got that of {key.address}: correct it, or chain.sender"
        )
    if key.address == identity.key.address:
        _demand_intent(settings, funding.keystore)
    return key


def _demand_intent(settings: OrchestratorSettings, keystore: Path) -> None:
    """A stolen signing key costs what the contract holds; one that also funds costs the account behind it."""
    if keystore.resolve() != settings.chain.keystore.resolve():
        raise ConfigurationError(
            "funding.keystore: expected another key than chain.keystore's, since the key that signs tickets is always "
            "at work; make one and `tandem chain authorise-signer` it, or name the same file twice to insist"
        )
    log.event(
        logger,
        "one_key_for_all",
        level=logging.WARNING,
        detail="the key that signs tickets can also withdraw and spend all that its account holds; use two keys, see "
        "`tandem chain authorise-signer`",
    )


def _advice(settings: OrchestratorSettings) -> tuple[str, ...]:
    """How to name endpoint, contract and key in a command. An endpoint's URL may hold a key of its own."""
    return (
        f'--rpc "$RPC" --chain-id {settings.chain.chain_id}',
        f"--contract {settings.chain.contract}",
        "--keystore KEYSTORE_OF_THE_SENDER",
        "--password-file ITS_PASSWORD_FILE",
    )
