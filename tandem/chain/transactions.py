"""One sender of transactions per account: local nonces, bounded fees, confirmations, and nothing lost in a crash.

Every transaction is in a journal before it is broadcast, and so is every version of it with higher fees, since any of
them may be mined. They stay there until whoever asked for it has written down what came of it (`acknowledge`). Signing
one anew under another tx_nonce would be the way to pay twice; under the same one, the chain takes one of them.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, cast

from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes
from web3.types import LogReceipt, TxParams, TxReceipt

from tandem import logging as log
from tandem.chain.rpc import INT64_MAX, Block, Chain, PoolAnswer, chain_errors, number
from tandem.clock import Clock
from tandem.protocol.errors import (
    ChainError,
    ChainUnavailable,
    FeeCapExceeded,
    InsufficientFunds,
    TransactionReverted,
)
from tandem.protocol.signing import Address, SigningKey
from tandem.protocol.units import ceil_div, format_amount

GWEI = 10**9
_SURE_SECONDS = 10.0
"""That long a transaction must look displaced before it counts as such."""
_MAX_GAS = 2**24
"""What a transaction may ask for at most, by EIP-7825."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction does: `to` None deploys a contract, `value` is in wei."""

    to: Address | None
    data: bytes = b""
    value: int = 0


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """One version of a transaction, as the journal keeps it; `signed_at` in seconds since the epoch.

    Versions under one tx_nonce have the same purpose and call, and different fees; at most one of them is mined.
    """

    tx_hash: bytes
    tx_nonce: int
    raw: bytes = field(repr=False)
    purpose: str
    signed_at: float


@dataclass(frozen=True, slots=True)
class Mined:
    """A confirmed transaction, in the version that was mined; it may have been reverted.

    `gas_used` in units, `gas_cost` in wei, `contract` the address that it deployed, if any.
    """

    transaction: SignedTransaction
    succeeded: bool
    block_number: int
    block_hash: bytes
    gas_used: int
    gas_cost: int
    contract: Address | None
    logs: Sequence[LogReceipt] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Displaced:
    """A transaction that will never be mined: another one took its tx_nonce.

    That one is of another process, or it does nothing and took the place of one that the endpoints refuse.
    """

    transaction: SignedTransaction


Outcome = Mined | Displaced


class TransactionJournal(Protocol):
    """Where an account's transactions in flight outlive the process."""

    async def record(self, transaction: SignedTransaction) -> None:
        """Write one version down, durably, before this returns. Earlier versions under its tx_nonce stay."""
        ...

    async def pending(self) -> Sequence[SignedTransaction]:
        """All versions that were recorded and not forgotten, in any order."""
        ...

    async def forget(self, tx_nonce: int) -> None:
        """All versions under it: what came of them is written down, or none was ever taken."""
        ...


class MemoryJournal:
    """A journal for a process that waits for its transactions and keeps no state, such as a command."""

    def __init__(self) -> None:
        self._pending: dict[bytes, SignedTransaction] = {}

    async def record(self, transaction: SignedTransaction) -> None:
        self._pending[transaction.tx_hash] = transaction

    async def pending(self) -> Sequence[SignedTransaction]:
        return list(self._pending.values())

    async def forget(self, tx_nonce: int) -> None:
        self._pending = {key: kept for key, kept in self._pending.items() if kept.tx_nonce != tx_nonce}


