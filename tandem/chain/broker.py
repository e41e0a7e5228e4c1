"""The TicketBroker contract: what it says, as types, and what can be asked of it, as calls for a TransactionSender."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import encode
from hexbytes import HexBytes
from web3.contract import AsyncContract
from web3.types import FilterParams, LogReceipt

from tandem.chain.artifact import ABI, BYTECODE
from tandem.chain.events import BrokerEvent, CreditWithdrawn, PaymentCredited, TicketsRedeemed, decode_event
from tandem.chain.rpc import Chain, chain_errors
from tandem.chain.transactions import Call
from tandem.protocol.errors import ConfigurationError
from tandem.protocol.signing import Address, address_bytes
from tandem.protocol.tickets import Domain, Ticket, TicketParams


@dataclass(frozen=True, slots=True)
class SenderFunds:
    """What stands behind a sender's tickets to one recipient. Amounts in wei, times in seconds since the epoch.

    `deposit` is shared by all recipients and spent first; `allocation` is what this recipient alone can draw, of the
    `allocated` part of the `reserve`. It falls to `lowered_to` at `lowers_at`, and everything unallocated may be
    withdrawn from `unlock_at` on; None where nothing of the kind is under way.
    """

    deposit: int
    reserve: int
    allocated: int
    allocation: int
    lowered_to: int
    lowers_at: int | None
    unlock_at: int | None

    def promised(self) -> int:
        """What this recipient can count on, in wei, whatever the other recipients draw."""
        return self.allocation if self.lowers_at is None else min(self.allocation, self.lowered_to)


@dataclass(frozen=True, slots=True)
class RedemptionBatch:
    """Tickets under one set of parameters, with the 32 random bytes that their redemption reveals."""

    params: TicketParams
    recipient_rand: bytes
    tickets: tuple[Ticket, ...]

    def packed_tickets(self) -> bytes:
        """68 bytes a ticket, as the contract reads them."""
        return b"".join(ticket.sender_nonce.to_bytes(4) + ticket.signature for ticket in self.tickets)


class TicketBroker:
    """The contract at an address. Reads raise `ChainUnavailable` or `ChainError`; calls are only built here."""

    def __init__(self, chain: Chain, address: Address) -> None:
        self.chain = chain
        self.address = address
        self.domain = Domain(chain_id=chain.chain_id, contract=address)
        self._contract: AsyncContract = chain.web3.eth.contract(
            address=chain.web3.to_checksum_address(address), abi=ABI
        )

    # --- reads

    async def check(self) -> None:
        """Make sure that the contract is there and agrees on the tickets' domain; else `ConfigurationError`."""
        with chain_errors("reading the contract's code"):
            code = await self.chain.web3.eth.get_code(self._contract.address)
        if not code or await self._read("domainSeparator") != self.domain.separator:
            raise ConfigurationError(
                f"expected a ticket contract at {self.address} on chain {self.chain.chain_id}, found "
                f"{'another one' if code else 'no code'}: correct the address, or run `tandem chain deploy`"
            )

    async def funds(self, sender: Address, recipient: Address, *, block: int | None = None) -> SenderFunds:
        """What stands behind the sender's tickets to the recipient, as of the newest block, or of the one given.

        Endpoints forget the state of older blocks, often after 128; then it raises `ChainError`.
        """
        found = await self._read("funds", sender, recipient, block=block)
        deposit, reserve, allocated, allocation, lowered_to, lowers_at, unlock_at = found
        return SenderFunds(deposit, reserve, allocated, allocation, lowered_to, lowers_at or None, unlock_at or None)

    async def signer_valid_until(self, sender: Address, signer: Address) -> int:
        """Until when (seconds since the epoch) the signer's tickets are good; 0 for never, 2**64 - 1 for no end."""
        return int(await self._read("signerValidUntil", sender, signer))

    async def is_signer(self, sender: Address, signer: Address) -> bool:
        """Whether the key may sign the sender's tickets, as of the newest block."""
        if sender == signer:
            return True
        return await self.chain.timestamp() < await self.signer_valid_until(sender, signer)

    async def is_redeemed(self, params: TicketParams, sender_nonce: int) -> bool:
        """Whether the ticket was paid."""
        return bool(await self._read("isRedeemed", params.hash(), sender_nonce))

    async def credit(self, recipient: Address) -> int:
        """Wei from payments that the recipient did not take, for it to withdraw."""
        return int(await self._read("credit", recipient))

    async def unlock_period(self) -> int:
        """Seconds that withdrawing, lowering an allocation and revoking a signer take."""
        return int(await self._read("unlockPeriod"))

    async def ticket_digest(self, params: TicketParams, sender_nonce: int) -> bytes:
        """The contract's own opinion of what a ticket's signature covers."""
        return bytes(await self._read("ticketDigest", _params_tuple(params), sender_nonce))

    async def events(self, from_block: int, to_block: int, *, sender: Address | None = None) -> tuple[BrokerEvent, ...]:
        """The contract's events in these blocks, both ends included, in their order on the chain.

        With `sender`, those alone that are about this sender's money, signers and tickets.
        """
        query: FilterParams = {"address": self._contract.address, "fromBlock": from_block, "toBlock": to_block}
        if sender is not None:
            query["topics"] = [None, HexBytes(bytes(12) + address_bytes(sender))]
        with chain_errors("reading the contract's events"):
            logs = await self.chain.web3.eth.get_logs(query)
            events = await asyncio.to_thread(lambda: [decode_event(log) for log in logs])  # there may be thousands
            self._demand_asked(logs, events, range(from_block, to_block + 1), sender)
        # A credit has its recipient where all other events have their sender.
        return tuple(
            event for event in events if sender is None or not isinstance(event, PaymentCredited | CreditWithdrawn)
        )

    def _demand_asked(
        self, logs: Sequence[LogReceipt], events: Sequence[BrokerEvent], blocks: range, sender: Address | None
    ) -> None:
        """Raises ValueError for logs that were not asked for, come twice, or no contract of ours would write."""
        about = {getattr(event, "sender", sender) for event in events if sender is not None}
        places = [(event.at.block_number, event.at.log_index) for event in events]
        if (
            about - {sender}
            or not {number for number, _ in places}.issubset(blocks)
            or places != sorted(set(places))
            or not all(event.sender_nonces for event in events if isinstance(event, TicketsRedeemed))
            or any(log["address"] != self._contract.address or log.get("removed") for log in logs)
        ):
            raise ValueError("logs that were not asked for, or not in their order")

    async def exists_at(self, block: int) -> bool:
        """Whether the contract was there in this block. Raises `ChainError` if the endpoint has forgotten its state."""
        with chain_errors("reading the contract's code"):
            return bool(await self.chain.web3.eth.get_code(self._contract.address, block))

    # --- calls

    def fund_deposit(self, sender: Address, amount: int) -> Call:
        """Adds wei to the sender's deposit, from whoever sends the transaction."""
        return self._call("fundDeposit", sender, value=amount)

    def fund_reserve(self, sender: Address, amount: int) -> Call:
        """Adds wei to the sender's reserve, from whoever sends the transaction."""
        return self._call("fundReserve", sender, value=amount)

    def allocate(self, allocations: Iterable[tuple[Address, int]]) -> Call:
        """Sets the recipients' parts of the reserve, in wei; raising is immediate, lowering waits."""
        return self._call("allocate", list(allocations))

    def authorise_signer(self, signer: Address) -> Call:
        return self._call("authoriseSigner", signer)

    def revoke_signer(self, signer: Address) -> Call:
        """Ends the authorisation after the unlock period."""
        return self._call("revokeSigner", signer)

    def unlock(self) -> Call:
        return self._call("unlock")

    def cancel_unlock(self) -> Call:
        return self._call("cancelUnlock")

    def withdraw_deposit(self, amount: int, to: Address) -> Call:
        return self._call("withdrawDeposit", amount, to)

    def withdraw_reserve(self, amount: int, to: Address) -> Call:
        return self._call("withdrawReserve", amount, to)

    def withdraw_credit(self, to: Address) -> Call:
        return self._call("withdrawCredit", to)

    def redeem(self, batches: Sequence[RedemptionBatch]) -> Call:
        """Pays the winners; see `redemption.RedemptionResult` for what came of it."""
        return self._call(
            "redeem",
            [(_params_tuple(batch.params), batch.recipient_rand, batch.packed_tickets()) for batch in batches],
        )

    async def _read(self, function: str, *args: Any, block: int | None = None) -> Any:
        with chain_errors(f"reading {function} of the contract at {self.address}"):
            return await self._contract.functions[function](*args).call(
                block_identifier="latest" if block is None else block
            )

    def _call(self, function: str, *args: Any, value: int = 0) -> Call:
        data = self._contract.encode_abi(function, args=list(args))
        return Call(self.address, bytes.fromhex(data[2:]), value)


def deployment(unlock_period: int) -> Call:
    """Deploys the contract, with the unlock period in seconds; the address is in the mined transaction."""
    return Call(None, bytes.fromhex(BYTECODE[2:]) + encode(["uint32"], [unlock_period]))


def _params_tuple(params: TicketParams) -> tuple[str, str, int, int, int, bytes]:
    return (
        params.sender,
        params.recipient,
        params.face_value,
        params.win_prob,
        params.expiry,
        params.commitment,
    )
