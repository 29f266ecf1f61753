"""The first start makes one user, one organisation and one key; later ones change nothing that is good."""

from __future__ import annotations

from pathlib import Path

import pytest

from auth.accounts import Accounts
from auth.bootstrap import ensure_local_access
from auth.errors import KeyFileError
from auth.keys import KeyStore
from auth.roles import Role

pytestmark = pytest.mark.anyio


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "key"


async def test_an_empty_store_gets_a_user_an_organisation_and_a_key(
    accounts: Accounts, keys: KeyStore, key_file: Path
) -> None:
    result = await ensure_local_access(accounts, keys, key_file)
    assert result.created_account
    assert result.created_key
    assert result.key_file == key_file
    assert await keys.verify(key_file.read_text().strip()) == result.principal
    member = await accounts.member(result.principal.org_id, result.principal.user_id)
    assert member is not None
    assert member.role is Role.OWNER
    assert key_file.read_text().strip() not in repr(result)


async def test_a_second_start_leaves_everything(accounts: Accounts, keys: KeyStore, key_file: Path) -> None:
    first = await ensure_local_access(accounts, keys, key_file)
    text = key_file.read_text()
    second = await ensure_local_access(accounts, keys, key_file)
    assert (second.principal, second.created_account, second.created_key) == (first.principal, False, False)
    assert key_file.read_text() == text
    assert len(await keys.list(first.principal.org_id)) == 1
    assert len(await accounts.memberships(first.principal.user_id)) == 1


@pytest.mark.parametrize("content", [None, "", "nonsense", "cm_" + "A" * 43, "\xff" * 10_000])
async def test_a_key_file_that_is_lost_or_spoilt_gets_a_new_key_of_the_same_owner(
    accounts: Accounts, keys: KeyStore, key_file: Path, content: str | None
) -> None:
    first = await ensure_local_access(accounts, keys, key_file)
    if content is None:
        key_file.unlink()
    else:
        key_file.write_text(content)
    second = await ensure_local_access(accounts, keys, key_file)
    assert second.created_key
    assert not second.created_account
    assert second.principal.org_id == first.principal.org_id
    assert second.principal.key_id != first.principal.key_id
    assert await keys.verify(key_file.read_text().strip()) == second.principal


async def test_a_revoked_key_in_the_file_is_replaced(accounts: Accounts, keys: KeyStore, key_file: Path) -> None:
    first = await ensure_local_access(accounts, keys, key_file)
    await keys.revoke(first.principal.org_id, first.principal.key_id)
    second = await ensure_local_access(accounts, keys, key_file)
    assert second.created_key
    assert await keys.verify(key_file.read_text().strip()) == second.principal


async def test_another_good_key_that_the_operator_put_there_stays(
    accounts: Accounts, keys: KeyStore, key_file: Path
) -> None:
    ada = await accounts.create_user(name="Ada", email="ada@example.org")
    made = await accounts.create_organisation(name="Analysts", owner=ada)
    own = await keys.create(org_id=made.id, created_by=ada.id, name="own")
    key_file.parent.mkdir()
    key_file.write_text(own.plain)
    result = await ensure_local_access(accounts, keys, key_file)
    assert result.principal == own.record.principal
    assert not result.created_account
    assert key_file.read_text() == own.plain


async def test_a_start_that_was_interrupted_is_finished(accounts: Accounts, keys: KeyStore, key_file: Path) -> None:
    await accounts.create_user(name="Local user", email="local@localhost")
    result = await ensure_local_access(accounts, keys, key_file)
    assert not result.created_account
    assert result.created_key
    assert await accounts.member(result.principal.org_id, result.principal.user_id) is not None


async def test_a_key_that_could_not_be_written_is_revoked(accounts: Accounts, keys: KeyStore, tmp_path: Path) -> None:
    too_long_for_a_neighbour = tmp_path / ("k" * 250)
    with pytest.raises(KeyFileError, match="key file"):
        await ensure_local_access(accounts, keys, too_long_for_a_neighbour)
    user = await accounts.user_by_email("local@localhost")
    assert user is not None
    (membership,) = await accounts.memberships(user.id)
    assert [key.is_active for key in await keys.list(membership.org_id)] == [False]


async def test_a_place_that_cannot_be_read_is_an_error_before_anything_is_made(
    accounts: Accounts, keys: KeyStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="key file"):
        await ensure_local_access(accounts, keys, tmp_path / "file" / "key")
    assert await accounts.user_by_email("local@localhost") is None
