"""`tandem webhooks`: where jobs are told of, what signs it, what became of it."""

from collections.abc import AsyncIterator

import click

from tandem.cli import tables
from tandem.cli.running import Session, WebUrl, submitter_command
from tandem.protocol.api import DeliveryList, DeliveryView
from tandem.protocol.webhooks import DeliveryStatus


@click.group()
def webhooks() -> None:
    """Webhooks: where each state of your jobs is told, and what became of it."""


@webhooks.command("set")
@click.argument("target", metavar="URL", type=WebUrl(), required=False)
@click.option("--none", "nowhere", is_flag=True, help="Tell it nowhere, unless a job says otherwise.")
@submitter_command
async def set_url(session: Session, target: str | None, nowhere: bool) -> None:
    """Tell each state of your jobs at URL; prints the secret if it is the first."""
    if (target is None) != nowhere:
        raise click.UsageError("expected URL or --none")
    webhook = await session.client.set_webhook(target)
    session.print(webhook, lambda console: tables.webhook(console, webhook))


@webhooks.command()
@submitter_command
async def secret(session: Session) -> None:
    """Make a new secret and print it, this once; the old one signs as well for a day."""
    webhook = await session.client.rotate_webhook_secret()
    session.print(webhook, lambda _: click.echo(webhook.secret))


@webhooks.command("list")
@click.option("--job", metavar="JOB", help="Only those of this job.")
@click.option("--status", type=click.Choice([status.value for status in DeliveryStatus]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@submitter_command
async def list_deliveries(session: Session, job: str | None, status: str | None, limit: int) -> None:
    """List what was sent, or is to be, newest job first."""
    wanted = DeliveryStatus(status) if status else None
    page = await session.client.deliveries(job=job, status=wanted, limit=limit)
    session.print(page, lambda console: tables.deliveries(console, page))


@webhooks.command()
@click.argument("events", metavar="[EVENT]...", nargs=-1)
@click.option("--failed", is_flag=True, help="All that were given up.")
@submitter_command
async def redeliver(session: Session, events: tuple[str, ...], failed: bool) -> None:
    """Send EVENTs anew, or all that --failed."""
    if bool(events) == failed:
        raise click.UsageError("expected the ids of events, see `tandem webhooks list`, or --failed")
    ids = [each.id async for each in _failed(session)] if failed else list(events)
    again = [await session.client.redeliver(event) for event in ids]
    answer = DeliveryList(deliveries=tuple(again))
    session.print(answer, lambda console: tables.deliveries(console, answer))


async def _failed(session: Session) -> AsyncIterator[DeliveryView]:
    after = None
    while True:
        page = await session.client.deliveries(status=DeliveryStatus.FAILED, after=after, limit=500)
        for delivery in page.deliveries:
            yield delivery
        after = page.next
        if after is None:
            return
