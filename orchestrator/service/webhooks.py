"""The webhooks of submitters: where they are, what signs them, what became of what they were told."""

import secrets
from collections.abc import Callable
from dataclasses import replace

from orchestrator.core.records import DeliveryPage, DeliveryRecord, WebhookRecord
from orchestrator.ports.store import Store
from orchestrator.ports.visiting import Visitor
from tandem.protocol.errors import Conflict, InvalidRequest, NotFound
from tandem.protocol.ids import parse_event_id
from tandem.protocol.jobs import AnyRequest
from tandem.protocol.webhooks import SECRET_BYTES, DeliveryStatus, secret_text

OVERLAP_SECONDS = 86_400.0
"""For which an old secret signs beside its successor, so that receivers can change over in peace."""


class Webhooks:
    """`to_deliver` is called when there is something to send."""

    def __init__(self, store: Store, visitor: Visitor, to_deliver: Callable[[], None]) -> None:
        self._store = store
        self._visitor = visitor
        self._to_deliver = to_deliver

    def wake(self) -> None:
        """A new job wants to be told of."""
        self._to_deliver()

    async def get(self, owner: str) -> WebhookRecord:
        """Raises NotFound."""
        webhook = await self._store.webhook(owner)
        if webhook is None:
            raise NotFound("expected a webhook, there is none yet; PUT one, or make a secret")
        return webhook

    async def configure(self, owner: str, url: str | None) -> tuple[WebhookRecord, bool]:
        """Has jobs that name no webhook told at `url`, or nowhere. Whether its secret is new. Raises UrlForbidden."""
        if url is not None:
            self._visitor.check(url)
        secret = _new_secret()

        def decide(known: WebhookRecord | None, now: float) -> WebhookRecord:
            return replace(known, url=url) if known else WebhookRecord(owner, url, secret, made_at=now)

        webhook = await self._store.decide_webhook(owner, decide)
        return webhook, webhook.secret == secret

    async def rotate(self, owner: str) -> WebhookRecord:
        """A new secret, the first one included. The old one signs as well for a day."""
        secret = _new_secret()

        def decide(known: WebhookRecord | None, now: float) -> WebhookRecord:
            if known is None:
                return WebhookRecord(owner, None, secret, made_at=now)
            return WebhookRecord(owner, known.url, secret, now, known.secret, now + OVERLAP_SECONDS)

        return await self._store.decide_webhook(owner, decide)

    async def target(self, request: AnyRequest, owner: str) -> str | None:
        """Where the new job's states are told. Raises UrlForbidden; Conflict without a secret to sign with."""
        webhook = await self._store.webhook(owner)
        if request.webhook is None:
            return webhook.url if webhook else None
        self._visitor.check(request.webhook.url)
        if webhook is None:
            raise Conflict(
                "expected a secret to sign webhooks with, there is none; make one with `tandem webhooks secret` "
                "or POST /v1/webhook/secret"
            )
        return request.webhook.url

    async def deliveries(
        self, owner: str, *, job: str | None, status: DeliveryStatus | None, after: str | None, limit: int
    ) -> DeliveryPage:
        """Raises InvalidRequest for an `after` that is no event's id."""
        try:
            return await self._store.deliveries(owner, job=job, status=status, after=after, limit=limit)
        except ValueError as error:
            raise InvalidRequest(f"after: {error}") from error

    async def redeliver(self, owner: str, event: str) -> DeliveryRecord:
        """Sends an event anew, whatever became of it. Raises NotFound."""
        try:
            job, number = parse_event_id(event)
        except ValueError as error:
            raise NotFound(str(error)) from error
        delivery = await self._store.redeliver(owner, job, number)
        self._to_deliver()
        return delivery


def _new_secret() -> str:
    return secret_text(secrets.token_bytes(SECRET_BYTES))
