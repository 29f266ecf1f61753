"""The first start makes one user, one organisation and one key; later ones change nothing that is good."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from auth.accounts import Accounts, Standing
from auth.bootstrap import ensure_local_access
from auth.errors import KeyFileError
from auth.keys import KEYS, KeyStore
from auth.organisations import ORGANISATIONS
from auth.principal import Principal
from auth.roles import Role
from auth.users import USERS
from storage.collection import Database

pytestmark = pytest.mark.anyio


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "key"


async def speaks(keys: KeyStore, key_file: Path) -> Principal:
    """Whom the key in the file speaks for."""
    principal = await keys.verify(key_file.read_text().strip())
    assert principal is not None
    return principal


async def test_an_empty_store_gets_a_user_an_organisation_and_a_key(
    accounts: Accounts, keys: KeyStore, key_file: Path
) -> None:
    result = await ensure_local_access(accounts, keys, key_file)
    assert result.created_account
    assert result.created_key
    assert result.key_file == key_file
    assert (await speaks(keys, key_file)).key_id == result.principal.key_id
    standing = await accounts.standing(result.principal.org_id, result.principal.user_id)
    assert standing == Standing(role=Role.OWNER, operator=True)
    assert key_file.read_text().strip() not in repr(result)


async def test_a_second_start_leaves_everything(accounts: Accounts, keys: KeyStore, key_file: Path) -> None:
    first = await ensure_local_access(accounts, keys, key_file)
    text = key_file.read_text()
    second = await ensure_local_access(accounts, keys, key_file)
    assert (second.principal, second.created_account, second.created_key) == (first.principal, False, False)
    assert key_file.read_text() == text
    assert len(await keys.list(first.principal.org_id)) == 1
    assert len(await accounts.organisations.of_user(first.principal.user_id)) == 1


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
    assert (await speaks(keys, key_file)).key_id == second.principal.key_id


async def test_a_revoked_key_in_the_file_is_replaced(accounts: Accounts, keys: KeyStore, key_file: Path) -> None:
    first = await ensure_local_access(accounts, keys, key_file)
    await keys.revoke(first.principal.org_id, first.principal.key_id)
    second = await ensure_local_access(accounts, keys, key_file)
    assert second.created_key
    assert (await speaks(keys, key_file)).key_id == second.principal.key_id


async def test_another_good_key_that_the_operator_put_there_stays(
    accounts: Accounts, keys: KeyStore, key_file: Path
) -> None:
    ada = await accounts.users.create(name="Ada", email="ada@example.org")
    made = await accounts.organisations.create(name="Analysts", owner_id=ada.id)
    own = await keys.create(org_id=made.id, created_by=ada.id, name="own")
    key_file.parent.mkdir()
    key_file.write_text(own.plain)
    result = await ensure_local_access(accounts, keys, key_file)
    assert result.principal == own.record.principal
    assert not result.created_account
    assert key_file.read_text() == own.plain


async def test_a_start_that_was_interrupted_is_finished(accounts: Accounts, keys: KeyStore, key_file: Path) -> None:
    await accounts.users.create(name="Local user", email="local@localhost")
    result = await ensure_local_access(accounts, keys, key_file)
    assert not result.created_account
    assert result.created_key
    assert await accounts.standing(result.principal.org_id, result.principal.user_id) is not None


async def test_servers_that_start_for_the_first_time_together_make_one_organisation(
    accounts: Accounts, keys: KeyStore, tmp_path: Path
) -> None:
    made: list[Principal] = []

    async def start(number: int) -> None:
        made.append((await ensure_local_access(accounts, keys, tmp_path / str(number) / "key")).principal)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(start, number)
    assert len({(principal.user_id, principal.org_id) for principal in made}) == 1
    assert len({principal.key_id for principal in made}) == 20


async def test_a_local_user_who_left_the_organisation_gets_another_one(
    accounts: Accounts, keys: KeyStore, key_file: Path
) -> None:
    first = (await ensure_local_access(accounts, keys, key_file)).principal
    heir = await accounts.users.create(name="Heir", email="heir@example.org")
    await accounts.organisations.add(first.org_id, heir.id, Role.OWNER)
    await accounts.organisations.remove(first.org_id, first.user_id)
    second = (await ensure_local_access(accounts, keys, key_file)).principal
    assert second.user_id == first.user_id
    assert second.org_id != first.org_id
    assert await accounts.standing(second.org_id, second.user_id) == Standing(role=Role.OWNER, operator=True)


async def test_a_key_that_could_not_be_written_is_revoked(accounts: Accounts, keys: KeyStore, tmp_path: Path) -> None:
    too_long_for_a_neighbour = tmp_path / ("k" * 250)
    with pytest.raises(KeyFileError, match="key file"):
        await ensure_local_access(accounts, keys, too_long_for_a_neighbour)
    user = await accounts.users.by_email("local@localhost")
    assert user is not None
    (membership,) = await accounts.organisations.of_user(user.id)
    assert [key.is_active for key in await keys.list(membership.id)] == [False]


async def test_a_place_that_cannot_be_read_is_an_error_before_anything_is_made(
    accounts: Accounts, keys: KeyStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="key file"):
        await ensure_local_access(accounts, keys, tmp_path / "file" / "key")
    assert await accounts.users.by_email("local@localhost") is None


async def test_the_local_user_runs_the_server(accounts: Accounts, keys: KeyStore, key_file: Path) -> None:
    first = await ensure_local_access(accounts, keys, key_file)
    assert first.principal.operator
    assert (await ensure_local_access(accounts, keys, key_file)).principal.operator


async def test_a_local_user_of_an_earlier_version_becomes_operator(
    database: Database, accounts: Accounts, keys: KeyStore, key_file: Path
) -> None:
    first = await ensure_local_access(accounts, keys, key_file)
    users, organisations = await database.collection(USERS), await database.collection(ORGANISATIONS)
    documents = await database.collection(KEYS)
    for collection, document_id, later in (
        (users, first.principal.user_id, ("operator", "registering_ms")),
        (organisations, first.principal.org_id, ("members",)),
        (documents, first.principal.key_id, ("scopes", "updated_ms")),
    ):
        document = await collection.get(document_id)
        assert document is not None
        await collection.replace({name: value for name, value in document.items() if name not in later})
    assert await accounts.standing(first.principal.org_id, first.principal.user_id) == Standing(
        role=Role.OWNER, operator=False
    )
    second = await ensure_local_access(accounts, keys, key_file)
    assert (second.principal, second.created_key) == (first.principal, False)
    assert await accounts.standing(first.principal.org_id, first.principal.user_id) == Standing(
        role=Role.OWNER, operator=True
    )


async def test_somebody_elses_key_in_the_file_makes_nobody_operator(
    accounts: Accounts, keys: KeyStore, key_file: Path
) -> None:
    await ensure_local_access(accounts, keys, key_file)
    ada = await accounts.users.create(name="Ada", email="ada@example.org")
    made = await accounts.organisations.create(name="Analysts", owner_id=ada.id)
    own = await keys.create(org_id=made.id, created_by=ada.id, name="own")
    key_file.write_text(own.plain)
    result = await ensure_local_access(accounts, keys, key_file)
    assert not result.principal.operator
    standing = await accounts.standing(made.id, ada.id)
    assert standing is not None
    assert not standing.operator
