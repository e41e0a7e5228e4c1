"""One sender of transactions per account: local nonces, bounded fees, confirmations, and nothing lost in a crash.

Every transaction is in a journal before it is broadcast and stays there until whoever asked for it has written down
what came of it (`acknowledge`). After a crash `recover` finds it again: mined, or to be broadcast once more. Signing
it anew with another nonce would be the way to pay twice.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from eth_account import Account
from eth_typing import ChecksumAddress
from hexbytes import HexBytes
from web3.exceptions import TransactionIndexingInProgress, TransactionNotFound
from web3.types import LogReceipt, TxParams, TxReceipt

from tandem.chain.rpc import Chain, chain_errors
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable, TransactionReverted
from tandem.protocol.signing import Address, SigningKey
from tandem.protocol.units import format_amount

GWEI = 10**9

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction does: `to` None deploys a contract, `value` is in wei."""

    to: Address | None
    data: bytes = b""
    value: int = 0


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """What the journal keeps: enough to broadcast it again, and to know what it was for."""

    tx_hash: bytes
    tx_nonce: int
    raw: bytes = field(repr=False)
    purpose: str


@dataclass(frozen=True, slots=True)
class Mined:
    """A confirmed transaction; `gas_cost` in wei, `contract` the address that it deployed, if any."""

    transaction: SignedTransaction
    succeeded: bool
    block_number: int
    gas_cost: int
    contract: Address | None
    logs: Sequence[LogReceipt] = field(repr=False)


class TransactionJournal(Protocol):
    """Where transactions in flight outlive the process."""

    async def record(self, transaction: SignedTransaction) -> None:
        """Write it down, durably, before this returns."""
        ...

    async def pending(self) -> Sequence[SignedTransaction]:
        """All that were recorded and not forgotten, by nonce."""
        ...

    async def forget(self, tx_hash: bytes) -> None:
        """Its outcome is known and written down, or it never was sent."""
        ...


class MemoryJournal:
    """A journal for a process that waits for its transactions and keeps no state, such as a command."""

    def __init__(self) -> None:
        self._pending: dict[bytes, SignedTransaction] = {}

    async def record(self, transaction: SignedTransaction) -> None:
        self._pending[transaction.tx_hash] = transaction

    async def pending(self) -> Sequence[SignedTransaction]:
        return sorted(self._pending.values(), key=lambda transaction: transaction.tx_nonce)

    async def forget(self, tx_hash: bytes) -> None:
        self._pending.pop(tx_hash, None)


@dataclass(frozen=True, slots=True)
class TransactionPolicy:
    """How transactions are paid for and awaited. Fees in wei per unit of gas.

    `confirmations`: blocks from the transaction's own on until it counts; 1 trusts the newest block.
    `gas_margin_percent`: what is added to the estimate. `poll_seconds`: between looks at the chain.
    """

    confirmations: int = 1
    max_fee_per_gas: int = 200 * GWEI
    max_priority_fee_per_gas: int = 2 * GWEI
    gas_margin_percent: int = 25
    poll_seconds: float = 1.0


