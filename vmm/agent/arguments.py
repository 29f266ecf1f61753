"""The arguments of a request, with their types checked."""

from __future__ import annotations

from typing import Any, cast

from .refusals import invalid

_MAX_PATH = 4095
_MAX_INTEGER = 2**62


class Paths:
    """Resolves paths in the sandbox's /proc for the agent, which is not a process there.

    /proc/self stands for the process that opens it, and does not exist for a process outside of the PID namespace.

    Args:
        first: The pid to use in place of `self`; None if the agent and the sandbox share one /proc.
    """

    def __init__(self, *, first: int | None = None) -> None:
        self._first = b"" if first is None else b"/proc/%d" % first

    def resolve(self, path: bytes) -> bytes:
        """Return the path that the agent must use."""
        if self._first and path.startswith(b"/proc/"):
            for name, process in ((b"/proc/self", b""), (b"/proc/mounts", b"/mounts"), (b"/proc/net", b"/net")):
                if path == name or path.startswith(name + b"/"):
                    return self._first + process + path[len(name) :]
        return path


class Arguments:
    """A request's JSON object, whose getters refuse values of the wrong type."""

    def __init__(self, values: dict[str, Any], paths: Paths | None = None) -> None:
        self._values = values
        self._paths = paths or Paths()

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string without NUL."""
        value: object = self._values.get(name, default)
        if not isinstance(value, str):
            raise invalid(f"{name} must be a string")
        if "\0" in value:
            raise invalid(f"{name} must be without NUL characters")
        return value

    def raw(self, name: str, default: str | None = None) -> bytes:
        """Return a string without NUL, encoded for system calls."""
        return encoded(name, self.text(name, default))

    def integer(self, name: str, default: int | None = None, *, least: int = 0) -> int:
        """Return an integer of at least `least`."""
        value: object = self._values.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise invalid(f"{name} must be an integer")
        if not least <= value <= _MAX_INTEGER:
            raise invalid(f"{name} must be {least} to {_MAX_INTEGER}, got {value}")
        return value

    def optional_integer(self, name: str) -> int | None:
        """Return an integer of at least 0, or None."""
        return None if self._values.get(name) is None else self.integer(name)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean."""
        value: object = self._values.get(name, default)
        if not isinstance(value, bool):
            raise invalid(f"{name} must be true or false")
        return value

    def path(self, name: str = "path") -> bytes:
        """Return an absolute path, resolved for the agent."""
        value = self.raw(name)
        if not value.startswith(b"/"):
            raise invalid(f"{name} must be an absolute path, got {value[:80]!r}")
        if len(value) > _MAX_PATH:
            raise invalid(f"{name} must be at most {_MAX_PATH} bytes, got {len(value)}")
        return self._paths.resolve(value)

    def texts(self, name: str) -> list[bytes]:
        """Return a list of strings without NUL, as bytes."""
        value: object = self._values.get(name, [])
        if not isinstance(value, list):
            raise invalid(f"{name} must be a list")
        return [_raw(name, item) for item in cast("list[object]", value)]

    def pairs(self, name: str) -> dict[bytes, bytes]:
        """Return an object's keys and values, strings without NUL, as bytes."""
        value: object = self._values.get(name, {})
        if not isinstance(value, dict):
            raise invalid(f"{name} must be an object")
        pairs = cast("dict[object, object]", value)
        return {_raw(name, key): _raw(name, item) for key, item in pairs.items()}

    def hexadecimal(self, name: str) -> bytes:
        """Decode a string of hex digits."""
        try:
            return bytes.fromhex(self.text(name))
        except ValueError as error:
            raise invalid(f"{name} must be hex digits") from error


def encoded(name: str, text: str) -> bytes:
    """Encode text as UTF-8; `name` is the field that an error names."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise invalid(f"{name} must be valid Unicode text") from error


def _raw(name: str, value: object) -> bytes:
    if not isinstance(value, str) or "\0" in value:
        raise invalid(f"{name} must contain only strings without NUL characters")
    return encoded(name, value)
