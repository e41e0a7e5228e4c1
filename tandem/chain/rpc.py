"""A chain over JSON-RPC: what is read from it, as types, and its errors mapped to Tandem's at this edge."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, cast

from eth_abi.exceptions import DecodingError
from hexbytes import HexBytes
from web3 import AsyncWeb3
from web3.exceptions import (
    BlockNotFound,
    ContractLogicError,
    RequestTimedOut,
    TooManyRequests,
    TransactionNotFound,
    Web3Exception,
    Web3RPCError,
)
from web3.types import BlockIdentifier, TxParams, TxReceipt

from tandem.chain.artifact import explain_revert
from tandem.chain.endpoints import Endpoint, FailoverProvider, WrongChain, session
from tandem.clock import Clock, SystemClock
from tandem.protocol.errors import (
    ChainError,
    ChainUnavailable,
    ConfigurationError,
    InsufficientFunds,
    TransactionReverted,
)
from tandem.protocol.signing import Address
from tandem.protocol.units import UINT256_MAX

INT64_MAX = 2**63 - 1
"""As much as a database holds: more blocks, seconds, transactions or gas than there will ever be."""
_SHOWN = 300


class PoolAnswer(StrEnum):
    """What a pool says of a transaction that it does not refuse for good."""

    ACCEPTED = "accepted"
    KNOWN = "already known"
    NONCE_TOO_LOW = "nonce too low"
    UNDERPRICED = "underpriced"


# Clients have words of their own for the same things, and no codes for them.
_POOL_ANSWERS = {
    PoolAnswer.KNOWN: re.compile(r"already ?(known|imported)|known transaction", re.IGNORECASE),
    PoolAnswer.NONCE_TOO_LOW: re.compile(r"(nonce (is )?too low|old ?nonce)", re.IGNORECASE),
    PoolAnswer.UNDERPRICED: re.compile(
        r"underpriced|replacement ?not ?allowed|could not replace|fee ?too ?low|less than block base fee", re.IGNORECASE
    ),
}
_INSUFFICIENT_FUNDS = re.compile(r"insufficient ?(funds|balance)|exceeds account balance", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Block:
    """`timestamp` in seconds since the epoch; `base_fee` in wei a unit of gas."""

    number: int
    hash: bytes
    timestamp: int
    base_fee: int


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain, over the endpoints in turn; calls on `web3` belong inside `chain_errors`.

    `witnesses` are the same chain over each endpoint alone, where there are several: for what must not rest on the
    word of one. Every read raises `ChainUnavailable` if no endpoint answers usefully, `ChainError` if it refuses.
    """

    web3: AsyncWeb3[FailoverProvider]
    chain_id: int
    witnesses: tuple["Chain", ...] = ()

    @property
    def rests(self) -> bool:
        """Whether all its endpoints failed a moment ago."""
        return self.web3.provider.rests

    async def head(self) -> int:
        """The number of the newest block."""
        return (await self.block("latest")).number

    async def timestamp(self) -> int:
        """The newest block's time, in seconds since the epoch: what expiries and unlocks are compared with."""
        return (await self.block("latest")).timestamp

    async def block(self, which: int | Literal["latest", "pending"]) -> Block:
        """A block by its number, the newest one, or the one that would be next."""
        with chain_errors(f"reading block {which}"):
            try:
                found = await self.web3.eth.get_block(cast(BlockIdentifier, which))
            except BlockNotFound as error:
                raise ChainUnavailable(f"expected a block {which}, the endpoint has none: use another one") from error
            block = Block(
                number=number(found["number"], INT64_MAX),
                hash=bytes(found.get("hash") or b""),  # none while it is pending
                timestamp=number(found["timestamp"], INT64_MAX),
                base_fee=number(found["baseFeePerGas"]),
            )
        if which not in {block.number, "latest", "pending"}:
            raise ChainUnavailable(f"expected block {which}, the endpoint answered with another: use another endpoint")
        return block

    async def balance(self, address: Address) -> int:
        """Wei that the account holds outside the contract."""
        with chain_errors("reading a balance"):
            return number(await self.web3.eth.get_balance(self.web3.to_checksum_address(address)))

    async def transaction_count(self, address: Address, block: int | Literal["latest", "pending"]) -> int:
        """How many transactions the account has made up to this block, which is the next one's tx_nonce."""
        with chain_errors("reading the account's nonce"):
            account = self.web3.to_checksum_address(address)
            count = await self.web3.eth.get_transaction_count(account, cast(BlockIdentifier, block))
            return number(count, INT64_MAX)

    async def receipt(self, tx_hash: bytes) -> TxReceipt | None:
        """What a mined transaction did; None if the endpoint knows of no such one."""
        with chain_errors("reading a receipt"):
            try:
                return await self.web3.eth.get_transaction_receipt(HexBytes(tx_hash))
            except TransactionNotFound:
                return None

    async def estimate_gas(self, fields: TxParams) -> int:
        """Raises `TransactionReverted` too, if the contract would refuse."""
        with chain_errors("estimating gas"):
            return number(await self.web3.eth.estimate_gas(fields), INT64_MAX)

    async def broadcast(self, raw: bytes) -> PoolAnswer:
        """Give a signed transaction to the endpoint's pool; raises `InsufficientFunds` too."""
        try:
            with chain_errors("sending a transaction"):
                await self.web3.eth.send_raw_transaction(HexBytes(raw))
        except ChainError as error:
            if _INSUFFICIENT_FUNDS.search(str(error)):
                raise InsufficientFunds(str(error)) from error
            for answer, words in _POOL_ANSWERS.items():
                if words.search(str(error)):
                    return answer
            raise
        return PoolAnswer.ACCEPTED