@dataclass(frozen=True, slots=True)
class TransactionPolicy:
    """How transactions are paid for and awaited. Fees in wei per unit of gas.

    `confirmations`: blocks from the transaction's own on until it counts; 1 trusts the newest block.
    `max_fee_per_gas`: never more than this. `max_priority_fee_per_gas`: the tip to begin with; replacements raise it.
    `gas_margin_percent`: what is added to the estimate. `poll_seconds`: between looks at the chain.
    `replace_after_seconds`: after these without being mined, a version with higher fees is sent.
    """

    confirmations: int = 1
    max_fee_per_gas: int = 200 * GWEI
    max_priority_fee_per_gas: int = 2 * GWEI
    gas_margin_percent: int = 25
    poll_seconds: float = 1.0
    replace_after_seconds: float = 180.0


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
        self._broadcast_at: dict[int, tuple[bytes, bytes]] = {}
        """By tx_nonce, which version was last broadcast, at which head."""
        self._missed: dict[int, float] = {}
        """By tx_nonce, since when it looks displaced."""
        self._refused: set[int] = set()
        """What an endpoint refuses for good in all its versions."""

    async def submit(self, call: Call, purpose: str) -> SignedTransaction:
        """Send a transaction and return at once; `outcomes` says what came of it.

        Raises `TransactionReverted` if the contract would refuse, `InsufficientFunds` if the account cannot pay for it,
        `ChainError` if the endpoint refuses, `FeeCapExceeded` while gas costs more than the policy allows, and
        `ChainUnavailable` if no endpoint answers before it is in the journal; then nothing was sent.
        """
        async with self._lock:
            return await self._submit(call, purpose)

    async def outcomes(self) -> tuple[Outcome, ...]:
        """Look once at everything in the journal, and see to it: broadcast what is not mined, replace what is stuck.

        What is final is returned, again and again until it is acknowledged. What was mined and is not deep enough, or
        was undone by a reorganisation, is in flight. Raises `ChainUnavailable` or `ChainError` if the chain cannot be
        read.
        """
        async with self._lock:
            if in_flight := _versions(await self._journal.pending()):
                await self._fill_gap(min(in_flight.items()))
            return await self._look(_versions(await self._journal.pending()))

    async def send(self, call: Call, purpose: str) -> Mined:
        """Send a transaction and wait until it is confirmed; it stays in the journal until `acknowledge`.

        Raises what `submit` raises, in which case nothing changed; `TransactionReverted` if it was reverted when mined
        and `ChainError` if it was displaced, both of them acknowledged. Waiting outlasts failures of the endpoints.
        """
        sent = await self.submit(call, purpose)
        while (outcome := await self._outcome_of(sent)) is None:
            await self._clock.sleep(self._policy.poll_seconds)
        if isinstance(outcome, Mined) and outcome.succeeded:
            return outcome
        await self.acknowledge(outcome)
        if isinstance(outcome, Displaced):
            raise ChainError(
                f"{purpose}: another transaction of {self.address} took tx_nonce {sent.tx_nonce}: "
                "leave the account to one process"
            )
        raise TransactionReverted(
            f"{purpose}: transaction 0x{outcome.transaction.tx_hash.hex()} was reverted when mined"
        )

    async def acknowledge(self, outcome: Outcome) -> None:
        """What came of it is written down: the journal may forget the transaction, in all its versions."""
        tx_nonce = outcome.transaction.tx_nonce
        await self._journal.forget(tx_nonce)
        self._broadcast_at.pop(tx_nonce, None)
        self._missed.pop(tx_nonce, None)
        self._refused.discard(tx_nonce)

    async def gas_price(self) -> int:
        """What a unit of gas costs this account now, in wei: the next block's base fee and the policy's tip."""
        return await self._base_fee() + self._policy.max_priority_fee_per_gas

    # --- sending

    async def _submit(self, call: Call, purpose: str) -> SignedTransaction:
        transaction = self._sign(await self._fields(call, purpose), purpose)
        await self._journal.record(transaction)
        try:
            await self._broadcast(transaction)
        except ChainUnavailable:
            pass  # it may have arrived; it is broadcast again when its outcome is looked for
        except ChainError:
            await self._journal.forget(transaction.tx_nonce)
            raise
        return transaction

    async def _fill_gap(self, first: tuple[int, Sequence[SignedTransaction]]) -> None:
        """All that is in flight waits for a tx_nonce before the first one, which a pool had taken and forgot, or lied
        about: something that does nothing takes it.
        """
        tx_nonce, versions = first
        if self._is_stuck(versions) and await self._next_tx_nonce() < tx_nonce:
            with suppress(ChainError, FeeCapExceeded):  # what is in flight is looked after all the same
                await self._submit(Call(self.address), "fill a gap")

    def _is_stuck(self, versions: Sequence[SignedTransaction]) -> bool:
        waits = self._clock.now() - versions[-1].signed_at
        return not 0 <= waits < self._policy.replace_after_seconds  # a clock that was set back counts too

    async def _fields(self, call: Call, purpose: str) -> TxParams:
        fee, tip = self._first_fees(await self._base_fee())
        balance = await self.chain.balance(self.address)
        self._check_funds(balance, call.value, purpose)  # an endpoint would refuse the estimate in words of its own
        web3 = self.chain.web3
        fields: dict[str, Any] = {"value": call.value, "data": call.data}
        if call.to is not None:
            fields["to"] = web3.to_checksum_address(call.to)
        sender = {"from": web3.to_checksum_address(self.address)}
        estimate = await self.chain.estimate_gas(cast(TxParams, fields | sender))
        gas = max(estimate, min(estimate * (100 + self._policy.gas_margin_percent) // 100, _MAX_GAS))
        self._check_funds(balance, call.value + gas * fee, purpose)
        fields |= {"chainId": self.chain.chain_id, "nonce": await self._next_tx_nonce(), "gas": gas}
        return cast(TxParams, fields | {"maxFeePerGas": fee, "maxPriorityFeePerGas": tip})

    def _check_funds(self, balance: int, need: int, purpose: str) -> None:
        if balance < need:
            raise InsufficientFunds(
                f"{purpose}: expected at least {format_amount(need)} on {self.address} for the value and its gas, "
                f"found {format_amount(balance)}: fund the account"
            )

    async def _next_tx_nonce(self) -> int:
        """The first one that neither the chain, its pool nor the journal knows of."""
        taken = {transaction.tx_nonce for transaction in await self._journal.pending()}
        least = await self.chain.transaction_count(self.address, "pending")
        return next(tx_nonce for tx_nonce in count(least) if tx_nonce not in taken)

    def _sign(self, fields: TxParams, purpose: str) -> SignedTransaction:
        signed = Account.sign_transaction(cast(dict[str, Any], fields), self._key.secret)
        raw = bytes(signed.raw_transaction)
        return SignedTransaction(bytes(signed.hash), fields["nonce"], raw, purpose, self._clock.now())

    async def _broadcast(self, transaction: SignedTransaction) -> None:
        """Raises `ChainUnavailable`, or `ChainError` if the endpoint refuses for good.

        That its tx_nonce is taken or that another version pays as much is no refusal: the chain decides between them.
        """
        try:
            answer = await self.chain.broadcast(transaction.raw)
        except InsufficientFunds as error:
            raise await self._insufficient(transaction.purpose) from error
        if answer in {PoolAnswer.NONCE_TOO_LOW, PoolAnswer.UNDERPRICED}:
            tx_hash = "0x" + transaction.tx_hash.hex()
            log.event(_logger, "transaction_contested", tx_hash=tx_hash, purpose=transaction.purpose, detail=answer)

    async def _insufficient(self, purpose: str) -> InsufficientFunds:
        mined = await self.chain.transaction_count(self.address, "latest")
        waiting = _versions(await self._journal.pending())
        need = sum(_cost(versions[-1]) for tx_nonce, versions in waiting.items() if tx_nonce >= mined)
        balance = await self.chain.balance(self.address)
        return InsufficientFunds(
            f"{purpose}: expected at least {format_amount(need)} on {self.address} for all that is in flight, found "
            f"{format_amount(balance)}: fund the account"
        )

    # --- fees

    async def _base_fee(self) -> int:
        return (await self.chain.block("pending")).base_fee

    def _first_fees(self, base: int) -> tuple[int, int]:
        cap, tip = self._policy.max_fee_per_gas, self._policy.max_priority_fee_per_gas
        if base + tip > cap:
            raise FeeCapExceeded(
                f"expected a unit of gas for at most {format_amount(cap)}, it costs {format_amount(base + tip)}: "
                "wait, or raise max_fee_per_gas"
            )
        # twice the base fee outlasts six full blocks, each of which raises it by an eighth
        return min(2 * base + tip, cap), tip

    async def _raised(self, versions: Sequence[SignedTransaction]) -> SignedTransaction | None:
        """A version that pays more, in the journal; None where none can within the cap, or would be mined."""
        latest, cap = versions[-1], self._policy.max_fee_per_gas
        base = await self._base_fee()
        fields = _unsigned(latest)
        if latest.tx_nonce in self._refused:
            fields |= await self._nothing()
        tip = max(_bumped(fields["maxPriorityFeePerGas"]), self._policy.max_priority_fee_per_gas)
        fee = max(_bumped(fields["maxFeePerGas"]), min(2 * base + tip, cap))
        if fee > cap or base + tip > fee:
            return None
        raised = self._sign(cast(TxParams, fields | {"maxFeePerGas": fee, "maxPriorityFeePerGas": tip}), latest.purpose)
        await self._journal.record(raised)
        tx_hash, replaces = "0x" + raised.tx_hash.hex(), "0x" + latest.tx_hash.hex()
        log.event(_logger, "transaction_replaced", tx_hash=tx_hash, replaces=replaces, purpose=raised.purpose, fee=fee)
        return raised

    async def _nothing(self) -> dict[str, Any]:
        """The fields of a transaction in place of one that can never be mined, and holds up all later ones."""
        account = self.chain.web3.to_checksum_address(self.address)
        call: dict[str, Any] = {"to": account, "value": 0, "data": b""}
        return call | {"gas": await self.chain.estimate_gas(cast(TxParams, call | {"from": account}))}

    # --- what came of them

    async def _outcome_of(self, sent: SignedTransaction) -> Outcome | None:
        try:
            async with self._lock:
                versions = _versions(await self._journal.pending()).get(sent.tx_nonce, (sent,))
                found = await self._look({sent.tx_nonce: versions})
                return found[0] if found else None
        except (ChainUnavailable, ChainError) as error:
            log.event(_logger, "transaction_awaited", level=logging.WARNING, purpose=sent.purpose, detail=error.detail)
            return None

    async def _look(self, in_flight: Mapping[int, Sequence[SignedTransaction]]) -> tuple[Outcome, ...]:
        if not in_flight:
            return ()
        head = await self.chain.block("latest")
        mined = await self.chain.transaction_count(self.address, "latest")
        found = []
        for tx_nonce, versions in sorted(in_flight.items()):
            if tx_nonce >= mined:
                await self._see_to(versions, head, next_up=tx_nonce == mined)
            elif (outcome := await self._settled(versions)) is not None:
                found.append(outcome)
        return tuple(found)

    async def _see_to(self, versions: Sequence[SignedTransaction], head: Block, *, next_up: bool) -> None:
        """Replace what is stuck, unless others are before it; broadcast whenever the head has moved."""
        if next_up and self._is_stuck(versions):
            raised = await self._raised(versions)
            versions = versions if raised is None else [*versions, raised]
        latest = versions[-1]
        done = (latest.tx_hash, head.hash)
        if self._broadcast_at.get(latest.tx_nonce) == done:
            return
        await self._broadcast_any(versions)
        self._broadcast_at[latest.tx_nonce] = done

    async def _broadcast_any(self, versions: Sequence[SignedTransaction]) -> None:
        """The last version that the endpoint does not refuse."""
        tx_nonce, refused = versions[-1].tx_nonce, False
        for version in reversed(versions):
            try:
                await self._broadcast(version)
            except ChainError as error:  # the others must not wait for it
                purpose, detail = version.purpose, error.detail
                log.event(_logger, "transaction_refused", level=logging.WARNING, purpose=purpose, detail=detail)
                refused |= not isinstance(error, InsufficientFunds)  # which time may cure
            else:
                self._refused.discard(tx_nonce)
                return
        if refused:
            self._refused.add(tx_nonce)

    async def _settled(self, versions: Sequence[SignedTransaction]) -> Outcome | None:
        """The final outcome, if all endpoints that answer agree on it."""
        outcome = await _settled(self.chain, self.address, versions, self._policy.confirmations)
        for witness in self.chain.witnesses if outcome is not None else ():
            try:
                said = await _settled(witness, self.address, versions, self._policy.confirmations)
                agrees = _essence(said) == _essence(outcome)
            except (ChainUnavailable, ChainError):
                continue
            if not agrees:
                return None
        if isinstance(outcome, Displaced):
            return outcome if self._is_sure(outcome) else None
        self._missed.pop(versions[-1].tx_nonce, None)
        return outcome

    def _is_sure(self, displaced: Displaced) -> bool:
        """An endpoint may count a transaction before it has the receipt; what was paid must not be taken for lost."""
        now = self._clock.monotonic()
        return now - self._missed.setdefault(displaced.transaction.tx_nonce, now) >= _SURE_SECONDS


async def _settled(
    chain: Chain, address: Address, versions: Sequence[SignedTransaction], confirmations: int
) -> Outcome | None:
    """What came of a transaction, once the block that decided it has so many blocks, itself included."""
    head = await chain.block("latest")
    if (await chain.block(head.number)).hash != head.hash:
        return None  # a head that the endpoint does not stand by
    deep = await chain.block(max(head.number - confirmations + 1, 0))
    if await chain.transaction_count(address, deep.number) <= versions[-1].tx_nonce:
        return None
    for transaction in reversed(versions):
        if (receipt := await chain.receipt(transaction.tx_hash)) is not None:
            mined = _mined(transaction, receipt)
            canonical = await chain.block(mined.block_number)
            if mined.block_number > deep.number or mined.block_hash != canonical.hash:
                return None
            return mined if _call(transaction) == _call(versions[0]) else Displaced(versions[0])
    # None of ours took its tx_nonce, if it was the same chain that answered all the while.
    return Displaced(versions[-1]) if await chain.block(deep.number) == deep else None


def _essence(outcome: Outcome | None) -> tuple[Any, ...]:
    """What endpoints must agree on; clients add fields of their own to logs."""
    if not isinstance(outcome, Mined):
        return (outcome,)
    with chain_errors("reading a receipt"):
        logs = tuple((entry["address"], *entry["topics"], entry["data"]) for entry in outcome.logs)
    return outcome.transaction, outcome.succeeded, outcome.block_hash, outcome.gas_used, outcome.gas_cost, logs


def _mined(transaction: SignedTransaction, receipt: TxReceipt) -> Mined:
    fields = _unsigned(transaction)
    with chain_errors("reading a receipt"):
        mined = Mined(
            transaction=transaction,
            succeeded=receipt["status"] == 1,
            block_number=number(receipt["blockNumber"], INT64_MAX),
            block_hash=bytes(receipt["blockHash"]),
            gas_used=number(receipt["gasUsed"], INT64_MAX),
            gas_cost=receipt["gasUsed"] * number(receipt["effectiveGasPrice"]),
            contract=receipt["contractAddress"],
            logs=tuple(receipt["logs"]),
        )
        own = bytes(receipt["transactionHash"]) == transaction.tx_hash
    if not own or mined.gas_cost > fields["gas"] * fields["maxFeePerGas"]:
        raise ChainUnavailable("reading a receipt: the endpoint answered with an impossible one: use another one")
    return mined


def _versions(transactions: Sequence[SignedTransaction]) -> dict[int, list[SignedTransaction]]:
    """By tx_nonce, all versions from the cheapest to the one that pays most."""
    found: dict[int, list[SignedTransaction]] = {}
    for transaction in sorted(transactions, key=lambda transaction: _unsigned(transaction)["maxFeePerGas"]):
        found.setdefault(transaction.tx_nonce, []).append(transaction)
    return found


def _unsigned(transaction: SignedTransaction) -> dict[str, Any]:
    """The fields that were signed."""
    fields = TypedTransaction.from_bytes(HexBytes(transaction.raw)).as_dict()
    wanted = {"chainId", "nonce", "gas", "to", "value", "data", "maxFeePerGas", "maxPriorityFeePerGas"}
    return {key: value for key, value in fields.items() if key in wanted and (key != "to" or value)}


def _call(transaction: SignedTransaction) -> tuple[Any, ...]:
    fields = _unsigned(transaction)
    return fields.get("to"), fields["value"], fields["data"]


def _cost(transaction: SignedTransaction) -> int:
    """Wei that it may take from the account."""
    fields = _unsigned(transaction)
    return int(fields["value"] + fields["gas"] * fields["maxFeePerGas"])


def _bumped(fee: int) -> int:
    """The least fee for which pools take a replacement: an eighth more."""
    return ceil_div(9 * fee, 8)
