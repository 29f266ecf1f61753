"""Users with unique addresses, organisations, and who belongs to which."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.accounts import Accounts, Standing
from auth.changes import Change, Changes
from auth.errors import AuthError, EmailTaken, InvalidAccount, LastOwner, MemberMissing, OrganisationFull
from auth.names import clean_name, normalised
from auth.organisations import MOST_MEMBERS, Member, Organisation
from auth.roles import Role
from auth.users import User

pytestmark = pytest.mark.anyio


async def person(accounts: Accounts, name: str) -> User:
    return await accounts.users.create(name=name.title(), email=f"{name}@example.org")


async def team(accounts: Accounts) -> tuple[Organisation, User, User]:
    """An organisation, its owner Ada, and its member Bob."""
    ada, bob = await person(accounts, "ada"), await person(accounts, "bob")
    made = await accounts.organisations.create(name="Analysts", owner_id=ada.id)
    await accounts.add_member(made.id, bob.email, Role.MEMBER)
    return made, ada, bob


async def role(accounts: Accounts, org_id: str, user_id: str) -> Role | None:
    standing = await accounts.standing(org_id, user_id)
    return None if standing is None else standing.role


async def test_an_address_is_kept_in_lower_case_and_found_in_any(accounts: Accounts) -> None:
    user = await accounts.users.create(name="Ada", email="  Ada@Example.ORG ")
    assert user.email == "ada@example.org"
    assert await accounts.users.by_email("ADA@example.org") == user
    assert await accounts.users.get(user.id) == user


async def test_an_address_in_other_case_is_taken(accounts: Accounts) -> None:
    await person(accounts, "ada")
    with pytest.raises(EmailTaken, match=r"ada@example\.org"):
        await accounts.users.create(name="Eve", email="ADA@EXAMPLE.ORG")


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "a b@example.org",
        "ada@exa mple.org",
        "ada@example..org",
        "ada@-example.org",
        "ada@example.org\nBcc: x",
        "ada\0@example.org",
        "аda@example.org",  # noqa: RUF001 -- a Cyrillic letter
        "\N{KELVIN SIGN}im@example.org",
        "x" * 65 + "@example.org",
        "a@" + "x" * 300 + ".org",
        "a@b@example.org",
        "\ud800@example.org",
        "a" * 1_000_000,
    ],
)
async def test_what_is_no_address_is_refused(accounts: Accounts, email: str) -> None:
    with pytest.raises(InvalidAccount, match="email") as refused:
        await accounts.users.create(name="Ada", email=email)
    assert len(str(refused.value)) < 200
    assert str(refused.value).isascii()


@given(st.text(max_size=80))
def test_a_normalised_address_stays_as_it_is(text: str) -> None:
    for email in (text, f"{text}@example.org"):
        try:
            address = normalised(email)
        except InvalidAccount:
            continue
        assert normalised(address) == address == address.lower()
        assert address.isascii()


def test_a_long_hostile_address_is_refused_fast() -> None:
    for email in ("a@" + "a-" * 1_000_000, "a@" + "a." * 1_000_000, "." * 1_000_000):
        with pytest.raises(InvalidAccount):
            normalised(email)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "x" * 101,
        "a\tb",
        "a\nb",
        "a\0b",
        "\x1b[31m",
        "ada\N{RIGHT-TO-LEFT OVERRIDE}nimda",
        "ada\N{LEFT-TO-RIGHT ISOLATE}",
        "ada\N{ZERO WIDTH SPACE}",
        "ada\N{LINE SEPARATOR}b",
        "\ud800",
        "x" * 1_000_000,
        "e\N{COMBINING ACUTE ACCENT}" * 500_000,
    ],
)
async def test_a_bad_name_is_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(InvalidAccount, match="name") as refused:
        await accounts.users.create(name=name, email="ada@example.org")
    assert len(str(refused.value)) < 200
    assert str(refused.value).isascii()


@given(st.text(max_size=120))
def test_a_clean_name_stays_as_it_is(text: str) -> None:
    try:
        name = clean_name("name", text)
    except InvalidAccount:
        return
    assert clean_name("name", name) == name
    assert name.isprintable()


def test_a_name_is_kept_in_its_composed_form() -> None:
    assert clean_name("name", " Zoe\N{COMBINING DIAERESIS} ") == "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}"


async def test_users_are_listed_in_pages_oldest_first(accounts: Accounts) -> None:
    made = [await person(accounts, f"user{number}") for number in range(5)]
    first = await accounts.users.list(limit=3)
    assert [*first, *await accounts.users.list(after=first[-1], limit=3)] == made


async def test_who_makes_an_organisation_owns_it(accounts: Accounts) -> None:
    ada = await person(accounts, "ada")
    made = await accounts.organisations.create(name="Analysts", owner_id=ada.id)
    assert await accounts.organisations.get(made.id) == made
    assert await accounts.standing(made.id, ada.id) == Standing(role=Role.OWNER, operator=False)
    assert [(member.role, user) for member, user in await accounts.members(made.id)] == [(Role.OWNER, ada)]
    assert await accounts.organisations.of_user(ada.id) == [made]


async def test_a_user_belongs_to_several_organisations(accounts: Accounts) -> None:
    first, ada, bob = await team(accounts)
    second = await accounts.organisations.create(name="Second", owner_id=bob.id)
    assert [it.id for it in await accounts.organisations.of_user(bob.id)] == [first.id, second.id]
    assert [it.id for it in await accounts.organisations.of_user(ada.id)] == [first.id]
    assert {user.id for _, user in await accounts.members(first.id)} == {ada.id, bob.id}
    assert await accounts.standing(second.id, ada.id) is None


async def test_a_member_who_is_added_again_keeps_the_role(accounts: Accounts) -> None:
    made, ada, _ = await team(accounts)
    member, user = await accounts.add_member(made.id, ada.email, Role.MEMBER)
    assert (member.role, user) == (Role.OWNER, ada)


async def test_only_registered_people_can_be_added(accounts: Accounts) -> None:
    made, _, _ = await team(accounts)
    await accounts.users.create(name="Half", email="half@example.org", registering=True)
    for email in ("nobody@example.org", "half@example.org"):
        with pytest.raises(MemberMissing, match="is not registered"):
            await accounts.add_member(made.id, email, Role.MEMBER)
    with pytest.raises(InvalidAccount):
        await accounts.add_member(made.id, "bob", Role.MEMBER)


async def test_a_removed_member_has_no_standing_and_may_come_back(accounts: Accounts) -> None:
    made, _, bob = await team(accounts)
    await accounts.organisations.remove(made.id, bob.id)
    assert await accounts.standing(made.id, bob.id) is None
    assert await accounts.organisations.of_user(bob.id) == []
    with pytest.raises(MemberMissing):
        await accounts.organisations.remove(made.id, bob.id)
    await accounts.add_member(made.id, bob.email, Role.MEMBER)
    assert await role(accounts, made.id, bob.id) is Role.MEMBER
    assert [it.id for it in await accounts.organisations.of_user(bob.id)] == [made.id]


async def test_the_last_owner_stays(accounts: Accounts) -> None:
    made, ada, bob = await team(accounts)
    with pytest.raises(LastOwner):
        await accounts.organisations.remove(made.id, ada.id)
    with pytest.raises(LastOwner):
        await accounts.organisations.set_role(made.id, ada.id, Role.MEMBER)
    await accounts.organisations.set_role(made.id, bob.id, Role.OWNER)
    await accounts.organisations.remove(made.id, ada.id)
    assert await role(accounts, made.id, bob.id) is Role.OWNER


@pytest.mark.parametrize("way", ["demote", "remove"])
async def test_of_two_owners_who_end_each_other_at_once_one_stays(accounts: Accounts, way: str) -> None:
    made, ada, bob = await team(accounts)
    await accounts.organisations.set_role(made.id, bob.id, Role.OWNER)
    outcomes: list[str] = []

    async def end(user_id: str) -> None:
        try:
            if way == "demote":
                await accounts.organisations.set_role(made.id, user_id, Role.MEMBER)
            else:
                await accounts.organisations.remove(made.id, user_id)
            outcomes.append("done")
        except LastOwner:
            outcomes.append("refused")

    async with anyio.create_task_group() as tasks:
        for user in (ada, bob):
            tasks.start_soon(end, user.id)
    assert sorted(outcomes) == ["done", "refused"]
    roles = [member.role for member, _ in await accounts.members(made.id)]
    assert roles.count(Role.OWNER) == 1


async def test_fifty_who_join_at_once_all_belong(accounts: Accounts) -> None:
    made, _, _ = await team(accounts)
    people = [await person(accounts, f"user{number}") for number in range(50)]
    async with anyio.create_task_group() as tasks:
        for user in people:
            tasks.start_soon(accounts.add_member, made.id, user.email, Role.MEMBER)
    assert len(await accounts.members(made.id)) == 52


def test_an_organisation_has_room_for_a_thousand() -> None:
    members = {
        str(number): Member(org_id="o", user_id=str(number), role=Role.OWNER, created_ms=0)
        for number in range(MOST_MEMBERS)
    }
    full = Organisation(id="o", name="Full", created_by="0", created_ms=0, members=members)
    with pytest.raises(OrganisationFull):
        full.with_role(Member(org_id="o", user_id="new", role=Role.MEMBER, created_ms=0))
    full.with_role(Member(org_id="o", user_id="1", role=Role.MEMBER, created_ms=0))


async def test_who_relies_on_a_membership_is_told_of_its_end(accounts: Accounts, changes: Changes) -> None:
    made, ada, bob = await team(accounts)
    told: list[Change] = []
    changes.subscribe(told.append)
    await accounts.organisations.set_role(made.id, bob.id, Role.OWNER)
    await accounts.organisations.remove(made.id, ada.id)
    assert told == [Change(org_id=made.id, user_id=bob.id), Change(org_id=made.id, user_id=ada.id)]


async def test_an_unknown_organisation_has_nobody(accounts: Accounts) -> None:
    ada = await person(accounts, "ada")
    unknown = "f" * 24
    assert await accounts.organisations.get(unknown) is None
    assert await accounts.standing(unknown, ada.id) is None
    assert await accounts.members(unknown) == []
    for refused in (
        accounts.add_member(unknown, ada.email, Role.MEMBER),
        accounts.organisations.remove(unknown, ada.id),
        accounts.organisations.set_role(unknown, ada.id, Role.MEMBER),
    ):
        with pytest.raises(AuthError, match="does not exist"):
            await refused
    assert await accounts.organisations.of_user(ada.id) == []
    assert await accounts.users.get(unknown) is None
    assert await accounts.users.by_email("nobody@example.org") is None
