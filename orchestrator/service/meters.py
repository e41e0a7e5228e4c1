"""Money in figures for Prometheus, brought up to date when they are read. Gauges are floats: the ledger is exact."""

from math import nan

from prometheus_client import CollectorRegistry, Gauge

from orchestrator.core.paying import PayingPolicy, overdrawn
from orchestrator.ports.store import Store
from orchestrator.service.watching import ChainWatcher
from tandem.clock import Clock

_ACCOUNTS = {
    "earned": "Wei earned by nodes.",
    "owed": "Wei earned by nodes and covered by no ticket.",
    "ahead": "Wei of expected value of tickets signed beyond what their nodes have earned.",
    "issued": "Wei of expected value of all tickets signed, refused ones included, as in /v1/nodes.",
    "refused": "Wei of it that nodes refused and did not redeem either.",
    "redeemed": "Wei paid by the contract for winning tickets.",
    "unissued": "Wei of it paid for tickets never issued here: above 0, somebody else has the signing key.",
}
_CONTRACT = {
    "deposit": "Wei in the contract, spent first.",
    "reserve": "Wei in the contract, behind the deposit.",
    "allocated": "Wei of the reserve promised to nodes.",
    "difference": "Wei that the contract holds beyond what the ledger says.",
}


class MoneyMeters:
    def __init__(
        self, registry: CollectorRegistry, store: Store, watcher: ChainWatcher, clock: Clock, policy: PayingPolicy
    ) -> None:
        self._store = store
        self._policy = policy
        self._watcher = watcher
        self._clock = clock
        texts = _ACCOUNTS | _CONTRACT
        self._money = {name: Gauge(f"tandem_{name}_wei", text, registry=registry) for name, text in texts.items()}
        self._overdrawn = Gauge(
            "tandem_overdrawn_nodes",
            "Nodes that get no work since they refused more in tickets than is made good.",
            registry=registry,
        )
        self._block = Gauge("tandem_chain_block", "The block that the ledger stands at.", registry=registry)
        self._age = Gauge(
            "tandem_chain_age_seconds",
            "Since the ledger was last up to date with the chain, or since the start.",
            registry=registry,
        )
        self._began = clock.now()
        for name in _CONTRACT:
            self._money[name].set(nan)  # until it is known: not 0, which would mean that there is none

    async def measure(self) -> None:
        accounts = await self._store.accounts()
        sums = {
            "earned": sum(account.earned for account in accounts),
            "owed": sum(max(0, account.totals.owed) for account in accounts),
            "ahead": sum(max(0, -account.totals.owed) for account in accounts),
            "issued": sum(account.issued for account in accounts),
            "refused": sum(account.refused for account in accounts),
            "redeemed": sum(account.redeemed for account in accounts),
            "unissued": sum(account.unissued for account in accounts),
        }
        self._overdrawn.set(sum(overdrawn(account, self._policy) for account in accounts))
        watched = self._watcher.watched
        if watched is not None:
            sums |= {name: getattr(watched, name) for name in _CONTRACT}
            self._block.set(watched.block_number)
        self._age.set(self._clock.now() - (watched.seen_at if watched else self._began))
        for name, wei in sums.items():
            self._money[name].set(wei)