@asynccontextmanager
async def connect(
    *urls: str,
    chain_id: int | None = None,
    clock: Clock | None = None,
    stall: float = 0.0,
    timeout_seconds: float = 10.0,
) -> AsyncIterator[Chain]:
    """Connect to a chain over these endpoints, tried in turn: the expected one, or whichever the first one serves.

    `stall`: seconds by which an endpoint's newest block may be older or younger than now; 0 for any, as on a chain
    that makes blocks on demand. Raises `ChainUnavailable` if none answers, `ConfigurationError` if all serve another
    chain.
    """
    clock = clock or SystemClock()
    async with session(timeout_seconds) as http:
        endpoints = [Endpoint(url, http, clock, chain_id, stall) for url in urls]
        try:
            with chain_errors("connecting"):
                found = await _web3(endpoints).eth.chain_id
        except ChainUnavailable as error:
            if all(isinstance(endpoint.failure, WrongChain) for endpoint in endpoints):
                raise ConfigurationError(f"{error}, or correct the chain id") from error
            raise
        for endpoint in endpoints:
            endpoint.chain_id = found
        alone = tuple(Chain(_web3([endpoint]), found) for endpoint in endpoints)
        yield Chain(_web3(endpoints), found, alone if len(alone) > 1 else ())


@contextmanager
def chain_errors(doing: str) -> Iterator[None]:
    """Turn what web3 raises into Tandem's errors.

    `ChainUnavailable` if no endpoint answers usefully, `TransactionReverted` if the contract refuses, `ChainError` if
    the endpoint refuses.
    """
    try:
        yield
    except ContractLogicError as error:
        raise TransactionReverted(f"{doing}: the contract refused: {_reason(error)}") from error
    except ChainUnavailable as error:
        raise ChainUnavailable(f"{doing}: {error}") from error
    except (RequestTimedOut, TooManyRequests) as error:
        raise ChainUnavailable(f"{doing}: no answer in time: check the endpoint, or use another") from error
    except Web3RPCError as error:
        raise ChainError(f"{doing}: the endpoint answered {_shown(error.message)}") from error
    except (Web3Exception, DecodingError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # an answer of another shape makes web3 fail anywhere
        raise ChainUnavailable(f"{doing}: an answer that cannot be used ({_shown(error)}): use another one") from error


def number(said: object, most: int = UINT256_MAX) -> int:
    """What an endpoint said, if it is a number that can be; else ValueError, for `chain_errors`."""
    if type(said) is not int or not 0 <= said <= most:
        raise ValueError(f"expected a number of at most {most}, got {_shown(said)}")
    return said


def _web3(endpoints: Sequence[Endpoint]) -> AsyncWeb3[FailoverProvider]:
    return AsyncWeb3(FailoverProvider(endpoints))


def _reason(error: ContractLogicError) -> str:
    if isinstance(error.data, str) and error.data.startswith("0x"):
        return explain_revert(bytes.fromhex(error.data[2:]))
    return _shown(error.message or "no reason")


def _shown(said: object) -> str:
    text = " ".join(str(said).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
