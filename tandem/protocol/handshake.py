"""Mutual proof of identity at the start of a node session.

Each side signs the other's random nonce as EIP-712 typed data, bound to the origin that the node dialled, to the chain
and to the contract: a relay in between cannot use the proof elsewhere, and a proof of one role is none of the other.
"""

from enum import StrEnum

from tandem.protocol.errors import ForgedIdentity
from tandem.protocol.hashing import keccak
from tandem.protocol.ids import Frozen
from tandem.protocol.signing import Address, Bytes32, SigningKey, address_bytes, recover_address

_DOMAIN = keccak(
    keccak(b"EIP712Domain(string name,string version)") + keccak(b"TandemSession") + keccak(b"1"),
)
_TYPE = keccak(
    b"SessionProof(string role,string origin,uint256 chainId,address contract,uint32 version,"
    b"address sender,address signer,address node,bytes32 nodeNonce,bytes32 orchestratorNonce)"
)


class Role(StrEnum):
    NODE = "node"
    ORCHESTRATOR = "orchestrator"


class HandshakeTerms(Frozen):
    """All that both sides sign."""

    origin: str
    """Scheme, host and port that the node dialled, such as `http://127.0.0.1:8080`."""
    chain_id: int
    contract: Address
    version: int
    sender: Address
    signer: Address
    node: Address
    node_nonce: Bytes32
    orchestrator_nonce: Bytes32

    def digest(self, role: Role) -> bytes:
        """The 32 bytes that `role` signs."""
        words = [
            _TYPE,
            keccak(role.encode()),
            keccak(self.origin.encode()),
            self.chain_id.to_bytes(32),
            _word(self.contract),
            self.version.to_bytes(32),
            _word(self.sender),
            _word(self.signer),
            _word(self.node),
            self.node_nonce,
            self.orchestrator_nonce,
        ]
        return keccak(b"\x19\x01" + _DOMAIN + keccak(b"".join(words)))

    def prove(self, role: Role, key: SigningKey) -> bytes:
        return key.sign_digest(self.digest(role))

    def verify(self, role: Role, signature: bytes) -> None:
        """Raises ForgedIdentity unless the account that `role` claims signed these very terms."""
        claimed = self.node if role is Role.NODE else self.signer
        found = recover_address(self.digest(role), signature)
        if found != claimed:
            raise ForgedIdentity(
                f"expected a proof by {claimed} for origin {self.origin}, got one by {found or 'nobody'}; "
                "check that both sides name the same public URL, chain and contract"
            )


def _word(address: str) -> bytes:
    return bytes(12) + address_bytes(address)
