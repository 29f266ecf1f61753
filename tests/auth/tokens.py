"""Tokens and key sets made by hand, good ones and others, and an identity provider on loopback."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import anyio
import anyio.abc
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SECRET = "a secret of at least thirty-two bytes"


def encoded(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def shared(payload: object, *, secret: bytes | str = SECRET, header: dict[str, Any] | None = None) -> str:
    """A token with an HMAC, whatever its header and payload say."""
    text = f"{encoded(header or {'alg': 'HS256', 'typ': 'JWT'})}.{encoded(payload)}"
    key = secret if isinstance(secret, bytes) else secret.encode()
    return f"{text}.{encoded(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


@cache
def private_key(kind: str, number: int = 0) -> Any:
    """A key pair: RSA, EC, OKP, or weak (RSA with 1024 bits)."""
    match kind:
        case "RSA":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "weak":
            return rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 -- is to be refused
        case "EC":
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def public_jwk(kind: str, kid: str, number: int = 0, **more: str) -> dict[str, Any]:
    algorithms = {"RSA": "RS256", "weak": "RS256", "EC": "ES256", "OKP": "EdDSA"}
    algorithm: Any = jwt.get_algorithm_by_name(algorithms[kind])
    return {**algorithm.to_jwk(private_key(kind, number).public_key(), as_dict=True), "kid": kid, **more}


def public_pem(kind: str) -> bytes:
    return (
        private_key(kind)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def signed(
    payload: dict[str, Any], *, kind: str = "RSA", algorithm: str = "RS256", kid: str = "", number: int = 0
) -> str:
    headers = {"kid": kid} if kid else {}
    return jwt.encode(payload, private_key(kind, number), algorithm=algorithm, headers=headers)


@dataclass(slots=True)
class Provider:
    """An identity provider's key set.

    Attributes:
        url: Where it is.
        keys: What it has.
        status: What it answers with.
        body: In place of the keys, if set.
        asked: How often it was asked.
        slow: Waited for before an answer, if set.
    """

    url: str = ""
    keys: list[Any] = field(default_factory=list[Any])
    status: int = 200
    body: bytes = b""
    asked: int = 0
    slow: anyio.Event | None = None

    async def answer(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            self.asked += 1
            if self.slow is not None:
                await self.slow.wait()
            body = self.body or json.dumps({"keys": self.keys}).encode()
            head = f"HTTP/1.1 {self.status} X\r\nLocation: {self.url}\r\nContent-Length: {len(body)}\r\n"
            try:
                await stream.send(f"{head}Connection: close\r\n\r\n".encode() + body)
            except anyio.BrokenResourceError:
                return  # who asked had enough


@asynccontextmanager
async def provider(*keys: dict[str, Any]) -> AsyncGenerator[Provider]:
    """A provider that serves for the length of a block."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    made = Provider(url=f"http://127.0.0.1:{port}/jwks", keys=list(keys))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, made.answer)
        yield made
        tasks.cancel_scope.cancel()
