"""Several endpoints as one, and none of them believed too much."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from tandem.chain.endpoints import _MAX_ANSWER, _REST_SECONDS
from tandem.chain.rpc import PoolAnswer, connect
from tandem.protocol.errors import ChainError, ChainUnavailable, ConfigurationError, InsufficientFunds
from tests.fixtures.anvil import Anvil, run_anvil
from tests.fixtures.clock import ManualClock
from tests.fixtures.endpoint import UnreliableEndpoint, unreliable

NOWHERE = "http://127.0.0.1:1"
ANVIL = 31337


@pytest.fixture
def now() -> ManualClock:
    return ManualClock(time.time())


@pytest.fixture
async def first(anvil: Anvil) -> AsyncIterator[UnreliableEndpoint]:
    async with unreliable(anvil.url) as endpoint:
        yield endpoint


def rpc(**fields: object) -> Callable[[], web.Response]:
    return lambda: web.json_response({"jsonrpc": "2.0", "id": 0} | fields)


@pytest.mark.parametrize(
    "fail",
    [
        lambda: web.Response(status=429),
        lambda: web.Response(status=503),
        lambda: web.Response(status=302, headers={"Location": NOWHERE}),
        lambda: web.Response(text="<html>"),
        lambda: web.Response(body=b"\xff"),
        lambda: web.Response(text="[" * 100_000),
        lambda: web.Response(body=b" " * (_MAX_ANSWER + 1)),
        lambda: web.json_response([]),
        lambda: web.json_response({"jsonrpc": "2.0", "id": 0}),
        rpc(error="no"),
        rpc(error={"code": "no", "message": 1}),
        rpc(error={"code": -32005, "message": "limit exceeded"}),
        rpc(result="0x1", error={"code": 1, "message": "both"}),
    ],
)
async def test_the_next_endpoint_is_asked(
    anvil: Anvil, first: UnreliableEndpoint, fail: Callable[[], web.Response]
) -> None:
    async with connect(first.url, anvil.url, chain_id=ANVIL) as chain:
        head = await chain.head()
        first.fail = fail
        assert await chain.head() == head


@pytest.mark.parametrize("result", [None, "0x", "garbage", {}, [], {"number": "0x1"}, 7, "0x" + "f" * 100])
async def test_a_result_of_another_shape_is_no_answer(first: UnreliableEndpoint, result: Any) -> None:
    async with connect(first.url) as chain:
        first.change = lambda _method, _result: result
        for call in (chain.head(), chain.transaction_count("0x" + "99" * 20, "latest"), chain.receipt(bytes(32))):
            try:
                await call
            except (ChainUnavailable, ChainError):
                continue


async def test_the_only_endpoint_may_refuse(first: UnreliableEndpoint) -> None:
    async with connect(first.url) as chain:
        first.fail = rpc(error={"code": -32005, "message": "limit exceeded"})
        with pytest.raises(ChainError, match="limit exceeded"):
            await chain.head()


async def test_an_endpoint_that_takes_too_long(anvil: Anvil, first: UnreliableEndpoint) -> None:
    async with connect(first.url, anvil.url, timeout_seconds=0.1) as chain:
        first.hangs = True
        assert await chain.head() >= 0


async def test_a_dead_endpoint_is_named_once_and_without_its_key(
    anvil: Anvil, first: UnreliableEndpoint, now: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tandem")
    async with connect(first.url, anvil.url, clock=now) as chain:
        first.fail = lambda: web.Response(status=500)
        for _ in range(3):
            await chain.head()
            now.advance(10 * _REST_SECONDS)
        first.fail = None
        await chain.head()
    said = [getattr(record, "tandem_fields", {}) | {"event": record.msg} for record in caplog.records]
    events = [fields for fields in said if fields["event"].startswith("chain_endpoint")]
    assert [fields["event"] for fields in events] == ["chain_endpoint_failed", "chain_endpoint_back"]
    assert not any("secret" in str(fields) for fields in said)


async def test_one_that_failed_rests(anvil: Anvil, first: UnreliableEndpoint, now: ManualClock) -> None:
    async with connect(first.url, anvil.url, clock=now) as chain:
        first.fail = lambda: web.Response(status=500)
        await chain.head()
        first.fail = None
        asked = len(first.asked)
        await chain.head()
        assert len(first.asked) == asked
        now.advance(_REST_SECONDS)
        await chain.head()
        assert first.asked[asked] == "eth_chainId", "it may be another chain by now"


async def test_one_of_two_chains_dies() -> None:
    with run_anvil() as one, run_anvil() as two:
        two.mine(5)
        async with connect(one.url, two.url) as chain:
            assert await chain.head() == 0
            one.stop()
            assert await chain.head() == 5
            two.stop()
            with pytest.raises(ChainUnavailable, match=r"127\.0\.0\.1:\d+: .*; 127\.0\.0\.1:\d+: "):
                await chain.head()


async def test_an_endpoint_of_another_chain_is_passed_over(anvil: Anvil, first: UnreliableEndpoint) -> None:
    first.change = lambda method, result: "0x1" if method == "eth_chainId" else result
    async with connect(first.url, anvil.url, chain_id=ANVIL) as chain:
        assert await chain.head() >= 0
        assert first.asked == ["eth_chainId"]
    with pytest.raises(ConfigurationError, match="expected chain 31337, it serves chain 1"):
        async with connect(first.url, chain_id=ANVIL):
            pass
    with pytest.raises(ChainUnavailable):  # the one that does not answer might be right
        async with connect(first.url, NOWHERE, chain_id=ANVIL):
            pass


async def test_the_first_chain_is_the_one_for_all(anvil: Anvil, first: UnreliableEndpoint) -> None:
    async with connect(anvil.url, first.url) as chain:
        first.change = lambda method, result: "0x1" if method == "eth_chainId" else result
        with pytest.raises(ChainUnavailable, match="it serves chain 1"):
            await chain.witnesses[1].head()


async def test_a_head_that_stands_still_is_a_failure(now: ManualClock) -> None:
    with run_anvil() as one, run_anvil() as two:
        async with connect(one.url, two.url, clock=now, stall=100) as chain:
            assert await chain.head() == 0
            now.advance(200)
            two.warp(200)
            assert await chain.head() == 1
            now.advance(200)
            with pytest.raises(ChainUnavailable, match=r"its newest block is from \d+ s ago"):
                await chain.head()


async def test_a_head_from_the_future_is_a_failure(now: ManualClock) -> None:
    with run_anvil() as one:
        one.warp(1000)
        with pytest.raises(ChainUnavailable, match=r"its newest block is from -\d+ s ago"):
            async with connect(one.url, clock=now, stall=100):
                pass


async def test_a_head_that_falls_far_back_is_a_failure(first: UnreliableEndpoint, now: ManualClock) -> None:
    def ahead(method: str, result: Any) -> Any:
        return result | {"number": hex(10_000)} if method == "eth_getBlockByNumber" else result

    first.change = ahead
    async with connect(first.url, clock=now, stall=3600) as chain:
        await chain.balance("0x" + "99" * 20)
        first.change = lambda _method, result: result
        now.advance(60)
        with pytest.raises(ChainUnavailable, match="its newest block was 10000 and is"):
            await chain.balance("0x" + "99" * 20)
        assert await chain.balance("0x" + "99" * 20) == 0, "it is where it is from then on"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("already known", PoolAnswer.KNOWN),
        ("AlreadyKnown", PoolAnswer.KNOWN),
        ("transaction already imported", PoolAnswer.KNOWN),
        ("Known transaction", PoolAnswer.KNOWN),
        ("nonce too low: next nonce 8, tx nonce 7", PoolAnswer.NONCE_TOO_LOW),
        ("Nonce too low", PoolAnswer.NONCE_TOO_LOW),
        ("OldNonce, Current nonce: 8, nonce of rejected tx: 7", PoolAnswer.NONCE_TOO_LOW),
        ("replacement transaction underpriced", PoolAnswer.UNDERPRICED),
        ("transaction underpriced: tip needed 1, tip permitted 0", PoolAnswer.UNDERPRICED),
        ("ReplacementNotAllowed", PoolAnswer.UNDERPRICED),
        ("max fee per gas less than block base fee: 1 < 2", PoolAnswer.UNDERPRICED),
        ("insufficient funds for gas * price + value: balance 1, tx cost 2", InsufficientFunds),
        ("Upfront cost exceeds account balance", InsufficientFunds),
        ("InsufficientFunds, Account balance: 1", InsufficientFunds),
        ("exceeds block gas limit", ChainError),
    ],
)
async def test_what_pools_say_is_told_apart(
    first: UnreliableEndpoint, said: str, answer: PoolAnswer | type[ChainError]
) -> None:
    async with connect(first.url) as chain:
        first.refusal = said
        if isinstance(answer, PoolAnswer):
            assert await chain.broadcast(b"raw") is answer
        else:
            with pytest.raises(ChainError) as caught:
                await chain.broadcast(b"raw")
            assert type(caught.value) is answer
