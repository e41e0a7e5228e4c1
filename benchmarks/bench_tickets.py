"""Tickets signed and checked a second on one core: Tandem's way, eth-account's generic way, and the bare curve.

The ways take turns within a round, and a ratio is taken within one, so that a machine whose speed drifts does little
harm. Seconds are of CPU time in one thread. Before anything is timed, all three must agree on every signature.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

from coincurve import PrivateKey, PublicKey
from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data
from rich.console import Console
from rich.table import Table

from benchmarks.market import load, spread
from node.core.acceptance import Till, check
from node.core.terms import Epochs, Stakes, issue, recipient_rand
from orchestrator.core.paying import MOST_TICKETS_AT_ONCE, PayingPolicy, pay
from orchestrator.core.records import AccountRecord
from orchestrator.core.session import Identity
from tandem.protocol.messages import Payment
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import Domain, Ticket, recover_signer, sign_ticket, ticket_digest, wins
from tests.fixtures.accounts import applied
from tests.fixtures.tickets import typed_data

_ROUNDS = 7
_TICKETS = 20 * MOST_TICKETS_AT_ONCE
_GENERIC = _TICKETS // 10
"""Fewer for the slow way; it takes as long."""

_NOW, _EXPIRY = 1_800_000_000, 1_800_003_600
_SECRET = b"\x05" * 32
_SENDER, _SIGNER, _NODE = (SigningKey.from_bytes(bytes([number]) * 32) for number in (1, 2, 3))
_DOMAIN = Domain(chain_id=1, contract="0x" + "ab" * 20)
_STAKES = Stakes(face_value=10**14, odds=100)
_PARAMS = issue(_STAKES, _SECRET, _SENDER.address, _NODE.address, 1, _EXPIRY)
_RAND = recipient_rand(_SECRET, _PARAMS, 1)
_TILL = Till(_DOMAIN, _SECRET, _SENDER.address, _NODE.address, Epochs(), _NOW, expiry_margin=60.0)
_IDENTITY = Identity(_SIGNER, _SENDER.address, _DOMAIN, "http://127.0.0.1")
_POLICY = PayingPolicy(max_ahead=10**15, max_face_value=10**18)
_CURVE_KEY = PrivateKey(_SIGNER.secret)

BARE, ONE, MANY, GENERIC = "bare coincurve", "Tandem", "Tandem, payments", "eth-account"


@dataclass(frozen=True, slots=True)
class Way:
    """How `count` tickets are signed, and checked; the latter is prepared by the former's outcome."""

    count: int
    sign: Callable[[], object]
    check: Callable[[], object]


def main() -> None:
    ways = _ways()
    for way in ways.values():  # warm
        way.sign(), way.check()
    rounds = [
        {name: (_rate(way, way.sign), _rate(way, way.check)) for name, way in ways.items()} for _ in range(_ROUNDS)
    ]
    table = Table(title=f"Thousands of tickets a second, one core; {load()}", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("signed", "ratio", "checked", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in ways:
        table.add_row(name, *_cells(rounds, name, 0), *_cells(rounds, name, 1))
    Console().print(table)


def _cells(rounds: list[dict[str, tuple[float, float]]], name: str, step: int) -> tuple[str, str]:
    ratio = median(each[name][step] / each[GENERIC][step] for each in rounds)
    return spread([each[name][step] / 1000 for each in rounds], digits=1), f"{ratio:.1f}"


def _rate(way: Way, work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return way.count / (time.process_time() - begun)


def _ways() -> Mapping[str, Way]:
    tickets = _sign_one_by_one()
    digests = [ticket_digest(_DOMAIN, _PARAMS, number) for number in range(_TICKETS)]
    curve = [_CURVE_KEY.sign_recoverable(digest, hasher=None) for digest in digests]
    generic = _sign_generic()
    payments = _payments()
    _agree(tickets, curve, generic, payments)
    return {
        BARE: Way(
            _TICKETS,
            lambda: [_CURVE_KEY.sign_recoverable(digest, hasher=None) for digest in digests],
            lambda: [
                PublicKey.from_signature_and_message(signature, digest, hasher=None)
                for signature, digest in zip(curve, digests, strict=True)
            ],
        ),
        ONE: Way(_TICKETS, _sign_one_by_one, partial(_check_one_by_one, tickets)),
        MANY: Way(_TICKETS, _payments, lambda: [check(payment, _TILL, frozenset()) for payment in payments]),
        GENERIC: Way(_GENERIC, _sign_generic, partial(_check_generic, generic)),
    }


def _agree(tickets: list[Ticket], curve: list[bytes], generic: list[bytes], payments: list[Payment]) -> None:
    """Ends the program unless every way signs the same."""
    ours = [ticket.signature for ticket in tickets]
    paid = [ticket.signature for payment in payments for ticket in payment.tickets]
    if not ours == paid == [_compact(each) for each in curve] or ours[:_GENERIC] != [
        _compact(each) for each in generic
    ]:
        sys.exit("expected the same signatures from every way, got others")


def _compact(signature: bytes) -> bytes:
    """Of 65 bytes, whose last is the parity, or 27 more."""
    parity = signature[64] % 27
    return signature[:32] + bytes([signature[32] | parity << 7]) + signature[33:64]


def _sign_one_by_one() -> list[Ticket]:
    return [sign_ticket(_SIGNER, _DOMAIN, _PARAMS, number) for number in range(_TICKETS)]


def _check_one_by_one(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        recover_signer(_DOMAIN, ticket)
        wins(ticket, _RAND)


def _payments() -> list[Payment]:
    """As the orchestrator decides on them, for a node that has earned all at once."""
    account = AccountRecord(_NODE.address, earned=_TICKETS * _PARAMS.expected_value(), params=_PARAMS)
    payments: list[Payment] = []
    while (changes := pay(account, _IDENTITY, _POLICY, _NOW)).payment is not None:
        account = applied(account, changes)
        payments.append(Payment(id=len(payments) + 1, params=_PARAMS, tickets=changes.payment.tickets))
    return payments


def _signable(number: int) -> SignableMessage:
    return encode_typed_data(full_message=typed_data(_DOMAIN, _PARAMS, number))


def _sign_generic() -> list[bytes]:
    return [bytes(Account.sign_message(_signable(number), _SIGNER.secret).signature) for number in range(_GENERIC)]


def _check_generic(signatures: list[bytes]) -> None:
    for number, signature in enumerate(signatures):
        Account.recover_message(_signable(number), signature=signature)


if __name__ == "__main__":
    main()
