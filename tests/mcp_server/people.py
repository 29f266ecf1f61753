"""Two organisations with known ids, an owner of each, and a key of each owner."""

from __future__ import annotations

from auth.organisations import MEMBERS, ORGANISATIONS
from mcp_server.identity import Identity
from storage.collection import Database

ALICE, BOB = "a" * 24, "b" * 24


async def settle(database: Database, identity: Identity) -> dict[str, str]:
    """Make alice and bob, each the owner of an organisation; returns their keys by name."""
    return {name: await _moved_in(database, identity, name, org) for name, org in (("alice", ALICE), ("bob", BOB))}


async def _moved_in(database: Database, identity: Identity, name: str, org: str) -> str:
    user = await identity.accounts.users.create(name=name, email=f"{name}@example.org")
    # RecordFile by hand, for the store gives ids of its own, and what tests say of an owner needs one known before.
    members = {user.id: {"role": "owner", "created_ms": 1}}
    home = {"_id": org, "name": name, "created_by": user.id, "created_ms": 1, "members": members}
    pointer = {"_id": f"{org}.{user.id}", "org_id": org, "user_id": user.id, "created_ms": 1}
    await (await database.collection(ORGANISATIONS)).insert(home)
    await (await database.collection(MEMBERS)).insert(pointer)
    return (await identity.keys.create(org_id=org, created_by=user.id, name="test")).plain
