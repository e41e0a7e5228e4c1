"""The [chain] section that the settings of both sides have in common."""

import json
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode
from yarl import URL

from tandem.chain.rpc import Chain, connect
from tandem.chain.transactions import TransactionPolicy
from tandem.clock import Clock
from tandem.protocol.signing import Address
from tandem.protocol.tickets import Domain
from tandem.protocol.units import Amount

Seconds = Annotated[float, Field(gt=0, le=10**7)]


def endpoint_url(text: str) -> str:
    """The URL of a JSON-RPC endpoint, or ValueError, which does not repeat it: it may hold a key."""
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("expected the URL of an endpoint, such as https://rpc.example")
    return text


def _one_or_several(said: Any) -> Any:
    """Flags and variables are text: one URL, several with commas between them, or JSON."""
    if not isinstance(said, str):
        return said
    return json.loads(said) if said.startswith("[") else said.split(",")


Endpoints = Annotated[
    tuple[Annotated[str, AfterValidator(endpoint_url)], ...],
    BeforeValidator(_one_or_several),
    Field(min_length=1, max_length=16),
    NoDecode,
]


class ChainSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rpc: Endpoints = ("http://127.0.0.1:8545",)
    """The Ethereum JSON-RPC endpoint, or several that are tried in turn; with several, no single one is believed about
    what became of a transaction."""
    chain_id: int = Field(default=31337, ge=1, lt=2**63)
    """The chain that the endpoints must serve."""
    contract: Address
    """The TicketBroker contract. A node never takes it from the orchestrator: who names it decides what is money."""
    max_fee_per_gas: Amount = 200 * 10**9
    """Wei a unit of gas; while gas costs more, transactions wait."""
    max_priority_fee_per_gas: Amount = 2 * 10**9
    """Wei a unit of gas that goes to the block's producer; the replacement of a stuck transaction offers more."""
    confirmations: int = Field(default=12, ge=1, le=120)
    """Blocks after which a transaction counts, its own included."""
    poll: Seconds = 4.0
    """Seconds between looks at the chain while a transaction is under way."""
    stall: float = Field(default=120.0, ge=0, le=10**7)
    """An endpoint whose newest block is this many seconds away from now has failed. 0: never, for a chain that makes
    blocks on demand."""
    replace_after: Seconds = 180.0
    """Seconds after which a transaction that was not mined is replaced by one that pays an eighth more, or what gas
    costs by then, within max_fee_per_gas."""

    @property
    def domain(self) -> Domain:
        return Domain(chain_id=self.chain_id, contract=self.contract)

    def policy(self) -> TransactionPolicy:
        return TransactionPolicy(
            confirmations=self.confirmations,
            max_fee_per_gas=self.max_fee_per_gas,
            max_priority_fee_per_gas=self.max_priority_fee_per_gas,
            poll_seconds=self.poll,
            replace_after_seconds=self.replace_after,
        )

    def connect(self, clock: Clock) -> AbstractAsyncContextManager[Chain]:
        """Raises what `connect` raises."""
        return connect(*self.rpc, chain_id=self.chain_id, clock=clock, stall=self.stall)
