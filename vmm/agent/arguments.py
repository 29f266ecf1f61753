"""The arguments of a request, read with their types checked."""

from __future__ import annotations

from typing import Any, cast

from .refusals import invalid

_MAX_PATH = 4095
_MAX_INTEGER = 2**62


class Paths:
    """What paths in the sandbox's /proc mean to the agent, which is no process there.

    What the kernel calls `self` is the process that looks, and there is none by that name in somebody else's /proc.

    Args:
        first: The process to look at in its place; None where the agent has a /proc in common with the sandbox.
    """

    def __init__(self, *, first: int | None = None) -> None:
        self._first = b"" if first is None else b"/proc/%d" % first

    def resolve(self, path: bytes) -> bytes:
        """The path as the agent has to name it."""
        if self._first and path.startswith(b"/proc/"):
            for name, process in ((b"/proc/self", b""), (b"/proc/mounts", b"/mounts"), (b"/proc/net", b"/net")):
                if path == name or path.startswith(name + b"/"):
                    return self._first + process + path[len(name) :]
        return path


class Arguments:
    """A request's JSON object. Every getter refuses a value of another type."""

    def __init__(self, values: dict[str, Any], paths: Paths | None = None) -> None:
        self._values = values
        self._paths = paths or Paths()

    def text(self, name: str, default: str | None = None) -> str:
        """A string without NUL."""
        value: object = self._values.get(name, default)
        if not isinstance(value, str):
            raise invalid(f"{name}: a string is needed")
        if "\0" in value:
            raise invalid(f"{name}: contains a NUL character")
        return value

    def raw(self, name: str, default: str | None = None) -> bytes:
        """A string without NUL, as the bytes that the system calls take."""
        return encoded(name, self.text(name, default))

    def integer(self, name: str, default: int | None = None, *, least: int = 0) -> int:
        """A whole number, at least `least`."""
        value: object = self._values.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise invalid(f"{name}: a whole number is needed")
        if not least <= value <= _MAX_INTEGER:
            raise invalid(f"{name}: {value} is not between {least} and {_MAX_INTEGER}")
        return value

    def optional_integer(self, name: str) -> int | None:
        """A whole number of at least 0, or None."""
        return None if self._values.get(name) is None else self.integer(name)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        value: object = self._values.get(name, default)
        if not isinstance(value, bool):
            raise invalid(f"{name}: true or false is needed")
        return value

    def path(self, name: str = "path") -> bytes:
        """An absolute path."""
        value = self.raw(name)
        if not value.startswith(b"/"):
            raise invalid(f"{name}: {value[:80]!r} is not absolute")
        if len(value) > _MAX_PATH:
            raise invalid(f"{name}: {len(value)} bytes, the longest path has {_MAX_PATH}")
        return self._paths.resolve(value)

    def texts(self, name: str) -> list[bytes]:
        """A list of strings without NUL, as bytes."""
        value: object = self._values.get(name, [])
        if not isinstance(value, list):
            raise invalid(f"{name}: a list is needed")
        return [_raw(name, item) for item in cast("list[object]", value)]

    def pairs(self, name: str) -> dict[bytes, bytes]:
        """An object of strings without NUL, as bytes."""
        value: object = self._values.get(name, {})
        if not isinstance(value, dict):
            raise invalid(f"{name}: an object is needed")
        pairs = cast("dict[object, object]", value)
        return {_raw(name, key): _raw(name, item) for key, item in pairs.items()}

    def hexadecimal(self, name: str) -> bytes:
        """Bytes written as hex digits."""
        try:
            return bytes.fromhex(self.text(name))
        except ValueError as error:
            raise invalid(f"{name}: hex digits are needed") from error


def encoded(name: str, text: str) -> bytes:
    """Text as UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise invalid(f"{name}: not valid Unicode text") from error


def _raw(name: str, value: object) -> bytes:
    if not isinstance(value, str) or "\0" in value:
        raise invalid(f"{name}: strings without NUL are needed")
    return encoded(name, value)
