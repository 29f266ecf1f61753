"""Users with unique addresses, organisations, and who belongs to which."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.accounts import Accounts, normalised
from auth.errors import EmailTaken, InvalidAccount
from auth.roles import Role

pytestmark = pytest.mark.anyio


async def test_an_address_is_kept_in_lower_case_and_found_in_any(accounts: Accounts) -> None:
    user = await accounts.create_user(name="Ada", email="  Ada@Example.ORG ")
    assert user.email == "ada@example.org"
    assert await accounts.user_by_email("ADA@example.org") == user
    assert await accounts.user(user.id) == user


async def test_an_address_in_other_case_is_taken(accounts: Accounts) -> None:
    await accounts.create_user(name="Ada", email="ada@example.org")
    with pytest.raises(EmailTaken, match=r"ada@example\.org"):
        await accounts.create_user(name="Eve", email="ADA@EXAMPLE.ORG")


async def test_of_fifty_users_at_once_with_one_address_exactly_one_is_made(accounts: Accounts) -> None:
    outcomes: list[str] = []

    async def register(number: int) -> None:
        try:
            await accounts.create_user(name=f"user {number}", email="same@example.org")
            outcomes.append("made")
        except EmailTaken:
            outcomes.append("taken")

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(register, number)
    assert sorted(outcomes) == ["made", *["taken"] * 49]


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
    ],
)
async def test_what_is_no_address_is_refused(accounts: Accounts, email: str) -> None:
    with pytest.raises(InvalidAccount, match="email") as refused:
        await accounts.create_user(name="Ada", email=email)
    assert len(str(refused.value)) < 200


@given(st.text(max_size=80))
def test_a_normalised_address_stays_as_it_is(text: str) -> None:
    for email in (text, f"{text}@example.org"):
        try:
            address = normalised(email)
        except InvalidAccount:
            continue
        assert normalised(address) == address == address.lower()
        assert address.isascii()


@pytest.mark.timeout(10)
def test_a_long_hostile_address_is_refused_fast() -> None:
    for email in ("a@" + "a-" * 100_000, "a@" + "a." * 50_000, "." * 1_000_000):
        with pytest.raises(InvalidAccount):
            normalised(email)


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\tb", "\x1b[31m"])
async def test_a_bad_name_is_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(InvalidAccount, match="name"):
        await accounts.create_user(name=name, email="ada@example.org")


async def test_who_makes_an_organisation_owns_it(accounts: Accounts) -> None:
    ada = await accounts.create_user(name="Ada", email="ada@example.org")
    made = await accounts.create_organisation(name="Analysts", owner=ada)
    assert await accounts.organisation(made.id) == made
    member = await accounts.member(made.id, ada.id)
    assert member is not None
    assert member.role is Role.OWNER
    assert await accounts.members(made.id) == [member] == await accounts.memberships(ada.id)


async def test_a_user_belongs_to_several_organisations(accounts: Accounts) -> None:
    ada = await accounts.create_user(name="Ada", email="ada@example.org")
    bob = await accounts.create_user(name="Bob", email="bob@example.org")
    first = await accounts.create_organisation(name="First", owner=ada)
    second = await accounts.create_organisation(name="Second", owner=ada)
    await accounts.add_member(second.id, bob.id, Role.MEMBER)
    assert [member.org_id for member in await accounts.memberships(ada.id)] == [first.id, second.id]
    assert {member.user_id for member in await accounts.members(second.id)} == {ada.id, bob.id}
    assert await accounts.member(first.id, bob.id) is None


async def test_a_member_who_is_added_again_keeps_the_role(accounts: Accounts) -> None:
    ada = await accounts.create_user(name="Ada", email="ada@example.org")
    made = await accounts.create_organisation(name="Analysts", owner=ada)
    assert (await accounts.add_member(made.id, ada.id, Role.MEMBER)).role is Role.OWNER


async def test_what_does_not_exist_is_none(accounts: Accounts) -> None:
    assert await accounts.user("f" * 24) is None
    assert await accounts.user_by_email("nobody@example.org") is None
    assert await accounts.organisation("f" * 24) is None
    assert await accounts.member("f" * 24, "e" * 24) is None
    assert await accounts.members("f" * 24) == []
