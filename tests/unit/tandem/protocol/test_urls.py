"""URLs in one spelling."""

import pytest

from tandem.protocol.urls import parse_web_url, web_host

SPELLINGS = [
    ("http://2130706433/", ("127.0.0.1", 80)),
    ("http://0x7f.1/", ("127.0.0.1", 80)),
    ("http://0177.0.0.1:8080", ("127.0.0.1", 8080)),
    ("http://127.1", ("127.0.0.1", 80)),
    ("http://%31%32%37.0.0.1/", ("127.0.0.1", 80)),
    ("http://\uff11\uff12\uff17\u30020.0.1/", ("127.0.0.1", 80)),
    ("http:\\\\example.com\\a", ("example.com", 80)),
    ("HTTPS://EXAMPLE.com./a", ("example.com", 443)),
    ("http://[::ffff:127.0.0.1]/", ("::ffff:7f00:1", 80)),
    ("https://exämple.com:444/", ("xn--exmple-cua.com", 444)),
]


@pytest.mark.parametrize(("text", "host"), SPELLINGS)
def test_a_host_is_spelled_in_one_way(text: str, host: tuple[str, int]) -> None:
    assert web_host(parse_web_url(text)) == host


def test_the_rest_stays_as_it_is_but_for_the_fragment() -> None:
    signed = "https://bucket.example/a%20b/c%2Fd?X-Sig=%7E%2f+%2B&x=a:b"
    assert parse_web_url(signed + "#top") == signed


WRONG = [
    "ftp://x/",
    "file:///etc/passwd",
    "//x/",
    "x",
    "http://",
    "http://u@x/",
    "http://u:p@x/",
    "http://[fe80::1%25e]/",
]


@pytest.mark.parametrize("text", [*WRONG, "http://1.2.3.4.5/", "http://x/" + "a" * 9000])
def test_what_is_no_url_to_visit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|8192|host|scheme"):
        parse_web_url(text)
