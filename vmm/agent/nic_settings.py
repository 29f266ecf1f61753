"""What the host gives the machine's network device, and the file that keeps it for an agent that is restarted."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Self

from .refusals import invalid

_NAME = "nic"
_MOST = 4096
_MAC_BYTES = 6
_MOST_PREFIX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the host gives a device.

    Attributes:
        mac: The hardware address.
        address: The IPv4 address.
        prefix: The length of its network's prefix.
        gateway: The next hop for everything else, whether it is in that network or not.
    """

    mac: bytes
    address: bytes
    prefix: int
    gateway: bytes

    @classmethod
    def of(cls, texts: dict[bytes, bytes]) -> Self | None:
        """Read them from a request or the file; None if there are none."""
        if not texts:
            return None
        try:
            mac = bytes.fromhex(texts[b"mac"].decode().replace(":", ""))
            address, _, prefix = texts[b"address"].decode().partition("/")
            settings = cls(
                mac=mac,
                address=socket.inet_pton(socket.AF_INET, address),
                prefix=int(prefix),
                gateway=socket.inet_pton(socket.AF_INET, texts[b"gateway"].decode()),
            )
        except (KeyError, ValueError, OSError) as error:
            raise invalid(f"nic must have mac, address (with its prefix) and gateway: {error}") from error
        if len(mac) != _MAC_BYTES or not 1 <= settings.prefix <= _MOST_PREFIX:
            raise invalid(f"nic must have a mac of 6 bytes and a prefix of 1 to {_MOST_PREFIX}")
        return settings

    def texts(self) -> dict[str, str]:
        """Write them as the host does."""
        return {
            "mac": self.mac.hex(":"),
            "address": f"{socket.inet_ntop(socket.AF_INET, self.address)}/{self.prefix}",
            "gateway": socket.inet_ntop(socket.AF_INET, self.gateway),
        }


class SettingsFile:
    """The file that keeps the settings for an agent that is restarted, as lines of names and values.

    It exists if the machine has a device, and is empty while that is not in use.
    """

    def __init__(self, directory: str) -> None:
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def exists(self) -> bool:
        """Tell whether an earlier agent has written it."""
        return _NAME in os.listdir(self._directory)

    def read(self) -> Settings | None:
        """Return the settings; None if the device is not in use."""
        descriptor = os.open(_NAME, os.O_RDONLY, dir_fd=self._directory)
        try:
            lines = os.read(descriptor, _MOST).splitlines()
        finally:
            os.close(descriptor)
        return Settings.of(dict(line.split(b" ", 1) for line in lines))

    def write(self, settings: Settings | None) -> None:
        """Replace the settings."""
        texts = {} if settings is None else settings.texts()
        draft = _NAME + ".new"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=self._directory)
        try:
            os.write(descriptor, "".join(f"{name} {value}\n" for name, value in texts.items()).encode())
        finally:
            os.close(descriptor)
        os.replace(draft, _NAME, src_dir_fd=self._directory, dst_dir_fd=self._directory)
