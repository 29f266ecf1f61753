"""What makes a clone a machine of its own: entropy, clock, machine id, host name and secret; and the proof of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import sys
import time
from typing import Any

from . import frames
from .arguments import Arguments
from .channel import Channel
from .refusals import invalid

_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207
_MACHINE_ID = "/etc/machine-id"
_HOSTS = "/etc/hosts"
_HOSTNAME = "/etc/hostname"
_LEAST = 32
_MOST_ENTROPY = 512
_HEX = frozenset("0123456789abcdef")


class SecretFile:
    """Where the secret outlives the agent, so that one that had to be started again still knows it."""

    def __init__(self, path: str) -> None:
        self._directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        self._name = os.path.basename(path)

    def read(self) -> bytes:
        """The secret; the file has hex digits."""
        descriptor = os.open(self._name, os.O_RDONLY, dir_fd=self._directory)
        try:
            return bytes.fromhex(os.read(descriptor, 4096).decode().strip())
        finally:
            os.close(descriptor)

    def write(self, secret: bytes) -> None:
        """Replace the secret."""
        draft = self._name + ".new"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=self._directory)
        try:
            os.write(descriptor, secret.hex().encode() + b"\n")
        finally:
            os.close(descriptor)
        os.replace(draft, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)


class IdentityHolder:
    """The agent's secret, its nonce, and the change to a new identity.

    Attributes:
        secret: What both ends know.
        nonce: Random hex that lives only in this process's memory.
    """

    def __init__(self, secret: bytes, file: SecretFile | None, random: int, *, privileged: bool) -> None:
        self.secret = secret
        self.nonce = os.urandom(16).hex()
        self._file = file
        self._random = random
        self._privileged = privileged

    def ping(self, channel: Channel, arguments: Arguments) -> None:
        """Say that the agent is there."""
        del arguments
        channel.send_result(
            {
                "version": str(frames.VERSION),
                "nonce": self.nonce,
                "clock_ns": time.time_ns(),
                "monotonic_ns": time.monotonic_ns(),
            }
        )

    def set_clock(self, channel: Channel, arguments: Arguments) -> None:
        """Set the guest's clock."""
        clock = arguments.integer("clock_ns", least=1)
        if self._privileged:
            time.clock_settime_ns(time.CLOCK_REALTIME, clock)
        channel.send_result({"clock_ns": time.time_ns()})

    def take(self, arguments: Arguments) -> dict[str, Any]:
        """Take a new identity on; the certificate, read back from the kernel and the files.

        Raises:
            OSError: A step failed: this machine must not be used.
        """
        entropy, secret = arguments.hexadecimal("entropy"), arguments.hexadecimal("secret")
        machine_id, hostname = arguments.text("machine_id"), arguments.text("hostname")
        clock = arguments.integer("clock_ns", least=1)
        if not _LEAST <= len(entropy) <= _MOST_ENTROPY:
            raise invalid(f"entropy: {len(entropy)} bytes, {_LEAST} to {_MOST_ENTROPY} are needed")
        if len(secret) < _LEAST:
            raise invalid(f"secret: {len(secret)} bytes, at least {_LEAST} are needed")
        if len(machine_id) != _LEAST or not _HEX.issuperset(machine_id):
            raise invalid("machine_id: 32 lower-case hex digits are needed")
        if not hostname or len(hostname) > 63:
            raise invalid(f"hostname: {hostname[:80]!r} is not a host name")
        mixed = False
        if self._privileged:
            fcntl.ioctl(self._random, _RNDADDENTROPY, struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy)
            # Credited bytes alone wait for the next reseed, and clones would share what is drawn until then.
            fcntl.ioctl(self._random, _RNDRESEEDCRNG)
            mixed = True
            time.clock_settime_ns(time.CLOCK_REALTIME, clock)
            _rewrite(_MACHINE_ID, machine_id.encode() + b"\n")
            try:
                _rewrite(_HOSTNAME, hostname.encode() + b"\n")
                _rewrite(_HOSTS, _hosts_with(_read(_HOSTS), hostname.encode()))
            except OSError as error:
                # What a user did to these files must not keep the machine from waking.
                sys.stderr.write(f"agent: the host name is not in the files: {error}\n")
            socket.sethostname(hostname)
        if self._file is not None:
            self._file.write(secret)
        self.secret = secret
        return {
            "nonce": self.nonce,
            "entropy_mixed": mixed,
            "clock_ns": time.time_ns(),
            "machine_id": _read(_MACHINE_ID).decode("ascii", "replace").strip(),
            "hostname": socket.gethostname(),
        }


def _rewrite(path: str, data: bytes) -> None:
    """Overwrite in place, since a full disk may have no block for a new file."""
    if _read(path) == data:
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)
    except OSError:
        # Something else is in its place: a link, or nothing up to the directory.
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, data)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def _hosts_with(old: bytes, hostname: bytes) -> bytes:
    """The hosts file with the machine's own name in it, so that it can look itself up without a network."""
    lines = [line for line in old.splitlines() if not line.startswith(b"127.0.1.1")]
    return b"\n".join([*(lines or [b"127.0.0.1\tlocalhost"]), b"127.0.1.1\t" + hostname]) + b"\n"


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
