"""Where the orchestrator may go for a stranger: decided from a URL, and from the addresses that its name stands for.

A URL of a submitter must not reach what only this machine or its network can reach. Addresses are judged after the
name was looked up, and the connection is then made to just those; so a name that changes its mind changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from tandem.protocol.errors import UrlForbidden
from tandem.protocol.urls import web_host

_CLOSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # public by its number, and a cloud's own service to its machines
        "169.254.0.0/16",  # link-local
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays to 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_OPEN_V6 = IPv6Network("2000::/3")
"""Global unicast. Loopback, mapped IPv4, NAT64, unique local, link-local, site-local and multicast lie outside."""
_CLOSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",  # documentation
    )
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def parse_allowed(text: str) -> str | Network:
    """A network such as `10.1.0.0/16`, or a host's name in small letters. Raises ValueError."""
    try:
        return ip_network(text)
    except ValueError:
        name = text.lower().rstrip(".")
        if not name or "/" in name or ":" in name:
            raise ValueError(f"expected a host's name or a network such as 10.1.0.0/16, got {text!r}") from None
        return name


@dataclass(frozen=True, slots=True)
class Guard:
    """`ports` may be visited; `allowed` hosts and networks may be, whatever their addresses are."""

    ports: frozenset[int]
    allowed: tuple[str | Network, ...] = ()

    def check_url(self, url: str) -> None:
        """What can be told before a name is looked up. Raises UrlForbidden."""
        host, port = web_host(url)
        if port not in self.ports:
            raise UrlForbidden(f"expected a URL with a port out of {sorted(self.ports)}, got port {port}")
        literal = _literal(host)
        if literal is not None:
            self.check_addresses(host, [host])

    def check_addresses(self, host: str, addresses: Sequence[str]) -> None:
        """What a host's name stands for; one bad address condemns it. Raises UrlForbidden."""
        if host.lower() in self.allowed:
            return
        for text in addresses:
            address = _literal(text)
            if address is None or not (self._is_allowed(address) or is_public(address)):
                raise UrlForbidden(  # which address a name has here is nobody's business
                    f"expected a host of the public internet, or one that the operator allows; {host} is neither"
                )

    def _is_allowed(self, address: Address) -> bool:
        return any(not isinstance(each, str) and address in each for each in self.allowed)


def is_public(address: Address) -> bool:
    """Whether everybody on the internet reaches the same machine under it."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    if address.scope_id is not None or address not in _OPEN_V6:
        return False
    return not any(address in network for network in _CLOSED_V6)


def is_loopback(host: str) -> bool:
    """Whether a host by this name or address is the very machine that asks."""
    if host == "localhost":
        return True
    address = _literal(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address is not None and (mapped or address).is_loopback


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
