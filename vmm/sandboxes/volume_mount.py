"""Requests for volumes in a sandbox, and the paths that they may have."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.shown import shown

from ..errors import Conflict, InvalidInput

MOST_VOLUMES = 8
"""Volumes of one sandbox."""

_PATH_LENGTH = 255
_KERNEL_ONLY = ("/proc", "/sys", "/dev")
_NEEDED = frozenset(("/", "/bin", "/boot", "/etc", "/lib", "/lib64", "/run", "/sbin", "/usr", "/var", *_KERNEL_ONLY))


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMount:
    """A request for a volume in a sandbox.

    Attributes:
        volume: The volume's name or id.
        path: The absolute path of the directory where programs see it.
        read_only: Whether the sandbox may only read it; several sandboxes may then share it.
    """

    volume: str
    path: str
    read_only: bool = False


def check_mounts(mounts: Sequence[VolumeMount]) -> None:
    """Refuse requests that exclude each other, or whose paths are not allowed.

    Raises:
        InvalidInput: A path is not allowed, or there are too many.
        Conflict: Two are the same volume, or their paths are not apart.
    """
    paths: dict[str, str] = {}
    for mount in mounts:
        if mount.volume in paths:
            raise Conflict(f"volumes must be different, got {shown(mount.volume)} twice")
        path = checked_path(mount.path)
        check_apart(paths, path)
        paths[mount.volume] = path


def checked_path(path: str) -> str:
    """Return the path of a mount in normal form.

    Raises:
        InvalidInput: It is relative, too long, or a directory that the sandbox itself needs.
    """
    if not path.startswith("/") or ".." in path.split("/") or not path.isprintable():
        raise InvalidInput(f"path must be absolute, without '..', got {shown(path)}", hint="Name one such as /data")
    # POSIX gives two leading slashes a meaning of their own, which Linux does not have.
    normal = "/" + posixpath.normpath(path).lstrip("/")
    size = len(normal.encode(errors="replace"))
    if size > _PATH_LENGTH:
        raise InvalidInput(f"path must be at most {_PATH_LENGTH} bytes, got {size}")
    if normal in _NEEDED or normal.startswith(tuple(f"{one}/" for one in _KERNEL_ONLY)):
        raise InvalidInput(
            f"path must be a directory that the sandbox does not need itself, got {shown(path)}",
            hint="Name one such as /data",
        )
    return normal


def check_apart(paths: Mapping[str, str], path: str) -> None:
    """Refuse a path that is, contains, or lies in that of another volume.

    Args:
        paths: The paths of the sandbox's volumes, by the volume's name.
        path: The new one.

    Raises:
        Conflict: The message names the other volume.
        InvalidInput: The sandbox has too many volumes.
    """
    if len(paths) >= MOST_VOLUMES:
        raise InvalidInput(f"volumes must be at most {MOST_VOLUMES} in one sandbox, got {len(paths)} and 1 more")
    for name, other in paths.items():
        if path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/"):
            raise Conflict(f"path must be apart from {other} of volume {name}, got {shown(path)}")
