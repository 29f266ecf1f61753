"""VoidRun's Python package: its classes, its public methods as the package has them, and which tests call them.

The package comes as `Any`: what it says of its types is often not so (a list for an object, `None` for what is always
there).

A test says with `calls` which methods it calls, and fails if it does not (`conftest.py`); a method that no test names
fails `test_voidrun_methods.py`. A method of the generated client has three forms, which differ in what they return:
any of them counts.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import getmembers, isclass
from typing import Any, TypeVar

_voidrun: Any = import_module("voidrun")
VoidRun: Any = _voidrun.VoidRun
AsyncVoidRun: Any = _voidrun.AsyncVoidRun
SandboxesFacade: Any = _voidrun.client.SandboxesFacade
AsyncSandboxesFacade: Any = _voidrun.client.AsyncSandboxesFacade
Sandbox: Any = _voidrun.Sandbox
CodeInterpreter: Any = _voidrun.CodeInterpreter
Commands: Any = _voidrun.commands.Commands
FS: Any = _voidrun.fs.FS
FileWatcher: Any = _voidrun.fs.FileWatcher
PTY: Any = _voidrun.pty.PTY
PtySession: Any = _voidrun.pty.PtySession
raw: Any = _voidrun.api_client
"""The client that was generated from VoidRun's OpenAPI document; the classes above are written on it."""
errors: Any = _voidrun.api_client.exceptions

_FORMS = ("", "_with_http_info", "_without_preload_content")

Test = TypeVar("Test", bound=Callable[..., object])

CLAIMS: dict[Callable[..., object], frozenset[str]] = {}
"""What each test calls, by the names of `public_methods`."""


def calls(*methods: Callable[..., object]) -> Callable[[Test], Test]:
    """Say which methods of the package a test calls."""

    def claimed(test: Test) -> Test:
        CLAIMS[test] = frozenset(str(method.__qualname__) for method in methods)
        return test

    return claimed


def public_methods() -> dict[str, list[tuple[type, str]]]:
    """Find the methods that users of the package call.

    The transport of the generated client (`ApiClient`, `Configuration`) is left out: every method goes through it.

    Returns:
        By name, such as `FS.watch`: the attributes of classes that it is.
    """
    found: dict[str, list[tuple[type, str]]] = {}
    for kind in _classes():
        for name, member in vars(kind).items():
            if name.startswith("_") or isclass(member) or not callable(member) or name.endswith(_FORMS[1:]):
                continue
            forms = [form for form in _FORMS if hasattr(kind, name + form)]
            found[f"{kind.__qualname__}.{name}"] = [(kind, name + form) for form in forms]
    return found


def _classes() -> Iterator[type]:
    for module in [import_module(f"voidrun.{each.name}") for each in pkgutil.iter_modules(_voidrun.__path__)]:
        yield from (kind for _, kind in getmembers(module, isclass) if kind.__module__ == module.__name__)
    yield from (kind for _, kind in getmembers(raw.api, isclass))
