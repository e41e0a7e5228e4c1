import json
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from pydantic import TypeAdapter, ValidationError

from tandem.protocol.errors import TicketSignatureInvalid
from tandem.protocol.signing import SigningKey, recover_address
from tandem.protocol.tickets import (
    PAYMENT_WINNERS,
    Domain,
    Ticket,
    TicketParams,
    commitment_to,
    likely_winners,
    payment_size,
    recover_signer,
    sign_ticket,
    ticket_digest,
    win_prob_from_odds,
    wins,
)
from tests.fixtures.tickets import two_encodings, typed_data

GOLDEN = Path(__file__).parents[4] / "contracts" / "test" / "golden.json"
KEY = SigningKey.from_bytes(bytes(31) + b"\x07")
DOMAIN = Domain(chain_id=31337, contract="0x" + "11" * 20)
PARAMS = TicketParams(
    sender=KEY.address,
    recipient="0x" + "22" * 20,
    face_value=10**18,
    win_prob=win_prob_from_odds(100),
    expiry=2_000_000_000,
    commitment=commitment_to(bytes(32)),
)


def test_digest_equals_the_generic_encoder() -> None:
    signable = encode_typed_data(full_message=typed_data(DOMAIN, PARAMS, 5))
    signed = Account.sign_message(signable, KEY.secret)
    assert ticket_digest(DOMAIN, PARAMS, 5) == bytes(signed.message_hash)
    assert sign_ticket(KEY, DOMAIN, PARAMS, 5).signature[:32] == signed.r.to_bytes(32)


@pytest.mark.parametrize("golden", json.loads(GOLDEN.read_text())["tickets"], ids=lambda golden: golden["name"])
def test_golden_vectors(golden: dict[str, Any]) -> None:
    domain = Domain.model_validate_json(json.dumps(golden["domain"]))
    ticket = TypeAdapter(Ticket).validate_json(json.dumps(golden["ticket"]))
    rand = bytes.fromhex(golden["recipient_rand"][2:])
    assert ticket.params.hash().hex() == golden["params_hash"][2:]
    assert ticket_digest(domain, ticket.params, ticket.sender_nonce).hex() == golden["digest"][2:]
    assert recover_signer(domain, ticket) == golden["signer"]
    assert commitment_to(rand) == ticket.params.commitment
    assert wins(ticket, rand) is golden["wins"]


def test_amounts_are_strings_in_json() -> None:
    assert json.loads(PARAMS.model_dump_json())["face_value"] == "1000000000000000000"


@pytest.mark.parametrize("sender_nonce", [-1, 2**32])
def test_a_nonce_that_does_not_fit_is_never_signed(sender_nonce: int) -> None:
    with pytest.raises(OverflowError):
        sign_ticket(KEY, DOMAIN, PARAMS, sender_nonce)


def test_the_second_encoding_of_a_signature_is_refused() -> None:
    key, low, high = two_encodings(ticket_digest(DOMAIN, PARAMS, 0))
    ticket = Ticket(params=PARAMS, sender_nonce=0, signature=low)
    assert recover_signer(DOMAIN, ticket) == key.address
    with pytest.raises(TicketSignatureInvalid, match="low s"):
        recover_signer(DOMAIN, replace(ticket, signature=high))


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, bytes(65), b"", b"\x01" * 63])
def test_signatures_that_belong_to_nobody(signature: bytes) -> None:
    assert recover_address(bytes(32), signature) is None


def test_another_domain_is_another_digest() -> None:
    ticket = sign_ticket(KEY, DOMAIN, PARAMS, 0)
    assert recover_signer(DOMAIN, ticket) == KEY.address
    for other in (Domain(chain_id=1, contract=DOMAIN.contract), Domain(chain_id=31337, contract="0x" + "12" * 20)):
        assert recover_signer(other, ticket) != KEY.address


def test_a_copy_with_another_value_is_another_struct() -> None:
    kept = PARAMS.hash(), DOMAIN.separator
    other = PARAMS.model_copy(update={"expiry": PARAMS.expiry + 1})
    assert other.hash() == TicketParams.model_validate(other.model_dump()).hash() != kept[0]
    assert DOMAIN.model_copy(update={"chain_id": 1}).separator != kept[1]


def test_expected_value_rounds_down() -> None:
    assert PARAMS.expected_value() == 10**16 - 1
    assert PARAMS.model_copy(update={"win_prob": 0}).expected_value() == 0


def test_always_and_never_win() -> None:
    always = PARAMS.model_copy(update={"win_prob": win_prob_from_odds(1)})
    never = PARAMS.model_copy(update={"win_prob": 0})
    assert wins(sign_ticket(KEY, DOMAIN, always, 0), bytes(32))
    assert not wins(sign_ticket(KEY, DOMAIN, never, 0), bytes(32))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recipient", "0x22"),
        ("recipient", "22" * 21),
        ("recipient", "0x" + "zz" * 20),
        ("recipient", "0xF39fd6e51aad88F6F4ce6aB8827279cffFb92266"),
        ("face_value", -1),
        ("face_value", 2**256),
        ("win_prob", 0.5),
        ("expiry", 2**64),
        ("commitment", bytes(31)),
        ("commitment", "00" * 32),
    ],
)
def test_params_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        TicketParams.model_validate(PARAMS.model_dump() | {field: value})


def test_addresses_are_normalised() -> None:
    lower = TicketParams.model_validate(
        PARAMS.model_dump() | {"recipient": "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"}
    )
    assert lower.recipient == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


def test_a_key_never_shows_its_secret() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert KEY.address in repr(KEY)


@pytest.mark.parametrize("odds", [1, 2, 3, 10, 100, 10**4])
def test_more_winners_than_are_likely_are_worth_nothing_to_who_has_them_refused(odds: int) -> None:
    for count in (1, 2, 5, 9, 20, 99, 100, 101, 199, 200, 300, 1024):
        likely, p = likely_winners(count, win_prob_from_odds(odds)), 1 / odds
        chances = [comb(count, won) * p**won * (1 - p) ** (count - won) for won in range(likely + 1)]
        assert 1 - sum(chances) < 0.0015
        beyond = count * p - sum(won * chance for won, chance in enumerate(chances))
        assert beyond < 0.01 * count * p


@pytest.mark.parametrize(("odds", "size"), [(1, 5), (4, 5), (6, 6), (100, 100)])
def test_a_payment_of_the_usual_size_needs_little_room(odds: int, size: int) -> None:
    win_prob = win_prob_from_odds(odds)
    assert payment_size(win_prob) == size
    assert likely_winners(size, win_prob) == PAYMENT_WINNERS
    assert payment_size(0) == 2**256
