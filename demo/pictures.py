"""What the demo shows: digits, renditions, jobs, earnings."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from tandem.protocol.api import JobView, RenditionView
from tandem.protocol.jobs import AttemptState

_SHADES = " ░▒▓█"
_BRIGHTEST = 16
_SIDE = 8


@dataclass(frozen=True, slots=True)
class Answer:
    pixels: Sequence[int]
    """64, in 0..16, row by row."""
    shows: int
    label: int
    probability: float


@dataclass(frozen=True, slots=True)
class Earnings:
    """Of one node, in wei."""

    name: str
    address: str
    earned: int
    received: int
    """In tickets, by their expected value."""
    tickets: int
    winners: int
    paid: int
    gas: int
    outstanding: int
    """Won and not yet redeemed."""
    before: int
    after: int


def digit(pixels: Sequence[int]) -> str:
    """The picture in blocks; a pixel is two characters wide, since characters are tall."""
    shades = [_SHADES[pixel * (len(_SHADES) - 1) // _BRIGHTEST] * 2 for pixel in pixels]
    return "\n".join("".join(shades[start : start + _SIDE]) for start in range(0, len(shades), _SIDE))


def show_digits(console: Console, answers: Sequence[Answer]) -> None:
    panels = [
        Panel(
            digit(answer.pixels),
            title=f"{answer.label}, {answer.probability:.1%} sure",
            border_style="green" if answer.label == answer.shows else "red",
            expand=False,
        )
        for answer in answers
    ]
    console.print(Columns(panels))


def show_renditions(console: Console, renditions: Sequence[RenditionView]) -> None:
    table = Table("rendition", "picture", "frames", "bitrate", "size", title="What came back", title_justify="left")
    for each in renditions:
        picture = f"{each.width}x{each.height}"
        bitrate = f"{(each.bitrate or 0) / 1000:,.0f} kbit/s"
        table.add_row(each.name, picture, str(each.frames), bitrate, f"{each.size:,} bytes")
    console.print(table)


def show_jobs(console: Console, jobs: Sequence[JobView], names: dict[str, str]) -> None:
    """`names` of the nodes by their addresses."""
    table = Table("job", "kind", title="What it cost", title_justify="left")
    table.add_column("wei", justify="right", no_wrap=True)
    table.add_column("done by", no_wrap=True)
    for job in jobs:
        done_by = ", ".join(names[each.node] for each in job.attempts if each.state is AttemptState.ACCEPTED)
        table.add_row(job.id, job.kind, f"{job.price.charged:,}", done_by)
    console.print(table)


def show_earnings(console: Console, nodes: Sequence[Earnings]) -> None:
    table = Table("", title="What the nodes earned, in wei", title_justify="left")
    for each in nodes:
        table.add_column(each.name, justify="right", overflow="fold")
    table.add_row("address", *(each.address for each in nodes))
    table.add_row("accepted work", *(f"{each.earned:,}" for each in nodes))
    table.add_row("tickets received", *(f"{each.tickets:,}" for each in nodes))
    table.add_row("winners redeemed", *(f"{each.winners:,}" for each in nodes))
    table.add_row("paid by the contract", *(f"{each.paid:,}" for each in nodes))
    table.add_row("gas spent", *(f"{each.gas:,}" for each in nodes))
    table.add_row("balance before", *(f"{each.before:,}" for each in nodes))
    table.add_row("balance after", *(f"{each.after:,}" for each in nodes))
    console.print(table)
