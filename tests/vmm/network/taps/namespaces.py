"""Network namespaces of a test's own, which vanish with it: nothing of the host's network is touched."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace. Sockets that are made in it belong to it, whoever uses them later.

    Args:
        descriptor: Of its file in /proc.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @property
    def path(self) -> str:
        """A file by which `ip` finds it."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def run(self, function: Callable[[], T]) -> T:
        """Run something in it, in a thread that ends with it."""

        def within() -> T:
            _call("setns", self.descriptor, _CLONE_NEWNET)
            return function()

        return _in_thread(within)

    @contextmanager
    def entered(self) -> Generator[None]:
        """Let this thread, and those that it starts, be in it for the length of a block."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", self.descriptor, _CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)

    def ip(self, *lines: str) -> None:
        """Run commands of `ip`."""
        self.run(lambda: [_command(["ip", *line.split()]) for line in lines])

    def nft(self, rules: str) -> None:
        """Load rules."""
        self.run(lambda: _command(["nft", "-f", "-"], rules))

    def write(self, setting: str, value: str) -> None:
        """Set a value below /proc/sys/net."""

        def written() -> None:
            with open(f"/proc/sys/net/{setting}", "w", encoding="ascii") as file:  # noqa: PTH123 -- of this thread
                file.write(value)

        self.run(written)


@contextmanager
def namespace() -> Generator[Namespace]:
    """A new namespace, with its loopback, for the length of a block and as long as sockets of it are open."""

    def made() -> int:
        _call("unshare", _CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    descriptor = _in_thread(made)
    try:
        found = Namespace(descriptor)
        found.ip("link set lo up")
        found.write("ipv4/ip_forward", "0")  # at first it is as the host's
        yield found
    finally:
        os.close(descriptor)


@cache
def lacking() -> str:
    """Tell why there can be no namespaces with rules here; empty if there can."""
    missing = [program for program in ("ip", "nft") if shutil.which(program) is None]
    if missing:
        return f"{' and '.join(missing)} is not installed"
    rules = (
        "table ip probe {\n chain c {\n type nat hook prerouting priority dstnat;\n tcp dport 1 redirect to :2\n }\n}"
    )
    try:
        with namespace() as probe:
            probe.ip("link add one type veth peer name two")
            probe.nft(rules)
    except OSError as error:
        return f"no network namespace: {error.strerror}"
    except RuntimeError as error:
        return str(error)
    return ""


def _call(name: str, *arguments: int) -> None:
    if getattr(_LIBC, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _command(command: list[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _in_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
