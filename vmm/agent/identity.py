"""The identity that makes a clone distinct: entropy, clock, machine id, host name and secret; and its certificate."""

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
from .nic_settings import Settings
from .refusals import invalid
from .uplink import Uplink

_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207
_MACHINE_ID = "/etc/machine-id"
_HOSTS = "/etc/hosts"
_HOSTNAME = "/etc/hostname"
_MIN_BYTES = 32
"""Bytes of entropy and of a secret, at least."""
_MAX_ENTROPY = 512
_MACHINE_ID_DIGITS = 32
_HEX = frozenset("0123456789abcdef")


class SecretFile:
    """The file that keeps the secret for an agent that is restarted."""

    def __init__(self, path: str) -> None:
        self._directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        self._name = os.path.basename(path)

    def read(self) -> bytes:
        """Return the secret, which the file has as hex digits."""
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
    """The agent's secret and nonce, and the change to a new identity.

    Attributes:
        secret: The secret that the agent and the host share.
        nonce: Random hex digits that exist only in this process's memory.
    """

    def __init__(
        self,
        secret: bytes,
        file: SecretFile | None,
        random: int,
        *,
        privileged: bool,
        uplink: Uplink | None = None,
    ) -> None:
        self._uplink = uplink
        self.secret = secret
        self.nonce = os.urandom(16).hex()
        self._file = file
        self._random = random
        self._privileged = privileged

    def ping(self, channel: Channel, arguments: Arguments) -> None:
        """Answer with the protocol version, the nonce and the clocks."""
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
        """Adopt a new identity, and return its certificate, read back from the kernel and the files.

        Raises:
            OSError: A step failed, and this machine must not be used.
        """
        entropy, secret = arguments.hexadecimal("entropy"), arguments.hexadecimal("secret")
        machine_id, hostname = arguments.text("machine_id"), arguments.text("hostname")
        clock = arguments.integer("clock_ns", least=1)
        nic = Settings.of(arguments.pairs("nic"))
        if not _MIN_BYTES <= len(entropy) <= _MAX_ENTROPY:
            raise invalid(f"entropy must be {_MIN_BYTES} to {_MAX_ENTROPY} bytes, got {len(entropy)}")
        if len(secret) < _MIN_BYTES:
            raise invalid(f"secret must be at least {_MIN_BYTES} bytes, got {len(secret)}")
        if len(machine_id) != _MACHINE_ID_DIGITS or not _HEX.issuperset(machine_id):
            raise invalid(f"machine_id must be {_MACHINE_ID_DIGITS} lower-case hex digits, got {machine_id[:80]!r}")
        if not hostname or len(hostname) > 63:
            raise invalid(f"hostname must be 1 to 63 characters, got {hostname[:80]!r}")
        mixed = False
        if self._privileged:
            fcntl.ioctl(self._random, _RNDADDENTROPY, struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy)
            # Added entropy has no effect until the next reseed, and clones would get the same random bytes until then.
            fcntl.ioctl(self._random, _RNDRESEEDCRNG)
            mixed = True
            time.clock_settime_ns(time.CLOCK_REALTIME, clock)
            _rewrite(_MACHINE_ID, machine_id.encode() + b"\n")
            try:
                _rewrite(_HOSTNAME, hostname.encode() + b"\n")
                _rewrite(_HOSTS, _hosts_with(_read(_HOSTS), hostname.encode()))
            except OSError as error:
                # Whatever a user did to these files must not prevent the machine from starting.
                sys.stderr.write(f"agent: cannot write the host name to {_HOSTNAME} and {_HOSTS}: {error}\n")
            socket.sethostname(hostname)
        used = {} if self._uplink is None else self._uplink.use(nic)
        if self._file is not None:
            self._file.write(secret)
        self.secret = secret
        return {
            "nonce": self.nonce,
            "entropy_mixed": mixed,
            "clock_ns": time.time_ns(),
            "machine_id": _read(_MACHINE_ID).decode("ascii", "replace").strip(),
            "hostname": socket.gethostname(),
            "nic": used or None,
        }


def _rewrite(path: str, data: bytes) -> None:
    """Overwrite a file in place, since a full disk may have no block for a new one."""
    if _read(path) == data:
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)
    except OSError:
        # A link is in its place, or its directory is missing.
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
    """Return the hosts file with the machine's own name, which then resolves without a network."""
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
