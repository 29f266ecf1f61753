"""The programs that a build needs, looked up before it starts, so that none is missing half-way."""

from __future__ import annotations

import getpass
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import anyio

from vmm.errors import Unavailable

from .commands import SYSTEM_PATHS, run

_PACKAGES = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "apt-config": "apt",
    "dpkg-deb": "dpkg",
    "tar": "tar",
    "unshare": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "mkfs.erofs": "erofs-utils",
    "depmod": "kmod",
    "lz4": "lz4",
    "busybox": "busybox-static",
}
_PLAIN_USER = {"newuidmap": "uidmap"}
_PROBE_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Paths of the programs, and prefixes of commands that need root.

    Attributes:
        paths: Program name to path.
        root: Prefix of a command whose files root must own: empty for root, a user namespace for a plain user.
        mounting: Prefix of a command that mounts: a mount namespace if root may make one. Without it, a killed command
            would leave its mounts, including the host's /sys, in a directory that is removed later.
    """

    paths: dict[str, Path]
    root: tuple[str, ...]
    mounting: tuple[str, ...]

    def __getitem__(self, name: str) -> Path:
        """Return the path of a program."""
        return self.paths[name]


async def find_tools() -> Tools:
    """Look up all programs.

    Raises:
        Unavailable: Some are missing or unsuitable; the hint is the command that installs all of them.
    """
    needed = _PACKAGES if os.geteuid() == 0 else _PACKAGES | _PLAIN_USER
    found, missing = await anyio.to_thread.run_sync(_look_up, needed)
    if missing:
        packages = sorted({needed[name] for name in missing})
        raise Unavailable(
            f"Programs that build images are missing: {', '.join(sorted(missing))}",
            hint=f"Install them: sudo apt-get install {' '.join(packages)}",
        )
    if os.geteuid() == 0:
        return Tools(paths=found, root=(), mounting=await _mounting(found["unshare"]))
    namespace = (str(found["unshare"]), "--user", "--map-root-user", "--map-auto", "--")
    try:
        await run([*namespace, "true"], deadline_s=_PROBE_S)
    except Unavailable as error:
        user = getpass.getuser()
        raise Unavailable(
            f"This user cannot make user namespaces, which building images without root needs: {error.message}",
            hint=f"Give it a range of ids: sudo usermod --add-subuids 200000-265535 --add-subgids 200000-265535 {user}",
        ) from error
    return Tools(paths=found, root=namespace, mounting=())


def find_tool(name: str) -> Path | None:
    """Find the path of one program, also outside a plain user's PATH."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATHS}")
    return Path(found) if found else None


async def _mounting(unshare: Path) -> tuple[str, ...]:
    command = (str(unshare), "--mount", "--propagation", "private", "--")
    try:
        await run([*command, "true"], deadline_s=_PROBE_S)
    except Unavailable:
        return ()  # root of a container without the right to mount: mmdebstrap works without mounts
    return command


def _look_up(needed: dict[str, str]) -> tuple[dict[str, Path], list[str]]:
    found: dict[str, Path] = {}
    missing: list[str] = []
    for name in needed:
        path = find_tool(name)
        if path is None or (name == "busybox" and not is_static(path)):
            missing.append(name)
        else:
            found[name] = path
    return found, missing


def is_static(program: Path) -> bool:
    """Tell whether an ELF program runs without a loader: the `busybox` of the package of that name does not."""
    data = program.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return False
    headers = int.from_bytes(data[32:40], "little")
    size, count = int.from_bytes(data[54:56], "little"), int.from_bytes(data[56:58], "little")
    interpreter = 3
    kinds = (int.from_bytes(data[headers + i * size : headers + i * size + 4], "little") for i in range(count))
    return interpreter not in kinds
