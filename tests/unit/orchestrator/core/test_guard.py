"""Where a stranger may send the orchestrator."""

from ipaddress import ip_address

import pytest

from orchestrator.core.guard import Guard, is_public, parse_allowed
from tandem.protocol.errors import UrlForbidden
from tandem.protocol.urls import parse_web_url

PORTS = frozenset({80, 443})
GUARD = Guard(PORTS)

CLOSED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.254",
    "127.0.0.1",
    "127.255.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:0:7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
OPEN = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.0.1",
    "100.128.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "198.20.0.1",
    "223.255.255.1",
    "2606:4700::1111",
    "2a00::1",
]


@pytest.mark.parametrize("address", CLOSED)
def test_an_address_that_is_not_everybodys_is_closed(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(UrlForbidden, match="public internet"):
        GUARD.check_addresses("example.com", ["8.8.8.8", address])


@pytest.mark.parametrize("address", OPEN)
def test_a_public_address_is_open(address: str) -> None:
    assert is_public(ip_address(address))
    GUARD.check_addresses("example.com", [address])


FORBIDDEN = [
    "http://127.0.0.1/",
    "http://2130706433/",
    "http://0177.1/",
    "http://0x7f000001/",
    "http://[::1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://0/",
    "http://[64:ff9b::7f00:1]/",
    "http://example.com:22/",
    "http://8.8.8.8:6379/",
    "https://[fe80::1]/",
]


@pytest.mark.parametrize("url", FORBIDDEN)
def test_some_urls_are_refused_before_a_lookup(url: str) -> None:
    with pytest.raises(UrlForbidden):
        GUARD.check_url(parse_web_url(url))


def test_the_others_are_not() -> None:
    for url in ("http://example.com/", "https://8.8.8.8/", "http://[2606:4700::1111]:443/"):
        GUARD.check_url(parse_web_url(url))


def test_what_a_private_name_stands_for_is_not_told() -> None:
    with pytest.raises(UrlForbidden) as caught:
        GUARD.check_addresses("db.internal", ["10.9.8.7"])
    assert "10.9.8.7" not in caught.value.detail


def test_what_the_operator_allows_is_open() -> None:
    guard = Guard(PORTS, (parse_allowed("10.1.0.0/16"), parse_allowed("Media.Internal."), parse_allowed("::1")))
    guard.check_url("http://10.1.2.3/")
    guard.check_url("http://[::1]/")
    guard.check_addresses("media.internal", ["10.9.9.9"])
    for host, address in (("other.internal", "10.9.9.9"), ("x", "10.2.0.1"), ("x", "::2")):
        with pytest.raises(UrlForbidden):
            guard.check_addresses(host, [address])


@pytest.mark.parametrize("text", ["", "10.1.2.3/8", "http://x", "a/b"])
def test_what_is_neither_network_nor_name_is_a_wrong_setting(text: str) -> None:
    with pytest.raises(ValueError, match="expected a host's name or a network"):
        parse_allowed(text)
