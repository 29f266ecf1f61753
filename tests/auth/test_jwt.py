"""Tokens: which are good, and that no trick makes another one so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.errors import InvalidAccount
from auth.jwks import Jwks
from auth.jwt import MAX_BYTES, TokenRefused, Tokens
from tests.auth.clocks import Clocks
from tests.auth.tokens import SECRET, encoded, provider, public_jwk, public_pem, shared, signed

pytestmark = pytest.mark.anyio

NOW_S = Clocks().ms // 1000
GOOD: dict[str, Any] = {"sub": "someone", "exp": NOW_S + 60}


def by_secret(*, issuer: str = "", audience: str = "") -> Tokens:
    return Tokens(secret=SECRET, issuer=issuer, audience=audience, clock=Clocks().epoch)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


async def test_a_good_token_says_whom_it_is_about() -> None:
    claims = await by_secret().check(shared({**GOOD, "email": "ada@example.org", "email_verified": True}))
    assert (claims.subject, claims.email, claims.expires_ms) == ("someone", "ada@example.org", (NOW_S + 60) * 1000)


@pytest.mark.parametrize("verified", [False, None, "true", 1, [True]])
async def test_an_address_counts_only_if_the_issuer_verified_it(verified: object) -> None:
    claims = await by_secret().check(shared({**GOOD, "email": "ada@example.org", "email_verified": verified}))
    assert claims.email == ""


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (without("exp"), "no exp"),
        ({**GOOD, "exp": None}, "no exp"),
        ({**GOOD, "exp": NOW_S}, "expired"),
        ({**GOOD, "exp": NOW_S - 1}, "expired"),
        ({**GOOD, "exp": -1}, "expired"),
        ({**GOOD, "exp": str(NOW_S + 60)}, "exp is not a time"),
        ({**GOOD, "exp": True}, "exp is not a time"),
        ({**GOOD, "exp": [1]}, "exp is not a time"),
        ({**GOOD, "exp": float("inf")}, "exp is not a time"),
        ({**GOOD, "exp": float("nan")}, "exp is not a time"),
        ({**GOOD, "nbf": NOW_S + 31}, "nbf is in the future"),
        ({**GOOD, "iat": NOW_S + 31}, "iat is in the future"),
        ({**GOOD, "nbf": "now"}, "nbf is not a time"),
    ],
)
async def test_times_are_kept(payload: dict[str, Any], why: str) -> None:
    with pytest.raises(TokenRefused, match=why):
        await by_secret().check(shared(payload))


@pytest.mark.parametrize(
    "payload",
    [{**GOOD, "nbf": NOW_S + 30}, {**GOOD, "iat": NOW_S + 30}, {**GOOD, "exp": NOW_S + 0.5}, {**GOOD, "exp": 10**30}],
)
async def test_clocks_may_differ_a_little_and_ends_may_be_far(payload: dict[str, Any]) -> None:
    assert (await by_secret().check(shared(payload))).subject == "someone"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a",
        "a.b",
        "a.b.c.d",
        "..",
        "a.b.c",
        "é.b.c",
        f"{encoded([])}.{encoded(GOOD)}.x",
        f"{encoded(b'[' * 9000)}.{encoded(GOOD)}.x",
        f"{encoded({'alg': ['HS256']})}.{encoded(GOOD)}.x",
        f"{encoded({'alg': 'HS256', 'kid': 7})}.{encoded(GOOD)}.x",
        f"{encoded({})}.{encoded(GOOD)}.x",
        shared(GOOD)[:-2],
        shared(GOOD, secret="another secret of at least thirty-two"),
        shared(GOOD, header={"alg": "none"}),
        f"{encoded({'alg': 'none'})}.{encoded(GOOD)}.",
        f"{encoded({'alg': 'None'})}.{encoded(GOOD)}.",
        shared(GOOD, header={"alg": "HS512"}),
        shared(GOOD, header={"alg": "hs256"}),
        shared(GOOD, header={"alg": "RS256"}),
        shared(GOOD, header={"alg": "HS256", "crit": ["b64"], "b64": False}),
        shared(GOOD, header={"alg": "HS256", "crit": ["b64"], "b64": True}),
        shared(GOOD, header={"alg": "HS256", "b64": False}),
        shared({**GOOD, "padding": "x" * MAX_BYTES}),
        "ey" + "J" * 100_000,
    ],
)
async def test_what_is_no_good_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        await by_secret().check(token)
    assert len(str(refused.value)) < 120
    assert not token or len(token) < 10 or token[:10] not in str(refused.value)


@given(st.text(max_size=200), st.text(max_size=20))
async def test_no_text_is_taken_for_a_token(text: str, tail: str) -> None:
    for token in (text, f"{shared(GOOD)}{tail or 'x'}", f"{text}.{shared(GOOD)}"):
        with pytest.raises(TokenRefused):
            await by_secret().check(token)


@pytest.mark.parametrize("tail", ["=", "====", "\n", "!!!!"])
async def test_a_padded_signature_is_refused(tail: str) -> None:
    with pytest.raises(TokenRefused):
        await by_secret().check(shared(GOOD) + tail)


async def test_a_changed_payload_is_refused() -> None:
    head, _, signature = shared(GOOD).split(".")
    with pytest.raises(TokenRefused, match="signature"):
        await by_secret().check(f"{head}.{encoded({**GOOD, 'sub': 'somebody else'})}.{signature}")


@pytest.mark.parametrize("payload", [b"[1]", b"7", b"{", b"\xff", b'"x"', b"[" * 9000])
async def test_a_signed_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    with pytest.raises(TokenRefused):
        await by_secret().check(shared(payload))


async def test_issuer_and_audience_are_kept_when_they_are_configured() -> None:
    tokens = by_secret(issuer="https://id.example.org", audience="casemate")
    good = {**GOOD, "iss": "https://id.example.org", "aud": ["other", "casemate"]}
    assert (await tokens.check(shared(good))).subject == "someone"
    for change in (
        {"iss": "https://evil.example.org"},
        {"iss": None},
        {"iss": ["https://id.example.org"]},
        {"aud": "other"},
        {"aud": None},
        {"aud": {"casemate": 1}},
        {"aud": ["casemat"]},
    ):
        with pytest.raises(TokenRefused):
            await tokens.check(shared({**good, **change}))
    assert (await by_secret().check(shared({**GOOD, "aud": "other", "iss": "any"}))).subject == "someone"


async def test_subjects_that_are_no_text_are_nobody() -> None:
    for subject in (7, None, ["x"], {"a": 1}):
        assert (await by_secret().check(shared({**GOOD, "sub": subject}))).subject == ""


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("RSA", "RS256"), ("RSA", "RS512"), ("RSA", "PS256"), ("EC", "ES256"), ("OKP", "EdDSA")],
)
async def test_a_providers_keys_check_tokens(kind: str, algorithm: str) -> None:
    async with provider(public_jwk("RSA", "r"), public_jwk("EC", "e"), public_jwk("OKP", "o")) as made:
        tokens = Tokens(jwks=Jwks(made.url), clock=Clocks().epoch)
        kid = {"RSA": "r", "EC": "e", "OKP": "o"}[kind]
        good = signed(GOOD, kind=kind, algorithm=algorithm, kid=kid)
        assert (await tokens.check(good)).subject == "someone"
        assert (await tokens.check(signed(GOOD, kind=kind, algorithm=algorithm))).subject == "someone"
        for bad in (
            signed(GOOD, kind=kind, algorithm=algorithm, kid=kid, number=1),
            signed(GOOD, kind=kind, algorithm=algorithm, kid="unknown"),
            good[:-4],
        ):
            with pytest.raises(TokenRefused):
                await tokens.check(bad)
        assert made.asked == 1


async def test_a_public_key_is_never_taken_for_a_secret() -> None:
    jwk = public_jwk("RSA", "r")
    async with provider(jwk, {"kty": "oct", "kid": "s", "k": encoded(SECRET.encode())}) as made:
        for tokens in (
            Tokens(jwks=Jwks(made.url), clock=Clocks().epoch),
            Tokens(jwks=Jwks(made.url), secret="some other secret of thirty-two b.", clock=Clocks().epoch),
        ):
            for secret in (public_pem("RSA"), json.dumps(jwk).encode(), jwk["n"].encode(), SECRET.encode()):
                for kid in ({}, {"kid": "r"}, {"kid": "s"}):
                    with pytest.raises(TokenRefused):
                        await tokens.check(shared(GOOD, secret=secret, header={"alg": "HS256", **kid}))
        assert made.asked == 0


async def test_a_secret_and_a_provider_may_both_be_there() -> None:
    async with provider(public_jwk("EC", "e")) as made:
        tokens = Tokens(secret=SECRET, jwks=Jwks(made.url), clock=Clocks().epoch)
        assert (await tokens.check(shared(GOOD))).subject == "someone"
        assert made.asked == 0
        assert (await tokens.check(signed(GOOD, kind="EC", algorithm="ES256", kid="e"))).subject == "someone"


@pytest.mark.parametrize("secret", ["", "x" * 31])
def test_there_is_no_weak_secret_and_none_by_default(secret: str) -> None:
    with pytest.raises(InvalidAccount) as refused:
        Tokens(secret=secret)
    assert "xxx" not in str(refused.value)
