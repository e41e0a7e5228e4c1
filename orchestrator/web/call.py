"""What a handler gets: the request, who makes it, and the services behind it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from orchestrator.core.records import UsagePage
from orchestrator.core.views import NodeView
from orchestrator.ports.online import OnlineInference
from orchestrator.service.artifacts import Artifacts
from orchestrator.service.events import JobEvents
from orchestrator.service.folders import Folders
from orchestrator.service.jobs import Jobs
from orchestrator.service.keys import Keys
from orchestrator.service.models import Models
from orchestrator.service.retrying import Retries
from orchestrator.service.submission import Submissions
from orchestrator.service.webhooks import Webhooks
from orchestrator.web.auth import owner_of
from orchestrator.web.oip.inferences import Inferences
from orchestrator.web.oip.memory import Memory
from orchestrator.web.signing import UrlSigner


@dataclass(frozen=True, slots=True)
class Limits:
    body: int = 32 * 2**20
    """Bytes of a JSON body. Artifacts have a limit of their own."""
    idle: float = 60.0
    """Seconds that a client may leave a transfer standing."""
    heartbeat: float = 15.0
    """Seconds between signs of life on an event stream."""


@dataclass(frozen=True, slots=True)
class OpenInference:
    """What the Open Inference Protocol stands on."""

    online: OnlineInference
    inferences: Inferences
    memory: Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that the API stands on."""

    submissions: Submissions
    jobs: Jobs
    retries: Retries
    webhooks: Webhooks
    models: Models
    unload: Callable[[str], Awaitable[None]]
    """Has every node let go of the model of a digest."""
    keys: Keys
    artifacts: Artifacts
    folders: Folders
    events: JobEvents
    signer: UrlSigner
    oip: OpenInference
    nodes: Callable[[], Awaitable[Sequence[NodeView]]]
    usage: Callable[[str | None, str | None, int], Awaitable[UsagePage]]
    """Of an owner, after the cursor of a page, at most so many; raises ValueError for another cursor."""
    ready: Callable[[], Awaitable[object]]
    """Raises a TandemError if jobs cannot be taken now."""
    registry: CollectorRegistry
    measure: Callable[[], Awaitable[object]]
    """Brings the registry's gauges up to date."""
    allow_anonymous_loopback: bool = False
    limits: Limits = Limits()

    def owner(self, headers: Mapping[str, str], peer: str) -> str | Awaitable[str]:
        """Whose a request with these headers is, from this address: at once if that is known. Raises Unauthorized."""
        return owner_of(headers, peer, self.keys, allow_anonymous_loopback=self.allow_anonymous_loopback)


@dataclass(frozen=True, slots=True)
class Call:
    request: web.Request
    owner: str
    """The API key's id, or `local`; empty where a route needs no key."""
    services: Services


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


def json_response(view: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=view.model_dump_json().encode(), status=status, content_type="application/json", headers=headers
    )
