from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.agent import frames

KINDS = st.sampled_from([frames.REQUEST, frames.DATA, frames.HEAD, frames.RESULT, frames.ERROR, frames.STDOUT])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(KINDS, st.binary(max_size=2000))
def test_a_packed_frame_can_be_unpacked(kind: int, payload: bytes) -> None:
    frame = frames.pack(kind, payload)
    assert frames.unpack_header(frame) == (kind, len(payload))
    assert frame[frames.HEADER.size :] == payload


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_json_object_is_the_same_after_packing_and_unpacking(value: dict[str, object]) -> None:
    frame = frames.pack_json(frames.REQUEST, value)
    assert frames.unpack_json(frame[frames.HEADER.size :]) == value


@given(st.binary(min_size=5, max_size=5))
def test_any_header_is_accepted_or_raises_frame_error(header: bytes) -> None:
    try:
        kind, length = frames.unpack_header(header)
    except frames.FrameError:
        return
    assert frames.pack(kind, b"\0" * length if length < 100_000 else b"")[0] == kind
    assert length <= frames.MAX_JSON


@given(st.binary(max_size=200))
def test_any_payload_is_accepted_or_raises_frame_error(payload: bytes) -> None:
    try:
        value = frames.unpack_json(payload)
    except frames.FrameError:
        return
    assert value == json.loads(payload)


def test_deeply_nested_json_is_refused() -> None:
    with pytest.raises(frames.FrameError):
        frames.unpack_json(b"[" * 1_000_000)


@pytest.mark.parametrize("kind", [frames.DATA, frames.REQUEST, frames.END, frames.AUTH])
def test_an_oversized_frame_is_refused_by_its_header(kind: int) -> None:
    with pytest.raises(frames.FrameError, match="the limit is"):
        frames.unpack_header(struct.pack(">BI", kind, 2**32 - 1))


def test_host_and_agent_proofs_differ() -> None:
    secret, nonces = b"s" * 32, (b"a" * 32, b"h" * 32)
    assert frames.host_proof(secret, *nonces) != frames.agent_proof(secret, *nonces)
    assert frames.host_proof(secret, *nonces) != frames.host_proof(b"t" * 32, *nonces)
    assert frames.same(frames.host_proof(secret, *nonces), frames.host_proof(secret, *nonces))
