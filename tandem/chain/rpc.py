"""An Ethereum endpoint over JSON-RPC, its errors mapped to Tandem's at this edge."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from aiohttp import ClientError, ClientTimeout
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import ContractLogicError, RequestTimedOut, TooManyRequests, Web3Exception, Web3RPCError

from tandem.chain.artifact import explain_revert
from tandem.protocol.errors import ChainError, ChainUnavailable, ConfigurationError, TransactionReverted
from tandem.protocol.signing import Address


@dataclass(frozen=True, slots=True)
class Chain:
    """A connection to one chain; calls on `web3` belong inside `chain_errors`."""

    web3: AsyncWeb3[AsyncHTTPProvider]
    url: str
    chain_id: int

    async def head(self) -> int:
        """The number of the newest block."""
        with chain_errors("reading the newest block"):
            return await self.web3.eth.block_number

    async def timestamp(self) -> int:
        """The newest block's time, in seconds since the epoch: what expiries and unlocks are compared with."""
        with chain_errors("reading the newest block"):
            return int((await self.web3.eth.get_block("latest"))["timestamp"])

    async def balance(self, address: Address) -> int:
        """Wei that the account holds outside the contract."""
        with chain_errors("reading a balance"):
            return await self.web3.eth.get_balance(self.web3.to_checksum_address(address))


@asynccontextmanager
async def connect(url: str, *, chain_id: int | None = None, timeout_seconds: float = 10.0) -> AsyncIterator[Chain]:
    """Connect to the endpoint, and make sure that it serves the expected chain if one is given.

    Raises `ChainUnavailable` if nothing answers, `ConfigurationError` if it is another chain.
    """
    timeout = ClientTimeout(total=timeout_seconds)
    # web3's own retries are off: they sleep on the wall clock, and callers here know what may be retried
    provider = AsyncHTTPProvider(url, request_kwargs={"timeout": timeout}, exception_retry_configuration=None)
    web3: AsyncWeb3[AsyncHTTPProvider] = AsyncWeb3(provider)
    try:
        with chain_errors(f"connecting to {url}"):
            found = await web3.eth.chain_id
        if chain_id is not None and found != chain_id:
            raise ConfigurationError(f"expected chain {chain_id} at {url}, found chain {found}: correct one of the two")
        yield Chain(web3, url, found)
    finally:
        await provider.disconnect()


@contextmanager
def chain_errors(doing: str) -> Iterator[None]:
    """Turn web3's and aiohttp's exceptions into Tandem's.

    `ChainUnavailable` if the endpoint does not answer usefully, `TransactionReverted` if the contract refuses,
    `ChainError` if the endpoint refuses.
    """
    try:
        yield
    except ContractLogicError as error:
        raise TransactionReverted(f"{doing}: the contract refused with {_reason(error)}") from error
    except (ClientError, TimeoutError, OSError, RequestTimedOut, TooManyRequests) as error:
        cause = str(error) or type(error).__name__
        raise ChainUnavailable(f"{doing}: no answer from the endpoint ({cause}): check it, or use another") from error
    except Web3RPCError as error:
        raise ChainError(f"{doing}: the endpoint answered {error.message}") from error
    except Web3Exception as error:
        raise ChainUnavailable(f"{doing}: an answer that cannot be used ({error}): use another endpoint") from error


def _reason(error: ContractLogicError) -> str:
    if isinstance(error.data, str) and error.data.startswith("0x"):
        return explain_revert(bytes.fromhex(error.data[2:]))
    return error.message or "no reason"
