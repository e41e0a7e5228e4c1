import pytest
from eth_account.messages import encode_typed_data

from tandem.protocol.errors import ForgedIdentity
from tandem.protocol.handshake import HandshakeTerms, Role
from tandem.protocol.hashing import keccak
from tests.fixtures.protocol import DOMAIN, NODE, ORIGIN, SENDER, SIGNER, STRANGER

TERMS = HandshakeTerms(
    origin=ORIGIN,
    chain_id=DOMAIN.chain_id,
    contract=DOMAIN.contract,
    version=1,
    sender=SENDER.address,
    signer=SIGNER.address,
    node=NODE.address,
    node_nonce=b"n" * 32,
    orchestrator_nonce=b"o" * 32,
)
FIELDS = {
    "role": "string",
    "origin": "string",
    "chainId": "uint256",
    "contract": "address",
    "version": "uint32",
    "sender": "address",
    "signer": "address",
    "node": "address",
    "nodeNonce": "bytes32",
    "orchestratorNonce": "bytes32",
}


@pytest.mark.parametrize("role", Role)
def test_the_digest_is_that_of_typed_data(role: Role) -> None:
    values: list[object] = [role.value, ORIGIN, DOMAIN.chain_id, DOMAIN.contract, 1]
    values += [SENDER.address, SIGNER.address, NODE.address, b"n" * 32, b"o" * 32]
    document = {
        "domain": {"name": "TandemSession", "version": "1"},
        "primaryType": "SessionProof",
        "types": {
            "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "version", "type": "string"}],
            "SessionProof": [{"name": name, "type": kind} for name, kind in FIELDS.items()],
        },
        "message": dict(zip(FIELDS, values, strict=True)),
    }
    signable = encode_typed_data(full_message=document)
    assert TERMS.digest(role) == keccak(b"\x19\x01" + signable.header + signable.body)


def test_each_proves_its_own_role() -> None:
    TERMS.verify(Role.NODE, TERMS.prove(Role.NODE, NODE))
    TERMS.verify(Role.ORCHESTRATOR, TERMS.prove(Role.ORCHESTRATOR, SIGNER))


@pytest.mark.parametrize(
    "signature",
    [
        TERMS.prove(Role.NODE, STRANGER),
        TERMS.prove(Role.NODE, SIGNER),
        TERMS.prove(Role.ORCHESTRATOR, NODE),
        bytes(64),
        b"",
    ],
    ids=["stranger", "orchestrator", "other role", "zeros", "nothing"],
)
def test_anybody_else_is_forged(signature: bytes) -> None:
    with pytest.raises(ForgedIdentity, match=NODE.address):
        TERMS.verify(Role.NODE, signature)


@pytest.mark.parametrize(
    "other",
    [
        {"origin": "http://127.0.0.1:8081"},
        {"chain_id": 1},
        {"contract": SENDER.address},
        {"version": 2},
        {"sender": STRANGER.address},
        {"signer": STRANGER.address},
        {"node_nonce": b"m" * 32},
        {"orchestrator_nonce": b"p" * 32},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_proof_is_good_for_these_terms_alone(other: dict[str, object]) -> None:
    elsewhere = TERMS.model_copy(update=other)
    with pytest.raises(ForgedIdentity):
        elsewhere.verify(Role.NODE, TERMS.prove(Role.NODE, NODE))
