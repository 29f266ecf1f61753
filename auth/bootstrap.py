"""The first start: a local user, an organisation and a key, so that whoever runs the server can use it at once.

Every step looks before it acts. A start that was interrupted is finished by the next one, and a store that has what is
needed is left as it is.
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
    """What the local operator has.

    Attributes:
        key_file: Where the key lies.
        principal: Whom the key in it speaks for.
        created_account: Whether the local user was made just now.
        created_key: Whether the key was made just now.
    """

    key_file: Path
    principal: Principal
    created_account: bool
    created_key: bool


async def ensure_local_access(accounts: Accounts, keys: KeyStore, key_file: Path) -> BootstrapResult:
    """Make sure that the key file holds a valid key, for the local user unless its owner put another one there.

    If the file is missing or its key is not accepted, a new key is made and written: who may write the data directory
    owns the machine anyway. Keys made before stay valid until they are revoked. The local user runs the server.

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
            await keys.set_active(org_id, made.record.id, active=False)  # nobody will ever know it
        raise
    principal = replace(made.record.principal, operator=True)
    return BootstrapResult(key_file=key_file, principal=principal, created_account=created, created_key=True)


async def _local_user(accounts: Accounts) -> tuple[User, bool]:
    """The local user, as operator; and whether it was made just now."""
    user = await accounts.users.by_email(_EMAIL)
    if user is None:
        try:
            return await accounts.users.create(name=_NAME, email=_EMAIL, operator=True), True
        except EmailTaken:  # by another server on the same store, in this moment
            user = await accounts.users.by_email(_EMAIL)
            if user is None:
                raise
    return await accounts.users.make_operator(user.id) or user, False


async def _ensure_operator(accounts: Accounts, user_id: str) -> bool:
    """Whether the user is the local one, who is operator from now on if not before."""
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
        # Of an id that all know: servers that start for the first time together make one and not one each.
        return (await accounts.organisations.create(name=_ORGANISATION, owner_id=user.id, org_id=user.id)).id
    except DuplicateKey:
        # By another server, in this moment; or long ago, and the local user has left it since.
        owned = await _owned_by(accounts, user)
        return owned or (await accounts.organisations.create(name=_ORGANISATION, owner_id=user.id)).id


async def _owned_by(accounts: Accounts, user: User) -> str:
    """The user's oldest organisation as an owner; empty if there is none."""
    found = await accounts.organisations.of_user(user.id)
    return next((it.id for it in found if it.members[user.id].role is Role.OWNER), "")
