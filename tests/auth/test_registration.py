"""Registration: all or nothing, one per address, by policy and invitation."""

from __future__ import annotations

import anyio
import pytest

from auth.errors import EmailTaken, InvalidAccount, InvitationMissing, RegistrationRefused
from auth.invitations import LIFETIME_MS
from auth.registration import ABANDONED_MS, Registered, Registration, RegistrationPolicy
from auth.roles import Role
from storage.errors import StoreUnavailable
from tests.auth.rig import Rig

pytestmark = pytest.mark.anyio

EMAIL = "ada@example.org"
OPERATOR = "e" * 24


async def outcome(registration: Registration, results: list[Registered | str], **fields: str) -> None:
    try:
        results.append(await registration.register(**fields))
    except (EmailTaken, RegistrationRefused) as error:
        results.append(type(error).__name__)


async def test_who_registers_owns_an_organisation_and_has_a_key_that_works(rig: Rig) -> None:
    made = await rig.registration().register(name="Ada Lovelace", email=" Ada@Example.org ")
    assert (made.user.email, made.user.operator, made.user.registering_ms) == (EMAIL, False, 0)
    assert made.organisation.name == "Ada-Org"
    principal = await rig.keys.verify(made.key.plain)
    assert principal is not None
    assert (principal.org_id, principal.user_id) == (made.organisation.id, made.user.id)
    standing = await rig.accounts.standing(principal.org_id, principal.user_id)
    assert standing is not None
    assert standing.role is Role.OWNER
    assert made.key.plain not in repr(made)


async def test_of_fifty_registrations_of_one_address_at_once_exactly_one_wins(rig: Rig) -> None:
    results: list[Registered | str] = []
    async with anyio.create_task_group() as tasks:
        for number in range(50):
            email = EMAIL.upper() if number % 2 else EMAIL

            async def register(name: str = f"user {number}", email: str = email) -> None:
                await outcome(rig.registration(), results, name=name, email=email)

            tasks.start_soon(register)
    winners = [result for result in results if isinstance(result, Registered)]
    assert len(winners) == 1
    assert results.count("EmailTaken") == 49
    assert [user.id for user in await rig.accounts.users.list()] == [winners[0].user.id]
    assert [it.id for it in await rig.accounts.organisations.of_user(winners[0].user.id)] == [
        winners[0].organisation.id
    ]
    assert len(await rig.keys.list(winners[0].organisation.id)) == 1


@pytest.mark.parametrize("collection", ["organisations", "members", "api_keys", "users"])
async def test_what_a_crash_left_is_finished_by_registering_again(rig: Rig, collection: str) -> None:
    spy = rig.spies[collection]
    # Users are written twice: the crash comes before the registration is marked as done.
    spy.fail_writes_from = spy.writes + (2 if collection == "users" else 1)
    with pytest.raises(StoreUnavailable):
        await rig.registration().register(name="Ada", email=EMAIL)
    spy.fail_writes_from = 0
    with pytest.raises(EmailTaken):
        await rig.registration().register(name="Ada", email=EMAIL)
    rig.clocks.advance(ABANDONED_MS / 1000)
    results: list[Registered | str] = []
    async with anyio.create_task_group() as tasks:
        for name in ("Eve", "Eva"):

            async def register(name: str = name) -> None:
                await outcome(rig.registration(), results, name=name, email=EMAIL)

            tasks.start_soon(register)
    (made,) = (result for result in results if isinstance(result, Registered))
    assert results.count("EmailTaken") == 1
    assert (await rig.accounts.users.get(made.user.id)) == made.user
    assert [it.id for it in await rig.accounts.organisations.of_user(made.user.id)] == [made.organisation.id]
    assert [key.id for key in await rig.keys.list(made.organisation.id)] == [made.key.record.id]
    rig.clocks.advance(ABANDONED_MS / 1000)
    with pytest.raises(EmailTaken):
        await rig.registration().register(name="Ada", email=EMAIL)


@pytest.mark.parametrize(("field", "value"), [("name", " "), ("email", "ada"), ("organisation", "a\0b")])
async def test_a_bad_field_is_refused_before_anything_is_made(rig: Rig, field: str, value: str) -> None:
    with pytest.raises(InvalidAccount, match=field):
        await rig.registration().register(**{"name": "Ada", "email": EMAIL, field: value})
    assert await rig.accounts.users.list() == []


@pytest.mark.parametrize("policy", [RegistrationPolicy.INVITE, RegistrationPolicy.CLOSED])
async def test_the_policy_is_kept(rig: Rig, policy: RegistrationPolicy) -> None:
    with pytest.raises(RegistrationRefused):
        await rig.registration(policy).register(name="Ada", email=EMAIL)
    code = (await rig.invitations.create(created_by=OPERATOR)).code
    if policy is RegistrationPolicy.CLOSED:
        with pytest.raises(RegistrationRefused, match="closed"):
            await rig.registration(policy).register(name="Ada", email=EMAIL, invitation=code)
    else:
        await rig.registration(policy).register(name="Ada", email=EMAIL, invitation=code)


