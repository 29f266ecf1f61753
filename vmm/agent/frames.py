"""The wire protocol of host and guest: frames `kind u8 | length u32 big-endian | payload`, and the handshake's proofs.

Both ends import this definition. A connection begins with the handshake: the agent sends HELLO (version, nonce),
the host answers AUTH (its nonce, its proof), the agent sends PROOF. Then operations follow, one at a time:
REQUEST, then data frames up to END if the operation takes data. The answer is one HEAD if the operation streams, then
data frames, then one RESULT or ERROR. A frame that breaks a rule closes its connection and affects no other.
"""

from __future__ import annotations

import hmac
import json
import struct
from typing import Any, cast

VERSION = 1

HELLO = 1
AUTH = 2
PROOF = 3
REQUEST = 4
DATA = 5
END = 6
HEAD = 7
RESULT = 8
ERROR = 9
STDOUT = 10
STDERR = 11

HEADER = struct.Struct(">BI")
OFFSET = struct.Struct(">Q")
"""The start of STDOUT and STDERR payloads: the absolute offset of their first byte."""

MAX_DATA = 256 * 1024
"""Bytes of content in one data frame, at most."""
MAX_JSON = 8 * 1024 * 1024
"""Bytes of a REQUEST, HEAD, RESULT or ERROR, at most."""
MAX_STDIN = 8 * 1024 * 1024
"""Bytes of standard input given along with a command, at most."""
MAX_INPUT = 1024 * 1024
"""Bytes of input for a process or terminal in one call, at most."""

NONCE = 32
PROOF_SIZE = 32

_LIMITS = {
    HELLO: 1 + NONCE,
    AUTH: NONCE + PROOF_SIZE,
    PROOF: PROOF_SIZE,
    REQUEST: MAX_JSON,
    DATA: MAX_DATA,
    END: 0,
    HEAD: MAX_JSON,
    RESULT: MAX_JSON,
    ERROR: MAX_JSON,
    STDOUT: MAX_DATA + OFFSET.size,
    STDERR: MAX_DATA + OFFSET.size,
}


class FrameError(Exception):
    """The peer violated the protocol; the connection cannot be used any further."""


def pack(kind: int, payload: bytes = b"") -> bytes:
    """Pack one frame."""
    return HEADER.pack(kind, len(payload)) + payload


def pack_json(kind: int, value: dict[str, Any]) -> bytes:
    """Pack one frame with a JSON object."""
    return pack(kind, json.dumps(value, separators=(",", ":")).encode())


def unpack_header(header: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Return kind and payload length of the frame that begins with these five bytes.

    Raises:
        FrameError: The kind is unknown or the length is above its limit.
    """
    kind, length = HEADER.unpack_from(header)
    limit = _LIMITS.get(kind)
    if limit is None:
        raise FrameError(f"unknown frame kind {kind}")
    if length > limit:
        raise FrameError(f"frame of kind {kind} has {length} bytes, the limit is {limit}")
    return kind, length


def unpack_json(payload: bytes) -> dict[str, Any]:
    """Return the object in a JSON frame.

    Raises:
        FrameError: Not JSON, or not an object.
    """
    try:
        value: object = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise FrameError("a frame is not JSON") from error
    if not isinstance(value, dict):
        raise FrameError("a JSON frame is not an object")
    return cast("dict[str, Any]", value)


def host_proof(secret: bytes, agent_nonce: bytes, host_nonce: bytes) -> bytes:
    """Return the host's proof that it knows the secret."""
    return hmac.digest(secret, b"casemate host\0" + agent_nonce + host_nonce, "sha256")


def agent_proof(secret: bytes, agent_nonce: bytes, host_nonce: bytes) -> bytes:
    """Return the agent's proof that it knows the secret."""
    return hmac.digest(secret, b"casemate agent\0" + agent_nonce + host_nonce, "sha256")


def same(left: bytes, right: bytes) -> bool:
    """Return whether two proofs are equal, comparing in constant time."""
    return hmac.compare_digest(left, right)
