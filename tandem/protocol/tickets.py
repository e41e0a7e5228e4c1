"""Tickets: signed probabilistic payments, as the TicketBroker contract reads them.

A recipient issues `TicketParams` with a commitment to a random number that it keeps; the sender signs numbered tickets
under them. A ticket wins if `uint256(keccak256(signature ‖ recipientRand)) < winProb`: the sender cannot steer it for
want of the random number, the recipient cannot for want of the signature.

Digests are EIP-712. The parameters are a struct of their own, so that their hash is computed once for many tickets.
The packing below is written out because the generic typed-data encoder is ten times slower.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field

from tandem.protocol.errors import TicketSignatureInvalid
from tandem.protocol.hashing import keccak
from tandem.protocol.ids import Frozen
from tandem.protocol.signing import Address, Bytes32, Signature, SigningKey, address_bytes, recover_address
from tandem.protocol.units import UINT256_MAX, Wei, WinProb, ceil_div

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1
PAYMENT_WINNERS = 5
"""Room for so many winners is enough for a payment of `payment_size` tickets."""

_DOMAIN_TYPE = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_DOMAIN_NAME = keccak(b"TandemTicketBroker")
_DOMAIN_VERSION = keccak(b"1")
_PARAMS_SCHEMA = (
    b"TicketParams(address sender,address recipient,uint256 faceValue,uint256 winProb,uint64 expiry,bytes32 commitment)"
)
_PARAMS_TYPE = keccak(_PARAMS_SCHEMA)
_NONCE_PADDING = bytes(28)
_TICKET_TYPE = keccak(b"Ticket(TicketParams params,uint32 senderNonce)" + _PARAMS_SCHEMA)


class Domain(Frozen):
    """Where tickets are good: one contract on one chain."""

    chain_id: Annotated[int, Field(gt=0, le=UINT256_MAX)]
    contract: Address

    @cached_property
    def separator(self) -> bytes:
        """EIP-712's domain separator, 32 bytes."""
        chain_id = self.chain_id.to_bytes(32)
        return keccak(_DOMAIN_TYPE + _DOMAIN_NAME + _DOMAIN_VERSION + chain_id + _word(self.contract))


class TicketParams(Frozen):
    """What a recipient lets a sender sign tickets for.

    `face_value` is in wei; `win_prob` a threshold out of 2**256; `expiry` in seconds since the epoch, the first moment
    at which the contract refuses; `commitment` the keccak of the recipient's 32 random bytes.
    """

    sender: Address
    recipient: Address
    face_value: Wei
    win_prob: WinProb
    expiry: Annotated[int, Field(ge=0, le=UINT64_MAX)]
    commitment: Bytes32

    def hash(self) -> bytes:
        """EIP-712's hashStruct: 32 bytes that name this set of parameters."""
        return self._struct_hash

    def expected_value(self) -> int:
        """What one ticket is worth on average, in wei, rounded down."""
        return self.face_value * self.win_prob >> 256

    @cached_property
    def _struct_hash(self) -> bytes:
        return keccak(
            _PARAMS_TYPE
            + _word(self.sender)
            + _word(self.recipient)
            + self.face_value.to_bytes(32)
            + self.win_prob.to_bytes(32)
            + self.expiry.to_bytes(32)
            + self.commitment
        )


@dataclass(frozen=True, slots=True)
class Ticket:
    """A sender's promise: `face_value` wei if it wins, nothing otherwise. No model, since there are very many."""

    params: TicketParams
    sender_nonce: Annotated[int, Field(ge=0, le=UINT32_MAX)]
    signature: Signature


def ticket_digest(domain: Domain, params: TicketParams, sender_nonce: int) -> bytes:
    """The 32 bytes that a ticket's signature covers. Raises `OverflowError` if the nonce needs more than 32 bits."""
    ticket_hash = keccak(_TICKET_TYPE + params.hash() + _NONCE_PADDING + sender_nonce.to_bytes(4))
    return keccak(b"\x19\x01" + domain.separator + ticket_hash)


def sign_ticket(key: SigningKey, domain: Domain, params: TicketParams, sender_nonce: int) -> Ticket:
    """Sign the ticket with the next `sender_nonce`; using one twice under the same parameters pays only once."""
    signature = key.sign_digest(ticket_digest(domain, params, sender_nonce))
    return Ticket(params=params, sender_nonce=sender_nonce, signature=signature)


def recover_signer(domain: Domain, ticket: Ticket) -> Address:
    """Who signed; whether that key may sign for the sender is the contract's to say.

    Raises `TicketSignatureInvalid` if the signature is not in the one accepted encoding or belongs to no key.
    """
    signer = recover_address(ticket_digest(domain, ticket.params, ticket.sender_nonce), ticket.signature)
    if signer is None:
        raise TicketSignatureInvalid(
            f"expected a canonical compact signature (64 bytes, low s) on ticket {ticket.sender_nonce}, "
            "got one that recovers no key: sign it again"
        )
    return signer


def wins(ticket: Ticket, recipient_rand: bytes) -> bool:
    """Whether the ticket pays, given the 32 bytes behind its commitment."""
    return int.from_bytes(keccak(ticket.signature + recipient_rand)) < ticket.params.win_prob


def commitment_to(recipient_rand: bytes) -> bytes:
    """The commitment to 32 random bytes."""
    return keccak(recipient_rand)


def win_prob_from_odds(one_in: int) -> int:
    """The threshold under which one ticket in `one_in` wins; 1 stands for (all but) always."""
    return min(2**256 // one_in, UINT256_MAX)


def likely_winners(count: int, win_prob: int) -> int:
    """How many of `count` tickets win at most, but for one time in a thousand: three more than twice the mean.

    A payment is taken if there is room for so many, however many have won. If it were refused for its winners alone, a
    sender could leave little room, and have payments with many winners refused and so taken back.
    """
    return min(count, 2 * ceil_div(count * win_prob, 2**256) + 3)


def payment_size(win_prob: int) -> int:
    """The most tickets to send at once: as many as win once on average, so that they need little room."""
    return max(PAYMENT_WINNERS, 2**256 // max(1, win_prob))


def _word(address: Address) -> bytes:
    return bytes(12) + address_bytes(address)
