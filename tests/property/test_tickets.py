from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak as eth_keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.protocol.hashing import keccak
from tandem.protocol.signing import SigningKey, address_from_bytes, recover_address
from tandem.protocol.tickets import (
    Domain,
    TicketParams,
    commitment_to,
    recover_signer,
    sign_ticket,
    ticket_digest,
    win_prob_from_odds,
    wins,
)
from tests.fixtures.tickets import typed_data

uint256 = st.integers(0, 2**256 - 1)
uint32 = st.integers(0, 2**32 - 1)
bytes32 = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20).map(address_from_bytes)
keys = bytes32.map(keccak).map(SigningKey.from_bytes)
domains = st.builds(Domain, chain_id=st.integers(1, 2**256 - 1), contract=addresses)
params = st.builds(
    TicketParams,
    sender=addresses,
    recipient=addresses,
    face_value=uint256,
    win_prob=uint256,
    expiry=st.integers(0, 2**64 - 1),
    commitment=bytes32,
)


@given(st.binary(max_size=600))
def test_keccak_equals_the_one_that_eth_hash_chooses(data: bytes) -> None:
    assert keccak(data) == eth_keccak(data)


@given(domains, params, uint32)
def test_digest_equals_the_generic_encoder(domain: Domain, params: TicketParams, sender_nonce: int) -> None:
    signable = encode_typed_data(full_message=typed_data(domain, params, sender_nonce))
    assert ticket_digest(domain, params, sender_nonce) == eth_keccak(b"\x19\x01" + signable.header + signable.body)


@settings(max_examples=50)
@given(keys, domains, params, uint32)
def test_signatures_are_those_of_eth_account(
    key: SigningKey, domain: Domain, params: TicketParams, sender_nonce: int
) -> None:
    signable = encode_typed_data(full_message=typed_data(domain, params, sender_nonce))
    theirs = Account.sign_message(signable, key.secret)
    ours = sign_ticket(key, domain, params, sender_nonce).signature
    assert ours == theirs.r.to_bytes(32) + (theirs.s | (theirs.v - 27) << 255).to_bytes(32)
    assert Account.recover_message(signable, signature=theirs.signature) == key.address


@given(keys, domains, params, uint32)
def test_the_signer_is_recovered(key: SigningKey, domain: Domain, params: TicketParams, sender_nonce: int) -> None:
    assert recover_signer(domain, sign_ticket(key, domain, params, sender_nonce)) == key.address


@given(keys, bytes32, st.integers(0, 511))
def test_a_flipped_bit_is_another_signer_or_none(key: SigningKey, digest: bytes, bit: int) -> None:
    signature = int.from_bytes(key.sign_digest(digest)) ^ (1 << bit)
    assert recover_address(digest, signature.to_bytes(64)) != key.address


@given(bytes32, st.binary(max_size=70))
def test_no_bytes_break_recovery(digest: bytes, signature: bytes) -> None:
    recover_address(digest, signature)


@given(params)
def test_params_that_cross_the_wire_keep_their_hash(params: TicketParams) -> None:
    assert TicketParams.model_validate_json(params.model_dump_json()).hash() == params.hash()


@given(params, st.integers(1, 10**9))
def test_expected_value_is_the_odds_share(params: TicketParams, one_in: int) -> None:
    priced = params.model_copy(update={"win_prob": win_prob_from_odds(one_in)})
    assert params.face_value // one_in - priced.expected_value() in {0, 1}


@given(keys, domains, params, bytes32, uint32)
def test_a_better_chance_never_loses_a_winner(
    key: SigningKey, domain: Domain, params: TicketParams, rand: bytes, sender_nonce: int
) -> None:
    ticket = sign_ticket(key, domain, params.model_copy(update={"commitment": commitment_to(rand)}), sender_nonce)
    draw = int.from_bytes(keccak(ticket.signature + rand))
    assert wins(ticket, rand) is (draw < ticket.params.win_prob)
