"""How a node stands, and what keeps it from earning, in sentences for its operator."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from tandem.protocol.tickets import PAYMENT_WINNERS
from tandem.protocol.units import format_amount

ALIVE_SECONDS = 60.0
"""A running node says so this often."""


class Topic(StrEnum):
    """What a running node notes. An empty note stands for: nothing is wrong."""

    ALIVE = "alive"
    """When it last was, in seconds of Unix time."""
    SENDER = "sender"
    """Whose orchestrator it last worked for."""
    CHAIN = "chain"
    SESSION = "session"
    TERMS = "terms"
    BACKING = "backing"
    WORTH = "worth"
    PAYMENTS = "payments"
    REDEMPTION = "redemption"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Note:
    """How things stand on a topic, and since when, in seconds of Unix time."""

    topic: str
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the node is owed, and how much of it it lets itself be owed. All in wei."""

    unpaid: int
    """Of work that no ticket covers."""
    most: int
    missed: int = 0
    """Of on-line work that the orchestrator lost count of, beyond what is mishap."""
    outstanding: int = 0
    """Of winners that are not paid yet."""
    promised: int | None = None
    """By the contract; None if the chain does not say."""
    face_value: int = 0
    """Of a winner, at least."""

    @property
    def is_full(self) -> bool:
        """Whether what is promised has no room for another payment, because of winners that wait."""
        if self.promised is None or not self.outstanding:
            return False
        return self.outstanding + PAYMENT_WINNERS * self.face_value > self.promised


def is_running(notes: Mapping[str, Note], now: float) -> bool:
    """Whether the node said so lately. A process that was killed says nothing."""
    alive = notes.get(Topic.ALIVE)
    return alive is not None and now - float(alive.text) < 2.5 * ALIVE_SECONDS


def obstacles(notes: Mapping[str, Note], exposure: Exposure, now: float) -> tuple[str, ...]:
    """Why the node is not earning, or will not be paid, the gravest first; empty if nothing is known."""
    if not is_running(notes, now):
        return ("the node is not running: start it with `tandem node run`",)
    beginnings = {
        Topic.SESSION: "no session with the orchestrator",
        Topic.BACKING: "not backed",
        Topic.TERMS: "no terms in force",
        Topic.PROBLEM: "the orchestrator complained",
        Topic.WORTH: "winners do not pay for their gas",
        Topic.PAYMENTS: "payments are held",
        Topic.CHAIN: "no RPC endpoint answers usefully; work goes on until too much is unpaid",
        Topic.REDEMPTION: "winners are not redeemed",
    }
    found = [f"{what}, {_noted(notes[topic])}" for topic, what in beginnings.items() if _is_wrong(notes, topic)]
    return (*_full(exposure), *found)


def _full(exposure: Exposure) -> Iterator[str]:
    if exposure.unpaid + exposure.missed >= exposure.most:
        lost = f", the orchestrator lost count of {format_amount(exposure.missed)} more," if exposure.missed else ""
        yield (
            f"{format_amount(exposure.unpaid)} of work is unpaid{lost} and tickets.max_unpaid is "
            f"{format_amount(exposure.most)}: no work is taken until tickets come"
        )
    if exposure.is_full:
        yield (
            f"winners of {format_amount(exposure.outstanding)} are not paid yet and the contract promises "
            f"{format_amount(exposure.promised or 0)}: payments are held until there is room for another one"
        )


def chain_standing(notes: Mapping[str, Note], failure: str | None) -> str:
    """Whether the chain answers; `failure` is what a look at it just now came to, None if it answered."""
    if failure is None:
        return "answers"
    since = f" since {moment(notes[Topic.CHAIN].at)}" if _is_wrong(notes, Topic.CHAIN) else ""
    return f"no answer{since}: {failure}"


def moment(at: float) -> str:
    """A second of Unix time for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _is_wrong(notes: Mapping[str, Note], topic: Topic) -> bool:
    return topic in notes and bool(notes[topic].text)


def _noted(note: Note) -> str:
    return f"since {moment(note.at)}: {note.text}"