class TransactionSender:
    """Sends an account's transactions, and is the only one to do so."""

    def __init__(
        self, chain: Chain, key: SigningKey, journal: TransactionJournal, clock: Clock, policy: TransactionPolicy
    ) -> None:
        self.chain = chain
        self.address = key.address
        self._key = key
        self._journal = journal
        self._clock = clock
        self._policy = policy
        self._lock = asyncio.Lock()
        self._next_tx_nonce: int | None = None  # None: to be reconciled with journal and chain first

    async def send(self, call: Call, purpose: str) -> Mined:
        """Send a transaction and wait until it is confirmed; it stays in the journal until `acknowledge`.

        Raises `TransactionReverted` if the contract refuses, `ChainError` if the endpoint does, `ChainUnavailable` if
        none answers before it is sent, or if gas costs more than the policy allows; in all these cases nothing
        changed and the journal is clean. Once it is sent, waiting outlasts failures of the endpoint.
        """
        async with self._lock:
            transaction = await self._launch(call, purpose)
        mined = await self._confirmed(transaction)
        if mined is None:
            raise ChainError(
                f"{purpose}: another transaction of {self.address} took tx_nonce {transaction.tx_nonce}: "
                "leave the account to one process"
            )
        if not mined.succeeded:
            await self._journal.forget(transaction.tx_hash)
            raise TransactionReverted(f"{purpose}: transaction 0x{transaction.tx_hash.hex()} was reverted when mined")
        return mined

    async def acknowledge(self, mined: Mined) -> None:
        """The outcome is written down: the journal may forget the transaction."""
        await self._journal.forget(mined.transaction.tx_hash)

    async def recover(self) -> tuple[Mined, ...]:
        """To be called once, at the start: wait for all that an earlier process left in flight.

        Everything returned, also what was reverted, is to be acknowledged. Whatever the journal held and is not
        returned was displaced by another transaction, and will never be mined. Raises `ChainUnavailable` if no endpoint
        answers at first; then it may be called again.
        """
        pending = await self._journal.pending()
        async with self._lock:
            await self._reconcile()
        outcomes = [await self._confirmed(transaction) for transaction in pending]
        return tuple(mined for mined in outcomes if mined is not None)

    async def gas_price(self) -> int:
        """What a unit of gas costs this account now, in wei: the next block's base fee and the policy's tip."""
        return await self._base_fee() + self._policy.max_priority_fee_per_gas

    async def _launch(self, call: Call, purpose: str) -> SignedTransaction:
        if self._next_tx_nonce is None:
            await self._reconcile()
        tx_nonce = cast(int, self._next_tx_nonce)
        transaction = self._sign(await self._fields(call, tx_nonce), tx_nonce, purpose)
        # Whatever cuts this short, be it a cancellation, leaves the next caller to find out how far it came.
        self._next_tx_nonce = None
        await self._journal.record(transaction)
        try:
            await self._broadcast(transaction)
        except ChainUnavailable:
            pass  # it may have arrived; it is broadcast again while its confirmation is awaited
        except ChainError:
            await self._journal.forget(transaction.tx_hash)
            raise
        self._next_tx_nonce = tx_nonce + 1
        return transaction

    async def _reconcile(self) -> None:
        """Broadcast what is in the journal again, and find the next nonce: the chain's, or the one after those."""
        pending = await self._journal.pending()
        for transaction in pending:
            await self._broadcast_again(transaction)
        with chain_errors("reading the account's nonce"):
            on_chain = await self.chain.web3.eth.get_transaction_count(self._account, "pending")
        self._next_tx_nonce = max([on_chain, *(transaction.tx_nonce + 1 for transaction in pending)])

    async def _fields(self, call: Call, tx_nonce: int) -> TxParams:
        priority, base = self._policy.max_priority_fee_per_gas, await self._base_fee()
        with chain_errors("estimating gas"):
            fields: dict[str, Any] = {"from": self._account, "value": call.value, "data": call.data}
            if call.to is not None:
                fields["to"] = self.chain.web3.to_checksum_address(call.to)
            gas = await self.chain.web3.eth.estimate_gas(cast(TxParams, fields))
        if base + priority > self._policy.max_fee_per_gas:
            raise ChainUnavailable(
                f"expected gas at most at {format_amount(self._policy.max_fee_per_gas)}, it costs "
                f"{format_amount(base + priority)}: wait, or raise max_fee_per_gas"
            )
        del fields["from"]
        return cast(
            TxParams,
            fields
            | {
                "chainId": self.chain.chain_id,
                "nonce": tx_nonce,
                "gas": gas * (100 + self._policy.gas_margin_percent) // 100,
                # twice the base fee outlasts six full blocks, each of which raises it by an eighth
                "maxFeePerGas": min(2 * base + priority, self._policy.max_fee_per_gas),
                "maxPriorityFeePerGas": priority,
            },
        )

    async def _base_fee(self) -> int:
        with chain_errors("reading the base fee"):
            return int((await self.chain.web3.eth.get_block("pending"))["baseFeePerGas"])

    def _sign(self, fields: TxParams, tx_nonce: int, purpose: str) -> SignedTransaction:
        signed = Account.sign_transaction(cast(dict[str, Any], fields), self._key.secret)
        return SignedTransaction(bytes(signed.hash), tx_nonce, bytes(signed.raw_transaction), purpose)

    async def _broadcast(self, transaction: SignedTransaction) -> None:
        with chain_errors(f"sending {transaction.purpose}"):
            await self.chain.web3.eth.send_raw_transaction(transaction.raw)

    async def _broadcast_again(self, transaction: SignedTransaction) -> None:
        with suppress(ChainError):  # known already, mined already, or displaced: which of these, its receipt will tell
            await self._broadcast(transaction)

    async def _confirmed(self, transaction: SignedTransaction) -> Mined | None:
        """Wait until it is mined and deep enough; None, and forgotten, if another one took its nonce."""
        settled_tx_nonce = 0
        while True:
            try:
                mined = await self._look(transaction)
                if isinstance(mined, Mined):
                    return mined
                # The nonce was read before the receipt was looked for, so this is no race with its being mined.
                if settled_tx_nonce > transaction.tx_nonce and mined is None:
                    await self._journal.forget(transaction.tx_hash)
                    return None
                settled_tx_nonce = await self._settled_tx_nonce()
                if mined is None:
                    await self._broadcast_again(transaction)
            except (ChainUnavailable, ChainError) as error:
                _log.warning("awaiting %s: %s", transaction.purpose, error)
            await self._clock.sleep(self._policy.poll_seconds)

    async def _look(self, transaction: SignedTransaction) -> Mined | int | None:
        """What became of it: mined deep enough, in a block of this number that is not, or nothing yet."""
        try:
            with chain_errors(f"awaiting {transaction.purpose}"):
                receipt = await self.chain.web3.eth.get_transaction_receipt(HexBytes(transaction.tx_hash))
        except ChainError as error:
            if isinstance(error.__cause__, TransactionNotFound | TransactionIndexingInProgress):
                return None
            raise
        block_number = receipt["blockNumber"]
        if await self.chain.head() < block_number + self._policy.confirmations - 1:
            return block_number
        return _mined(transaction, receipt)

    async def _settled_tx_nonce(self) -> int:
        """How many transactions of the account are deep enough to count."""
        block = max(await self.chain.head() - self._policy.confirmations + 1, 0)
        with chain_errors("reading the account's nonce"):
            return await self.chain.web3.eth.get_transaction_count(self._account, block)

    @property
    def _account(self) -> ChecksumAddress:
        return self.chain.web3.to_checksum_address(self.address)


def _mined(transaction: SignedTransaction, receipt: TxReceipt) -> Mined:
    return Mined(
        transaction=transaction,
        succeeded=receipt["status"] == 1,
        block_number=receipt["blockNumber"],
        gas_cost=receipt["gasUsed"] * receipt["effectiveGasPrice"],
        contract=receipt["contractAddress"],
        logs=tuple(receipt["logs"]),
    )
