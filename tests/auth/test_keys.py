"""Keys: how they are made and kept, who is let in, and what revoking does."""

from __future__ import annotations

import hashlib
import json
import re

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.api_key import NewKey, masked, well_formed
from auth.changes import Change, Changes
from auth.errors import InvalidAccount, KeyMissing, TooManyScopes
from auth.keys import KeyStore
from auth.roles import ALL_SCOPES, Scope
from storage.collection import Collection
from storage.errors import StoreUnavailable
from tests.auth.clocks import Clocks
from tests.auth.spies import SpyCollection
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

ORG = "a" * 24
OTHER = "b" * 24
USER = "c" * 24


async def make(keys: KeyStore, *, org_id: str = ORG, name: str = "laptop", expires_ms: int = 0) -> NewKey:
    return await keys.create(org_id=org_id, created_by=USER, name=name, expires_ms=expires_ms)


@pytest.fixture
def spy(key_documents: Collection) -> SpyCollection:
    return SpyCollection(key_documents)


@pytest.fixture
def spied(spy: SpyCollection, clocks: Clocks) -> KeyStore:
    return KeyStore(spy, clock=clocks.epoch, monotonic=clocks.monotonic)


async def test_a_key_is_cm_and_43_url_safe_characters(keys: KeyStore) -> None:
    plain = (await make(keys)).plain
    assert re.fullmatch(r"cm_[A-Za-z0-9_-]{43}", plain)
    assert len({(await make(keys)).plain for _ in range(20)}) == 20


async def test_a_key_says_who_calls(keys: KeyStore) -> None:
    made = await make(keys)
    principal = await keys.verify(made.plain)
    assert principal is not None
    assert (principal.org_id, principal.user_id, principal.key_id) == (ORG, USER, made.record.id)


async def test_only_the_digest_of_the_whole_key_is_kept(keys: KeyStore, key_documents: Collection) -> None:
    made = await make(keys)
    document = await key_documents.get(made.record.id)
    assert document is not None
    assert document["digest"] == hashlib.sha256(made.plain.encode()).hexdigest()
    assert made.plain not in json.dumps(document)
    assert made.plain[7:-4] not in json.dumps(document)


async def test_the_masked_form_shows_eight_characters(keys: KeyStore) -> None:
    made = await make(keys)
    assert made.record.masked == f"{made.plain[:7]}…{made.plain[-4:]}" == masked(made.plain)


async def test_neither_key_nor_digest_is_in_a_repr(keys: KeyStore) -> None:
    made = await make(keys)
    shown = f"{made!r} {made} {made.record!r} {await keys.verify(made.plain)!r} {keys!r}"
    assert made.plain not in shown
    assert made.plain[7:-4] not in shown
    assert made.record.digest not in shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cm_",
        "cm_" + "A" * 42,
        "cm_" + "A" * 44,
        "vr_" + "A" * 43,
        "CM_" + "A" * 43,
        "cm_" + "A" * 42 + "+",
        "cm_" + "A" * 42 + "é",
        "cm_" + "A" * 43 + "\n",
        " cm_" + "A" * 43,
        "cm_" + "A" * 42 + "\0",
        "cm_" + "\N{FULLWIDTH LATIN CAPITAL LETTER A}" * 43,
        "cm_" + "A" * 100_000,
    ],
)
async def test_a_malformed_key_is_refused_without_a_read(spied: KeyStore, spy: SpyCollection, text: str) -> None:
    assert await spied.verify(text) is None
    assert spy.reads == 0


@given(st.text(max_size=60))
def test_only_ascii_of_the_right_length_is_well_formed(text: str) -> None:
    assert not well_formed(text) or (len(text) == 46 and text.isascii() and text.startswith("cm_"))


async def test_an_unknown_key_is_refused_by_one_read_each_time(spied: KeyStore, spy: SpyCollection) -> None:
    for _ in range(3):
        assert await spied.verify("cm_" + "A" * 43) is None
    assert spy.reads == 3


async def test_a_key_that_differs_in_one_character_is_refused(keys: KeyStore) -> None:
    plain = (await make(keys)).plain
    last = "A" if plain[-1] != "A" else "B"
    assert await keys.verify(plain[:-1] + last) is None
    assert await keys.verify(plain) is not None


async def test_a_good_key_is_read_once_in_five_seconds(spied: KeyStore, spy: SpyCollection, clocks: Clocks) -> None:
    plain = (await make(spied)).plain
    for _ in range(5):
        assert await spied.verify(plain) is not None
        clocks.advance(0.9)
    assert spy.reads == 1
    clocks.advance(1)
    assert await spied.verify(plain) is not None
    assert spy.reads == 2


async def test_checking_a_key_writes_nothing(spied: KeyStore, spy: SpyCollection, clocks: Clocks) -> None:
    plain = (await make(spied)).plain
    writes = spy.writes
    for _ in range(20):
        await spied.verify(plain)
        clocks.advance(30)
    assert spy.writes == writes


