"""Ethereum keys and addresses: what tickets and node sessions sign with, and how a signer is recovered.

A signature is 64 bytes in EIP-2098's compact form, `r ‖ yParityAndS`, with the low `s` of EIP-2. It is the only
encoding accepted: a ticket's outcome hashes the signature, so a second encoding would be a second draw.
"""

from functools import lru_cache
from typing import Annotated, Self

from annotated_types import Len
from coincurve import PrivateKey, PublicKey
from eth_utils.address import is_checksum_address, to_checksum_address
from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from tandem.protocol.hashing import keccak

SIGNATURE_LENGTH = 64
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""n of secp256k1 (SEC 2, 2.4.1)."""

_PARITY_BIT = 1 << 255
_MAX_S = CURVE_ORDER // 2


def parse_address(text: str) -> str:
    """The checksummed form (EIP-55) of an address in hex; mixed case must already carry the right checksum.

    Raises `ValueError`.
    """
    digits = text[2:]
    uniform = digits in {digits.lower(), digits.upper()}
    if not text.startswith("0x") or len(digits) != 40 or not (uniform or is_checksum_address(text)):  # noqa: PLR2004
        raise ValueError(f"expected an address (0x and 40 hex digits, EIP-55 checksum), got {text!r}: check for a typo")
    return address_from_bytes(bytes.fromhex(digits))


@lru_cache(maxsize=4096)  # the same few addresses come with every ticket
def address_from_bytes(raw: bytes) -> str:
    """The checksummed form of a 20-byte address."""
    return to_checksum_address(raw)


def address_bytes(address: str) -> bytes:
    """The 20 bytes of an address."""
    return bytes.fromhex(address[2:])


def _bytes_from_hex(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.startswith("0x"):
        raise ValueError("expected hex digits after 0x")
    return bytes.fromhex(value[2:])


def _hex_from_bytes(value: bytes) -> str:
    return "0x" + value.hex()


_FromHex = BeforeValidator(_bytes_from_hex)
_ToHex = PlainSerializer(_hex_from_bytes, return_type=str, when_used="json")

Address = Annotated[str, AfterValidator(parse_address)]
"""A checksummed Ethereum address."""

Bytes32 = Annotated[bytes, _FromHex, Len(32, 32), _ToHex]
"""32 bytes; `0x…` in JSON."""

Signature = Annotated[bytes, _FromHex, Len(SIGNATURE_LENGTH, SIGNATURE_LENGTH), _ToHex]
"""64 bytes, compact; `0x…` in JSON."""


class SigningKey:
    """A secp256k1 private key. Its secret is never shown by `repr`."""

    __slots__ = ("_key", "address")

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self.address: Address = _address_of(key.public_key)

    @classmethod
    def from_bytes(cls, secret: bytes) -> Self:
        """From 32 bytes; `ValueError` if they are zero or not below the curve's order."""
        return cls(PrivateKey(secret))

    @classmethod
    def generate(cls) -> Self:
        return cls(PrivateKey())

    @property
    def secret(self) -> bytes:
        """The 32 bytes of the key, for a keystore or a transaction's signature only."""
        return self._key.secret

    def sign_digest(self, digest: bytes) -> bytes:
        """The compact signature over a 32-byte digest; deterministic (RFC 6979)."""
        # libsecp256k1 always answers with the low s
        signature = self._key.sign_recoverable(digest, hasher=None)
        if not signature[64] & 1:
            return signature[:64]
        return signature[:32] + bytes([signature[32] | 0x80]) + signature[33:64]

    def __repr__(self) -> str:
        return f"SigningKey({self.address})"


def recover_address(digest: bytes, signature: bytes) -> Address | None:
    """Who signed the 32-byte digest; None if the signature is not canonical or belongs to no key."""
    if len(signature) != SIGNATURE_LENGTH:
        return None
    parity_and_s = int.from_bytes(signature[32:])
    s = parity_and_s & (_PARITY_BIT - 1)
    if s > _MAX_S:
        return None
    parity = parity_and_s >> 255
    try:
        key = PublicKey.from_signature_and_message(
            signature[:32] + s.to_bytes(32) + bytes([parity]), digest, hasher=None
        )
    except ValueError:  # no point of the curve has this r
        return None
    return _address_of(key)


def _address_of(key: PublicKey) -> Address:
    return address_from_bytes(keccak(key.format(compressed=False)[1:])[12:])