async def test_an_invitation_is_used_once_whoever_comes_at_once(rig: Rig) -> None:
    made = await rig.invitations.create(created_by=OPERATOR)
    results: list[Registered | str] = []
    async with anyio.create_task_group() as tasks:
        for number in range(20):

            async def register(email: str = f"user{number}@example.org") -> None:
                await outcome(
                    rig.registration(RegistrationPolicy.INVITE), results, name="U", email=email, invitation=made.code
                )

            tasks.start_soon(register)
    (winner,) = (result for result in results if isinstance(result, Registered))
    assert results.count("RegistrationRefused") == 19
    assert [user.id for user in await rig.accounts.users.list()] == [winner.user.id]
    (kept,) = await rig.invitations.list()
    assert (kept.used_by, kept.used_ms) == (winner.user.id, rig.clocks.ms)


async def test_an_invitation_into_an_organisation_makes_a_member(rig: Rig) -> None:
    _, org_id = await rig.user("bob")
    code = (await rig.invitations.create(created_by=OPERATOR, org_id=org_id, role=Role.MEMBER)).code
    made = await rig.registration().register(name="Ada", email=EMAIL, invitation=code)
    assert made.organisation.id == org_id == made.key.record.org_id
    standing = await rig.accounts.standing(org_id, made.user.id)
    assert standing is not None
    assert standing.role is Role.MEMBER
    assert len(await rig.accounts.organisations.of_user(made.user.id)) == 1


async def test_an_interrupted_registration_keeps_its_invitation(rig: Rig) -> None:
    code = (await rig.invitations.create(created_by=OPERATOR)).code
    rig.spies["api_keys"].fail_writes_from = 1
    with pytest.raises(StoreUnavailable):
        await rig.registration().register(name="Ada", email=EMAIL, invitation=code)
    rig.spies["api_keys"].fail_writes_from = 0
    rig.clocks.advance(ABANDONED_MS / 1000)
    await rig.registration(RegistrationPolicy.INVITE).register(name="Ada", email=EMAIL, invitation=code)


@pytest.mark.parametrize("wrong", ["nonsense", "ci_" + "A" * 43, "ci_" + "é" * 43, "x" * 1_000_000])
async def test_a_code_that_never_was_is_refused(rig: Rig, wrong: str) -> None:
    with pytest.raises(RegistrationRefused, match="invitation") as refused:
        await rig.registration().register(name="Ada", email=EMAIL, invitation=wrong)
    assert wrong[:20] not in str(refused.value)
    assert await rig.accounts.users.list() == []


async def test_an_invitation_ends_and_is_for_its_address_and_can_be_revoked(rig: Rig) -> None:
    registration = rig.registration(RegistrationPolicy.INVITE)
    bound = await rig.invitations.create(created_by=OPERATOR, email="Bob@Example.org")
    with pytest.raises(RegistrationRefused):
        await registration.register(name="Ada", email=EMAIL, invitation=bound.code)
    await registration.register(name="Bob", email="BOB@example.org", invitation=bound.code)
    late = await rig.invitations.create(created_by=OPERATOR)
    rig.clocks.advance(LIFETIME_MS / 1000)
    with pytest.raises(RegistrationRefused):
        await registration.register(name="Ada", email=EMAIL, invitation=late.code)
    revoked = await rig.invitations.create(created_by=OPERATOR)
    await rig.invitations.revoke(revoked.record.id)
    with pytest.raises(InvitationMissing):
        await rig.invitations.revoke(revoked.record.id)
    with pytest.raises(RegistrationRefused):
        await registration.register(name="Ada", email=EMAIL, invitation=revoked.code)
    assert [it.id for it in await rig.invitations.list()] == [late.record.id, bound.record.id]


async def test_an_invitation_shows_its_code_nowhere(rig: Rig) -> None:
    made = await rig.invitations.create(created_by=OPERATOR)
    document = await rig.spies["invitations"].get(made.record.id)
    for text in (repr(made), repr(document), repr(await rig.invitations.list())):
        assert made.code[3:] not in text
    assert made.record.digest not in repr(made)


@pytest.mark.parametrize("lifetime_ms", [0, -1, 366 * 24 * 3600 * 1000])
async def test_a_lifetime_has_bounds(rig: Rig, lifetime_ms: int) -> None:
    with pytest.raises(InvalidAccount, match="lifetime"):
        await rig.invitations.create(created_by=OPERATOR, lifetime_ms=lifetime_ms)
