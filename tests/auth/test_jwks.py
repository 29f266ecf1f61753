"""An identity provider's keys: fetched seldom, rotated, kept through failures, and never trusted blindly."""

from __future__ import annotations

import json

import anyio
import pytest

from auth.errors import InvalidAccount
from auth.jwks import FRESH_S, KEPT_S, UNKNOWN_AGAIN_S, Jwks, JwksUnavailable
from tests.auth.clocks import Clocks
from tests.auth.tokens import encoded, provider, public_jwk
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


HUGE = json.dumps({"keys": [public_jwk("EC", "a")]}).encode() + b" " * 300_000


async def test_keys_are_fetched_once_in_ten_minutes(clocks: Clocks) -> None:
    async with provider(public_jwk("EC", "a")) as made:
        jwks = Jwks(made.url, monotonic=clocks.monotonic)
        for _ in range(5):
            assert await jwks.key("a", "ES256") is not None
            clocks.advance(FRESH_S / 5 - 1)
        assert made.asked == 1
        clocks.advance(5)
        assert await jwks.key("a", "ES256") is not None
        assert made.asked == 2


async def test_an_unknown_key_id_is_looked_for_at_most_every_thirty_seconds(clocks: Clocks) -> None:
    async with provider(public_jwk("EC", "a")) as made:
        jwks = Jwks(made.url, monotonic=clocks.monotonic)
        for _ in range(10):
            assert await jwks.key("b", "ES256") is None
        assert made.asked == 1
        made.keys = [public_jwk("EC", "b", 1)]
        clocks.advance(UNKNOWN_AGAIN_S)
        assert await jwks.key("b", "ES256") is not None
        assert await jwks.key("a", "ES256") is None
        assert made.asked == 2


async def test_a_hundred_callers_cause_one_fetch(clocks: Clocks) -> None:
    async with provider(public_jwk("EC", "a")) as made:
        jwks = Jwks(made.url, monotonic=clocks.monotonic)
        made.slow = anyio.Event()
        found: list[object] = []

        async def ask() -> None:
            found.append(await jwks.key("a", "ES256"))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask)
            while not made.asked:
                await anyio.sleep(0.001)
            for _ in range(50):  # who comes while it is under way waits for it, too
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert not found
            made.slow.set()
        assert made.asked == 1
        assert len(found) == 100
        assert None not in found


async def test_while_keys_are_fetched_anew_the_old_ones_serve(clocks: Clocks) -> None:
    async with provider(public_jwk("EC", "a")) as made:
        jwks = Jwks(made.url, monotonic=clocks.monotonic)
        await jwks.key("a", "ES256")
        clocks.advance(FRESH_S)
        made.slow = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(jwks.key, "a", "ES256")
            while made.asked < 2:
                await anyio.sleep(0.001)
            clocks.advance(UNKNOWN_AGAIN_S)
            with anyio.fail_after(PATIENCE_S):
                assert await jwks.key("a", "ES256") is not None
            made.slow.set()


@pytest.mark.parametrize(
    "failure",
    [b"no json", b"[]", b'{"keys": 7}', b'{"keys": []}', b"[" * 100_000, HUGE],
)
async def test_a_failing_provider_leaves_the_old_keys_for_an_hour(clocks: Clocks, failure: bytes) -> None:
    async with provider(public_jwk("EC", "a")) as made:
        jwks = Jwks(made.url, monotonic=clocks.monotonic)
        assert await jwks.key("a", "ES256") is not None
        made.body = failure
        clocks.advance(FRESH_S)
        assert await jwks.key("a", "ES256") is not None
        assert made.asked == 2
        clocks.advance(KEPT_S - FRESH_S - 1)
        assert await jwks.key("a", "ES256") is not None
        clocks.advance(1)
        with pytest.raises(JwksUnavailable):
            await jwks.key("a", "ES256")
        made.body = b""
        clocks.advance(5)
        assert await jwks.key("a", "ES256") is not None


@pytest.mark.parametrize("status", [204, 302, 404, 500])
async def test_other_answers_than_200_are_failures_and_are_not_followed(clocks: Clocks, status: int) -> None:
    async with provider(public_jwk("EC", "a")) as made:
        made.status = status
        with pytest.raises(JwksUnavailable):
            await Jwks(made.url, monotonic=clocks.monotonic).key("a", "ES256")
        assert made.asked == 1


async def test_nobody_there_is_a_failure_that_is_not_tried_at_every_call(clocks: Clocks) -> None:
    async with provider() as made:
        url = made.url
    jwks = Jwks(url, monotonic=clocks.monotonic)
    for _ in range(3):
        with pytest.raises(JwksUnavailable):
            await jwks.key("a", "ES256")


async def test_only_keys_that_may_sign_are_taken(clocks: Clocks) -> None:
    async with provider(
        public_jwk("weak", "weak"),
        public_jwk("EC", "for encryption", use="enc"),
        public_jwk("RSA", "one algorithm", alg="PS256"),
        {"kty": "oct", "kid": "secret", "k": encoded(b"x" * 32)},
        {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": ["RSA"], "kid": "odd"},
    ) as made:
        made.keys.append("no object")
        jwks = Jwks(made.url, monotonic=clocks.monotonic)
        for kid, algorithm in (
            ("weak", "RS256"),
            ("for encryption", "ES256"),
            ("one algorithm", "RS256"),
            ("secret", "HS256"),
            ("broken", "ES256"),
            ("odd", "RS256"),
        ):
            assert await jwks.key(kid, algorithm) is None, kid
        assert await jwks.key("one algorithm", "PS256") is not None


async def test_without_a_key_id_the_one_that_fits_is_taken_and_of_two_none(clocks: Clocks) -> None:
    async with provider(public_jwk("EC", "a"), public_jwk("OKP", "b")) as made:
        jwks = Jwks(made.url, monotonic=clocks.monotonic)
        assert await jwks.key("", "ES256") is not None
        made.keys.append(public_jwk("EC", "c", 1))
        clocks.advance(FRESH_S)
        assert await jwks.key("", "ES256") is None


@pytest.mark.parametrize(
    "url", ["", "http://example.org/jwks", "ftp://localhost/x", "https://", "file:///etc/passwd", "x"]
)
def test_an_address_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(InvalidAccount, match="https"):
        Jwks(url)
