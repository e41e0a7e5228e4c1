"""URLs that a submitter gives, in the one spelling by which they are judged and then followed.

They are read as browsers read them (WHATWG), so that `http://0x7f.1` and `http://2130706433` are `http://127.0.0.1/`
before anybody looks at the host, and no two parsers can differ about where a URL leads.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, TypeAdapter, UrlConstraints

MAX_URL = 8192
"""Characters. A presigned URL with a session's token takes thousands."""

_WEB: TypeAdapter[HttpUrl] = TypeAdapter(Annotated[HttpUrl, UrlConstraints(max_length=MAX_URL)])
_HTTPS = "https"
_HTTPS_PORT, _HTTP_PORT = 443, 80


def parse_web_url(text: str) -> str:
    """The URL as it is followed: http or https, a host, no user or password, no fragment. Raises ValueError."""
    url = _WEB.validate_python(text)
    if url.username or url.password:
        raise ValueError("expected a URL without user and password, got one with them; use a presigned URL instead")
    return str(url).partition("#")[0]


def web_host(url: str) -> tuple[str, int]:
    """Host, without brackets or a last dot, and port of a URL that `parse_web_url` gave."""
    parsed = _WEB.validate_python(url)
    port = parsed.port or (_HTTPS_PORT if parsed.scheme == _HTTPS else _HTTP_PORT)
    return (parsed.host or "").strip("[]").rstrip("."), port


def web_endpoint(url: str) -> str:
    """Scheme, host and port of a URL that `parse_web_url` gave."""
    host, port = web_host(url)
    return f"{url.partition(':')[0]}://{host}:{port}"


WebUrl = Annotated[str, Field(max_length=MAX_URL), AfterValidator(parse_web_url)]
"""An http or https URL that the orchestrator may be asked to visit."""
