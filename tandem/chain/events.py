"""The contract's events as types."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

from eth_utils.abi import event_abi_to_log_topic
from web3 import Web3
from web3.types import LogReceipt

from tandem.chain.artifact import ABI
from tandem.protocol.signing import Address


class Refusal(IntEnum):
    """Why a ticket or a batch was not paid, numbered as in the contract."""

    NONE = 0
    MALFORMED_BATCH = 1
    EXPIRED = 2
    WRONG_REVEAL = 3
    ALREADY_REDEEMED = 4
    INVALID_SIGNATURE = 5
    UNAUTHORISED_SIGNER = 6
    NOT_WINNING = 7
    UNFUNDED = 8


@dataclass(frozen=True, slots=True)
class Position:
    """Where in the chain an event stands; the block's hash tells a reorganisation."""

    block_number: int
    block_hash: bytes
    tx_hash: bytes
    log_index: int


@dataclass(frozen=True, slots=True)
class DepositFunded:
    at: Position
    sender: Address
    funder: Address
    amount: int


@dataclass(frozen=True, slots=True)
class ReserveFunded:
    at: Position
    sender: Address
    funder: Address
    amount: int


@dataclass(frozen=True, slots=True)
class DepositWithdrawn:
    at: Position
    sender: Address
    to: Address
    amount: int


@dataclass(frozen=True, slots=True)
class ReserveWithdrawn:
    at: Position
    sender: Address
    to: Address
    amount: int


@dataclass(frozen=True, slots=True)
class UnlockStarted:
    at: Position
    sender: Address
    unlock_at: int


@dataclass(frozen=True, slots=True)
class UnlockCancelled:
    at: Position
    sender: Address


@dataclass(frozen=True, slots=True)
class AllocationChanged:
    at: Position
    sender: Address
    recipient: Address
    amount: int


@dataclass(frozen=True, slots=True)
class AllocationLoweringStarted:
    at: Position
    sender: Address
    recipient: Address
    amount: int
    lowers_at: int


@dataclass(frozen=True, slots=True)
class SignerAuthorised:
    at: Position
    sender: Address
    signer: Address


@dataclass(frozen=True, slots=True)
class SignerRevoked:
    at: Position
    sender: Address
    signer: Address
    valid_until: int


@dataclass(frozen=True, slots=True)
class TicketsRedeemed:
    at: Position
    sender: Address
    recipient: Address
    params_hash: bytes
    sender_nonces: tuple[int, ...]
    amount: int
    from_reserve: int


@dataclass(frozen=True, slots=True)
class TicketRefused:
    at: Position
    sender: Address
    recipient: Address
    params_hash: bytes
    sender_nonce: int
    reason: Refusal


@dataclass(frozen=True, slots=True)
class BatchRefused:
    at: Position
    sender: Address
    recipient: Address
    params_hash: bytes
    reason: Refusal


@dataclass(frozen=True, slots=True)
class PaymentCredited:
    at: Position
    recipient: Address
    amount: int


@dataclass(frozen=True, slots=True)
class CreditWithdrawn:
    at: Position
    recipient: Address
    to: Address
    amount: int


BrokerEvent = (
    DepositFunded
    | ReserveFunded
    | DepositWithdrawn
    | ReserveWithdrawn
    | UnlockStarted
    | UnlockCancelled
    | AllocationChanged
    | AllocationLoweringStarted
    | SignerAuthorised
    | SignerRevoked
    | TicketsRedeemed
    | TicketRefused
    | BatchRefused
    | PaymentCredited
    | CreditWithdrawn
)

_TYPES: Mapping[str, type[BrokerEvent]] = {event.__name__: event for event in BrokerEvent.__args__}
_CONTRACT = Web3().eth.contract(abi=ABI)


def decode_event(log: LogReceipt) -> BrokerEvent:
    """The event in a log of the contract."""
    name = _names_by_topic()[bytes(log["topics"][0])]
    found = _CONTRACT.events[name]().process_log(log)
    at = Position(found["blockNumber"], bytes(found["blockHash"]), bytes(found["transactionHash"]), found["logIndex"])
    return _TYPES[name](at, **{_snake(key): _value(key, value) for key, value in found["args"].items()})


@cache
def _names_by_topic() -> dict[bytes, str]:
    return {event_abi_to_log_topic(entry): entry["name"] for entry in ABI if entry["type"] == "event"}


@cache
def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)


def _value(key: str, value: Any) -> Any:
    if key == "reason":
        return Refusal(value)
    return tuple(value) if isinstance(value, list) else value
