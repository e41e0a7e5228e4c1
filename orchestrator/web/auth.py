"""Who makes a request: the bearer of an API key, or, where the settings allow it, somebody on this very machine."""

from collections.abc import Awaitable, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from orchestrator.core.guard import is_loopback
from orchestrator.service.keys import LOCAL_OWNER, Keys
from tandem.protocol.errors import Unauthorized

_SCHEME = "bearer "
_FORWARDING = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_HOSTS = 64
"""Remembered, since the same few come with every request."""


def owner_of(
    headers: Mapping[str, str], peer: str, keys: Keys, *, allow_anonymous_loopback: bool
) -> str | Awaitable[str]:
    """The key's id, or `local`: at once if it is known. Headers are found by lower case names. Raises Unauthorized."""
    header = headers.get("authorization")
    if header is not None:
        known = keys.trusted(text := _bearer(header))
        return known.id if known is not None else _looked_up(text, keys)
    if allow_anonymous_loopback and is_local(headers, peer):
        return LOCAL_OWNER
    raise Unauthorized("expected an API key as `Authorization: Bearer tdm_…`, got none")


async def _looked_up(text: str, keys: Keys) -> str:
    return (await keys.authenticate(text)).id


def is_local(headers: Mapping[str, str], peer: str) -> bool:
    """Whether the request was made on this machine, by a program rather than a foreign web page.

    A proxy on this machine passes on strangers' requests, and says so in a header. A page from elsewhere that is shown
    by a browser here gives itself away by its `Origin`, or by the name it had to put into `Host`.
    """
    if any(name in headers for name in _FORWARDING) or not _is_loopback(peer):
        return False
    host = headers.get("host", "")
    origin = headers.get("origin")
    return _is_loopback(_host_name(f"//{host}")) and (origin is None or origin.partition("//")[2] == host)


def _bearer(header: str) -> str:
    if header[: len(_SCHEME)].lower() != _SCHEME:
        raise Unauthorized("expected `Authorization: Bearer tdm_…`, got another scheme")
    return header[len(_SCHEME) :].strip()


@lru_cache(_HOSTS)
def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


_is_loopback = lru_cache(_HOSTS)(is_loopback)
