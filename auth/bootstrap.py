"""Bootstrap at the first start: a local user, an organisation and a key, so that the operator can use the server.

Every step is idempotent. The next start completes an interrupted one, and a store that is complete is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from storage.errors import DuplicateKey

from .accounts import Accounts
from .errors import EmailTaken
from .key_file import read_key, write_key
from .keys import KeyStore
from .principal import Principal
from .roles import Role
from .users import User

_EMAIL = "local@localhost"
_NAME = "Local user"
_ORGANISATION = "Local"
_KEY = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapResult:
    """The local operator's access.

    Attributes:
        key_file: The file with the key.
        principal: The caller that the key stands for.
        created_account: Whether this start created the local user.
        created_key: Whether this start created the key.
    """

    key_file: Path
    principal: Principal
    created_account: bool
    created_key: bool


async def ensure_local_access(accounts: Accounts, keys: KeyStore, key_file: Path) -> BootstrapResult:
    """Make sure that the key file has a valid key: the local user's, unless the operator put another one there.

    If the file is missing or its key is not valid, a new key is created and written: whoever can write to the data
    directory controls the server anyway. Older keys stay valid until they are revoked. The local user becomes an
    operator of the server.

    Raises:
        KeyFileError: The file cannot be read or written.
        StoreError: The store failed.
    """
    held = await keys.verify(await anyio.to_thread.run_sync(read_key, key_file))
    standing = None if held is None else await accounts.standing(held.org_id, held.user_id)
    if held is not None and standing is not None:
        operator = await _ensure_operator(accounts, held.user_id) or standing.operator
        principal = replace(held, role=standing.role, operator=operator)
        return BootstrapResult(key_file=key_file, principal=principal, created_account=False, created_key=False)
    user, created = await _local_user(accounts)
    org_id = await _organisation_of(accounts, user)
    made = await keys.create(org_id=org_id, created_by=user.id, name=_KEY)
    try:
        await anyio.to_thread.run_sync(write_key, key_file, made.plain)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await keys.set_active(org_id, made.record.id, active=False)  # nobody will ever see its text
        raise
    principal = replace(made.record.principal, operator=True)
    return BootstrapResult(key_file=key_file, principal=principal, created_account=created, created_key=True)


async def _local_user(accounts: Accounts) -> tuple[User, bool]:
    """Return the local user, as an operator, and whether this call created it."""
    user = await accounts.users.by_email(_EMAIL)
    if user is None:
        try:
            return await accounts.users.create(name=_NAME, email=_EMAIL, operator=True), True
        except EmailTaken:  # another server on the same store created it at the same moment
            user = await accounts.users.by_email(_EMAIL)
            if user is None:
                raise
    return await accounts.users.make_operator(user.id) or user, False


async def _ensure_operator(accounts: Accounts, user_id: str) -> bool:
    """Return whether the user is the local one, and make it an operator if it is."""
    local = await accounts.users.by_email(_EMAIL)
    if local is None or local.id != user_id:
        return False
    await accounts.users.make_operator(user_id)
    return True


async def _organisation_of(accounts: Accounts, user: User) -> str:
    owned = await _owned_by(accounts, user)
    if owned:
        return owned
    try:
        # The id is predictable, so that servers that start for the first time together create only one organisation.
        return (await accounts.organisations.create(name=_ORGANISATION, owner_id=user.id, org_id=user.id)).id
    except DuplicateKey:
        # Another server created it at the same moment, or the local user has left it since.
        owned = await _owned_by(accounts, user)
        return owned or (await accounts.organisations.create(name=_ORGANISATION, owner_id=user.id)).id


async def _owned_by(accounts: Accounts, user: User) -> str:
    """Return the id of the oldest organisation that the user owns; empty if there is none."""
    found = await accounts.organisations.of_user(user.id)
    return next((it.id for it in found if it.members[user.id].role is Role.OWNER), "")
