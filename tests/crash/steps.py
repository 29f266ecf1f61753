"""Counts the steps of a server from outside, and kills it after a chosen one, as a power cut would.

A step is a call that changes something that outlives the server: a record, a name in the file system, a process, what a
machine is told. Between two steps there is nothing new to be found after a crash, so that to die after each of them is
to die everywhere. The product knows nothing of this: the calls are wrapped where they are looked up.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from storage.sqlite_collection import SqliteCollection
from vmm.guest.link import GuestLink
from vmm.hypervisor.ch_api import Api
from vmm.hypervisor.cloud_hypervisor import CloudHypervisor
from vmm.hypervisor.qemu import Qemu
from vmm.hypervisor.qmp import Qmp
from vmm.network.taps import conntrack, nft
from vmm.network.taps.tap import Tap

_NAMES = ("mkdir", "rename", "replace", "link", "symlink", "unlink", "rmdir")
_IN_BULK = {"unlink", "link", "copy_file_range"}
_TOLD = {"stop", "cont", "migrate", "migrate-incoming", "quit", "blockdev-add", "device_add", "device_del"}


class Steps:
    """The steps of this process since `arm`.

    Args:
        last: After this one, counted from 1, the process is killed.
        log: Descriptor of the file that each step is written to.
    """

    def __init__(self, last: int, log: int) -> None:
        self._last = last
        self._log = log
        self._count = 0
        self._before: dict[Path | None, str] = {}
        self._armed = False
        self._lock = threading.Lock()

    def arm(self) -> None:
        """Count from now on."""
        self._armed = True

    def disarm(self) -> None:
        """Count no more."""
        self._armed = False

    def took(self, kind: str, what: str | Path = "") -> None:
        """Count a step; many of the same kind in a row in one directory, where they come in bulk, are one.

        What is done side by side is done in several directories, so that there are as many steps in whatever order.
        """
        place = what.parent if isinstance(what, Path) else None
        with self._lock:
            if not self._armed or (kind in _IN_BULK and kind == self._before.get(place)):
                return
            self._before[place] = kind
            self._count += 1
            named = str(Path(*what.parts[-2:])) if isinstance(what, Path) else what
            os.write(self._log, f"{kind} {named}".strip().encode() + b"\n")
            if self._count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def count(steps: Steps, *, taps: bool = False) -> None:
    """Wrap what makes steps, for the rest of this process's life.

    Args:
        steps: Counts them.
        taps: Count those of taps, of machines as a whole and of records alone. All others are also those of a server
            without taps.
    """
    for driver in (Qemu, CloudHypervisor):
        for name in ("start", "restore", "save", "settle", "resume", "stop"):
            _wrap_async(driver, name, steps, lambda _: "")
    for name in ("insert", "replace", "delete"):
        _wrap_async(SqliteCollection, name, steps, lambda given: given[0].spec.name)
    if taps:
        for name in ("open", "connect", "forget"):
            _wrap(Tap, name, steps, lambda given, _: f"tap {given[0].name}")
        _wrap(nft, "run", steps, lambda _given, _more: "nft")
        _wrap(conntrack, "forget", steps, lambda _given, _more: "connections")
        return
    for name in _NAMES:
        _wrap(os, name, steps, _path)
    _wrap(os, "open", steps, lambda given, more: _path(given[:1], more) if given[1] & os.O_CREAT else None)
    _wrap(os, "copy_file_range", steps, lambda given, _: _opened(given[1]))
    _wrap(os, "posix_spawnp", steps, lambda given, _: given[0])
    _wrap(shutil, "copyfile", steps, _path)
    _wrap(signal, "pidfd_send_signal", steps, lambda _given, _more: "")
    for name in ("identify", "mount_volume", "unmount_volume", "freeze_volume", "thaw_volume"):
        _wrap_async(GuestLink, name, steps, lambda _: "")
    _wrap_async(Qmp, "run", steps, lambda given: given[1] if given[1] in _TOLD else None)
    _wrap_async(Api, "call", steps, lambda given: given[2] if given[1] == "PUT" else None)


Named = Callable[[tuple[Any, ...]], str | None]
"""What a call with these arguments is about, in words for people; None if it is no step."""
NamedFile = Callable[[tuple[Any, ...], dict[str, Any]], str | Path | None]
"""The same, of arguments of both kinds; a path if it is about a file."""


def _wrap(place: Any, name: str, steps: Steps, named: NamedFile) -> None:
    plain: Callable[..., Any] = getattr(place, name)

    @functools.wraps(plain)
    def counted(*given: Any, **more: Any) -> Any:
        result = plain(*given, **more)
        if (what := named(given, more)) is not None:
            steps.took(name, what)
        return result

    setattr(place, name, counted)


def _wrap_async(place: Any, name: str, steps: Steps, named: Named) -> None:
    plain: Callable[..., Awaitable[Any]] = getattr(place, name)

    @functools.wraps(plain)
    async def counted(*given: Any, **more: Any) -> Any:
        result = await plain(*given, **more)
        if (what := named(given)) is not None:
            steps.took(name, what)
        return result

    setattr(place, name, counted)


def _path(given: tuple[Any, ...], more: dict[str, Any]) -> Path:
    """The last path among some arguments, from its directory if there is a descriptor of that."""
    directory = more.get("dir_fd")
    *_, path = (Path(path) for path in given if isinstance(path, str | Path))
    return path if directory is None else _opened(directory) / path


def _opened(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()