async def test_revoking_takes_effect_at_once(keys: KeyStore) -> None:
    made = await make(keys)
    assert await keys.verify(made.plain) is not None
    revoked = await keys.revoke(ORG, made.record.id)
    assert not revoked.is_active
    assert await keys.verify(made.plain) is None


async def test_revoking_in_another_process_takes_effect_within_five_seconds(
    key_documents: Collection, keys: KeyStore, clocks: Clocks
) -> None:
    made = await make(keys)
    assert await keys.verify(made.plain) is not None
    await KeyStore(key_documents).revoke(ORG, made.record.id)
    clocks.advance(5)
    assert await keys.verify(made.plain) is None


async def test_a_check_that_began_before_the_revocation_leaves_nothing_in_the_cache(
    spied: KeyStore, spy: SpyCollection
) -> None:
    made = await make(spied)
    has_read, go_on = anyio.Event(), anyio.Event()

    async def halt() -> None:
        has_read.set()
        await go_on.wait()

    spy.after_find = halt
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(spied.verify, made.plain)
        await has_read.wait()
        await spied.revoke(ORG, made.record.id)
        go_on.set()
    spy.after_find = None
    assert await spied.verify(made.plain) is None


async def test_revoking_twice_is_a_no_op(keys: KeyStore) -> None:
    made = await make(keys)
    first = await keys.revoke(ORG, made.record.id)
    assert await keys.revoke(ORG, made.record.id) == first


async def test_a_stranger_cannot_revoke_and_learns_nothing(keys: KeyStore) -> None:
    made = await make(keys)
    with pytest.raises(KeyMissing) as foreign:
        await keys.revoke(OTHER, made.record.id)
    with pytest.raises(KeyMissing) as unknown:
        await keys.revoke(OTHER, "f" * 24)
    assert str(foreign.value).replace(made.record.id, "ID") == str(unknown.value).replace("f" * 24, "ID")
    assert await keys.verify(made.plain) is not None


async def test_an_expired_key_is_refused_even_from_the_cache(keys: KeyStore, clocks: Clocks) -> None:
    made = await make(keys, expires_ms=clocks.ms + 2000)
    assert await keys.verify(made.plain) is not None
    clocks.advance(1.999)
    assert await keys.verify(made.plain) is not None
    clocks.advance(0.001)
    assert await keys.verify(made.plain) is None


async def test_an_expiry_in_the_past_is_refused(keys: KeyStore, clocks: Clocks) -> None:
    with pytest.raises(InvalidAccount, match="expires_ms"):
        await make(keys, expires_ms=clocks.ms)


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "a\0b"])
async def test_a_bad_name_is_refused(keys: KeyStore, name: str) -> None:
    with pytest.raises(InvalidAccount, match="key name"):
        await make(keys, name=name)


async def test_the_list_is_the_organisations_own_newest_first(keys: KeyStore) -> None:
    made = [(await make(keys, name=f"key {number}")).record for number in range(5)]
    await make(keys, org_id=OTHER)
    await keys.revoke(ORG, made[2].id)
    listed = await keys.list(ORG)
    assert [key.id for key in listed] == [key.id for key in reversed(made)]
    assert [key.is_active for key in listed] == [True, True, False, True, True]


async def test_the_last_use_is_listed_at_once_and_kept_by_one_write(
    spied: KeyStore, spy: SpyCollection, key_documents: Collection, clocks: Clocks
) -> None:
    made = await make(spied)
    for _ in range(10):
        await spied.verify(made.plain)
    assert (await spied.list(ORG))[0].last_used_ms == clocks.ms
    writes = spy.writes
    await spied.flush()
    await spied.flush()
    assert spy.writes == writes + 1
    assert (await KeyStore(key_documents).list(ORG))[0].last_used_ms == clocks.ms


async def test_a_last_use_that_could_not_be_kept_is_tried_again(
    spied: KeyStore, spy: SpyCollection, key_documents: Collection
) -> None:
    made = await make(spied)
    await spied.verify(made.plain)
    spy.failure = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable):
        await spied.flush()
    spy.failure = None
    await spied.flush()
    document = await key_documents.get(made.record.id)
    assert document is not None
    assert document["last_used_ms"] > 0


async def test_a_revocation_that_meets_a_recorded_use_wins(spied: KeyStore, spy: SpyCollection) -> None:
    made = await make(spied)
    await spied.verify(made.plain)

    async def use_first() -> None:
        spy.before_replace = None
        await spied.flush()

    spy.before_replace = use_first
    await spied.revoke(ORG, made.record.id)
    key = (await spied.list(ORG))[0]
    assert not key.is_active
    assert key.last_used_ms > 0
    assert await spied.verify(made.plain) is None


async def test_the_background_task_keeps_last_uses_when_it_is_stopped(
    keys: KeyStore, key_documents: Collection
) -> None:
    made = await make(keys)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keys.run)
        await keys.verify(made.plain)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    document = await key_documents.get(made.record.id)
    assert document is not None
    assert document["last_used_ms"] > 0


