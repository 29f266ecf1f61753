"""Who calls with a token: which user, for which organisation, and with what power."""

from __future__ import annotations

from typing import Any

import pytest

from auth.credentials import Credential
from auth.jwks import Jwks
from auth.jwt import Tokens
from auth.refusal import Refused
from auth.roles import Role, Scope
from auth.users import User
from tests.auth.clocks import Clocks
from tests.auth.rig import Rig
from tests.auth.tokens import SECRET, provider, shared

pytestmark = pytest.mark.anyio

UNKNOWN = "f" * 24


@pytest.fixture
def tokens(rig: Rig) -> Rig:
    """A server that takes tokens."""
    rig.options["tokens"] = Tokens(secret=SECRET, clock=rig.clocks.epoch)
    rig.build()
    return rig


def token(clocks: Clocks, **claims: Any) -> str:
    return shared({"exp": clocks.ms // 1000 + 600, **claims})


def of(user: User, clocks: Clocks, org_id: str = "") -> Credential:
    return Credential(bearer=token(clocks, sub=user.id), org_id=org_id)


async def refusal(rig: Rig, credential: Credential) -> Refused:
    with pytest.raises(Refused) as refused:
        await rig.authenticator.authenticate(credential)
    if credential.text:
        assert credential.text[:12] not in f"{refused.value.error} {refused.value.details}"
    return refused.value


async def test_a_token_speaks_for_its_subject_in_the_only_organisation(tokens: Rig) -> None:
    ada, org_id = await tokens.user("ada")
    verified = await tokens.authenticator.authenticate(of(ada, tokens.clocks))
    principal = verified.principal
    assert (principal.org_id, principal.user_id, principal.key_id) == (org_id, ada.id, "")
    assert (principal.method, principal.role, principal.may(Scope.ADMIN)) == ("jwt", Role.OWNER, True)
    assert verified.expires_ms == (tokens.clocks.ms // 1000 + 600) * 1000


async def test_a_token_of_somebody_elses_issuer_speaks_for_the_verified_address(tokens: Rig) -> None:
    ada, _ = await tokens.user("ada")
    for subject in ("auth0|1234", UNKNOWN, ""):
        good = token(tokens.clocks, sub=subject, email="ADA@example.org", email_verified=True)
        verified = await tokens.authenticator.authenticate(Credential(bearer=good))
        assert verified.principal.user_id == ada.id
    for claims in (
        {"email": "ada@example.org"},
        {"email": "ada@example.org", "email_verified": False},
        {"email": "bob@example.org", "email_verified": True},
        {"email": "аda@example.org", "email_verified": True},  # noqa: RUF001 -- a Cyrillic letter
        {"sub": UNKNOWN},
        {"sub": "x" * 5000},
        {},
    ):
        refused = await refusal(tokens, Credential(bearer=token(tokens.clocks, **claims)))
        assert (refused.status, refused.reason) == (401, "unknown user")


async def test_no_provider_can_vouch_for_the_local_user(tokens: Rig) -> None:
    await tokens.accounts.users.create(name="Local", email="local@localhost", operator=True)
    claims = {"email": "Local@localhost", "email_verified": True}
    assert (await refusal(tokens, Credential(bearer=token(tokens.clocks, **claims)))).reason == "unknown user"


async def test_the_organisation_is_chosen_by_header_and_membership_checked(tokens: Rig) -> None:
    (ada, home), (_, second) = await tokens.user("ada"), await tokens.user("bob")
    await tokens.join(ada, second)
    for org_id, role in ((home, Role.OWNER), (second, Role.MEMBER)):
        principal = (await tokens.authenticator.authenticate(of(ada, tokens.clocks, org_id))).principal
        assert (principal.org_id, principal.role) == (org_id, role)
        assert principal.may(Scope.RUN)
        assert principal.may(Scope.ADMIN) is (role is Role.OWNER)
    refused = await refusal(tokens, of(ada, tokens.clocks))
    assert (refused.status, refused.reason) == (400, "which organisation")


async def test_an_organisation_that_is_not_the_users_is_refused_in_one_way(tokens: Rig) -> None:
    (ada, home), (_, strangers), (_, former) = [await tokens.user(name) for name in ("ada", "eve", "bob")]
    await tokens.join(ada, former)
    assert await tokens.authenticator.authenticate(of(ada, tokens.clocks, former))
    await tokens.accounts.organisations.remove(former, ada.id)
    answers: set[tuple[int, str, str, str]] = set()
    for org_id in (strangers, former, UNKNOWN, "x", "x" * 5000, f"{home} ", home.upper() + "'", "$ne", "../..", "é"):
        refused = await refusal(tokens, of(ada, tokens.clocks, org_id))
        answers.add((refused.status, refused.reason, refused.error, refused.details))
    assert len(answers) == 1
    assert answers.pop()[0] == 401


async def test_a_user_without_any_organisation_is_refused(tokens: Rig) -> None:
    ada = await tokens.accounts.users.create(name="Ada", email="ada@example.org")
    assert (await refusal(tokens, of(ada, tokens.clocks))).status == 401


async def test_a_member_removed_elsewhere_is_out_within_five_seconds(tokens: Rig) -> None:
    other = Rig(spies=tokens.spies, clocks=tokens.clocks)
    (ada, _), (_, second) = await tokens.user("ada"), await tokens.user("bob")
    await tokens.join(ada, second)
    assert await tokens.authenticator.authenticate(of(ada, tokens.clocks, second))
    await other.accounts.organisations.remove(second, ada.id)
    tokens.clocks.advance(5)
    assert (await refusal(tokens, of(ada, tokens.clocks, second))).status == 401


async def test_a_token_that_is_over_is_refused_however_good_it_was(tokens: Rig) -> None:
    ada, _ = await tokens.user("ada")
    credential = of(ada, tokens.clocks)
    assert await tokens.authenticator.authenticate(credential)
    tokens.clocks.advance(601)
    refused = await refusal(tokens, credential)
    assert (refused.status, refused.reason) == (401, "bad token")
    assert "expired" in refused.details


async def test_tokens_are_taken_only_as_bearer_and_only_where_they_are_configured(rig: Rig) -> None:
    ada, _ = await rig.user("ada")
    credential = of(ada, rig.clocks)
    assert (await refusal(rig, credential)).reason == "no tokens"
    rig.options["tokens"] = Tokens(secret=SECRET, clock=rig.clocks.epoch)
    rig.build()
    assert await rig.authenticator.authenticate(credential)
    assert (await refusal(rig, Credential(key=credential.bearer))).reason == "bad key"


async def test_a_provider_that_does_not_answer_is_503(rig: Rig) -> None:
    async with provider() as made:
        rig.options["tokens"] = Tokens(jwks=Jwks(made.url, monotonic=rig.clocks.monotonic), clock=rig.clocks.epoch)
        rig.build()
        text = shared({"exp": rig.clocks.ms // 1000 + 600}, header={"alg": "ES256"})
        refused = await refusal(rig, Credential(bearer=text))
    assert (refused.status, refused.reason) == (503, "unavailable")


async def test_a_credential_is_known_for_an_hour_unless_it_is_refused_in_between(rig: Rig) -> None:
    user, org_id = await rig.user("ada")
    key = await rig.key(user, org_id)
    credential = Credential(key=key.plain)
    assert not rig.authenticator.recently_valid(credential)
    await rig.authenticator.authenticate(credential)
    assert rig.authenticator.recently_valid(credential)
    rig.clocks.advance(3600)
    assert not rig.authenticator.recently_valid(credential)
    await rig.authenticator.authenticate(credential)
    await rig.keys.revoke(org_id, key.record.id)
    await refusal(rig, credential)
    assert not rig.authenticator.recently_valid(credential)
