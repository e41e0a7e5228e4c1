import pytest

from orchestrator.web.oip.head import parse_head

PLAIN = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n"


def test_a_plain_request() -> None:
    head = parse_head(PLAIN)
    assert head is not None
    assert (head.model, head.version, head.length, head.keep_alive) == ("digits", None, 12, True)
    assert head.headers == {"host": "a", "content-length": "12"}


def test_a_version_a_query_and_the_end_of_the_connection() -> None:
    head = parse_head(
        b"POST /v2/models/a.b-c_1/versions/2/infer?x=1 HTTP/1.1\r\nCONNECTION: Close\r\ncontent-length:0\r\n\r\n"
    )
    assert head is not None
    assert (head.model, head.version, head.length, head.keep_alive) == ("a.b-c_1", "2", 0, False)


@pytest.mark.parametrize(
    ("instead_of", "it_says"),
    [
        (b"POST", b"GET"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"/infer", b""),
        (b"digits", b"dig%20its"),
        (b"digits", b"a/b"),
        (b"12", b"-1"),
        (b"12", b"+12"),
        (b"12", b"1_2"),
        (b"12", b"12, 12"),
        (b"12", b"\xb2"),
        (b"12", b"12\xa0"),
        (b"12", b"12\x85"),
        (b"12", b"9999999999999999"),
        (b"Content-Length: 12", b"X: 1"),
        (b"Content-Length:", b"Content-Length :"),
        (b"Host: a\r\n", b"Host: a\r\ncontent-length: 12\r\n"),
        (b"Host: a\r\n", b"Host: a\r\nhost: b\r\n"),
        (b"Host: a\r\n", b"Transfer-Encoding: chunked\r\n"),
        (b"Host: a\r\n", b"Upgrade: websocket\r\n"),
        (b"Host: a\r\n", b"Expect: more\r\n"),
        (b"Host: a\r\n", b"Host: a\r\n folded\r\n"),
        (b"Host: a\r\n", b"Host: a\n"),
        (b"Host: a\r\n", b"Host: a\x00\r\n"),
        (b"Host: a\r\n", b"Host: a\rb\r\n"),
        (b"Host: a\r\n", b"nothing\r\n"),
    ],
)
def test_what_is_not_plain_is_left_to_a_whole_parser(instead_of: bytes, it_says: bytes) -> None:
    assert parse_head(PLAIN.replace(instead_of, it_says)) is None