async def test_the_background_task_outlives_a_store_that_fails(
    spied: KeyStore, spy: SpyCollection, key_documents: Collection
) -> None:
    made = await make(spied)
    await spied.verify(made.plain)
    spy.failure = StoreUnavailable("gone")
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: spied.run(interval_s=0.001))
            reads = spy.reads
            while spy.reads < reads + 2:
                await anyio.sleep(0.001)
            spy.failure = None
            while not ((await key_documents.get(made.record.id)) or {})["last_used_ms"]:
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()


async def test_a_cached_key_is_good_while_the_store_is_gone_and_others_are_told(
    spied: KeyStore, spy: SpyCollection, clocks: Clocks
) -> None:
    plain = (await make(spied)).plain
    await spied.verify(plain)
    spy.failure = StoreUnavailable("gone")
    assert await spied.verify(plain) is not None
    clocks.advance(5)
    with pytest.raises(StoreUnavailable):
        await spied.verify(plain)


async def test_switching_a_key_on_again_makes_it_good(keys: KeyStore, clocks: Clocks) -> None:
    made = await make(keys)
    await keys.set_active(ORG, made.record.id, active=False)
    assert await keys.verify(made.plain) is None
    clocks.advance(1)
    again = await keys.set_active(ORG, made.record.id, active=True)
    assert again.updated_ms == clocks.ms
    assert await keys.verify(made.plain) is not None


async def test_a_deleted_key_is_gone(keys: KeyStore, key_documents: Collection) -> None:
    made = await make(keys)
    assert await keys.verify(made.plain) is not None
    with pytest.raises(KeyMissing):
        await keys.delete(OTHER, made.record.id)
    await keys.delete(ORG, made.record.id)
    assert await keys.verify(made.plain) is None
    assert await keys.list(ORG) == []
    for missing in (
        keys.delete(ORG, made.record.id),
        keys.set_active(ORG, made.record.id, active=True),
        keys.touch(ORG, made.record.id),
        keys.get(ORG, made.record.id),
    ):
        with pytest.raises(KeyMissing):
            await missing
    await keys.flush()
    assert await key_documents.get(made.record.id) is None


async def test_touching_a_key_records_its_use(keys: KeyStore, clocks: Clocks) -> None:
    made = await make(keys)
    clocks.advance(10)
    assert (await keys.touch(ORG, made.record.id)).last_used_ms == clocks.ms
    assert (await keys.get(ORG, made.record.id)).last_used_ms == clocks.ms
    with pytest.raises(KeyMissing):
        await keys.touch(OTHER, made.record.id)


async def test_a_keys_scopes_are_kept_and_all_by_default(keys: KeyStore, key_documents: Collection) -> None:
    assert (await make(keys)).record.scopes == ALL_SCOPES
    made = await keys.create(org_id=ORG, created_by=USER, name="reader", scopes=frozenset({Scope.READ}))
    fresh = KeyStore(key_documents)
    principal = await fresh.verify(made.plain)
    assert principal is not None
    assert principal.scopes == {Scope.READ}
    assert not principal.may(Scope.RUN)


async def test_a_key_of_an_earlier_version_is_good_for_everything(keys: KeyStore, key_documents: Collection) -> None:
    made = await make(keys)
    document = await key_documents.get(made.record.id)
    assert document is not None
    await key_documents.replace({name: it for name, it in document.items() if name not in {"scopes", "updated_ms"}})
    principal = await keys.verify(made.plain)
    assert principal is not None
    assert principal.scopes == ALL_SCOPES
    assert not (await keys.set_active(ORG, made.record.id, active=False)).is_active


@pytest.mark.parametrize(
    ("held", "wanted", "granted"),
    [
        ("read", "read", True),
        ("read", "run", False),
        ("run", "read", True),
        ("run", "admin", False),
        ("admin", "run", True),
        ("admin", "admin", True),
    ],
)
async def test_a_key_is_good_for_no_more_than_what_makes_it(
    keys: KeyStore, held: str, wanted: str, *, granted: bool
) -> None:
    scopes, within = frozenset({Scope(wanted)}), frozenset({Scope(held)})
    if granted:
        await keys.create(org_id=ORG, created_by=USER, name="key", scopes=scopes, within=within)
        return
    with pytest.raises(TooManyScopes, match=wanted):
        await keys.create(org_id=ORG, created_by=USER, name="key", scopes=scopes, within=within)
    assert await keys.list(ORG) == []


async def test_a_key_is_good_for_something(keys: KeyStore) -> None:
    with pytest.raises(InvalidAccount, match="scopes"):
        await keys.create(org_id=ORG, created_by=USER, name="key", scopes=frozenset())


async def test_who_relies_on_a_key_is_told_of_its_end(keys: KeyStore, changes: Changes) -> None:
    told: list[Change] = []
    changes.subscribe(told.append)
    first, second = await make(keys), await make(keys)
    await keys.revoke(ORG, first.record.id)
    await keys.delete(ORG, second.record.id)
    assert told == [Change(org_id=ORG, key_id=made.record.id) for made in (first, second)]
