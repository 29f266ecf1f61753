"""The part `kernel`: Debian's cloud kernel as a bzImage and as an ELF file, and the initramfs that goes with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from vmm.errors import Unavailable

from . import bzimage, initramfs
from .apt import host_suite
from .commands import run
from .modules import ModuleTree
from .progress import UNITS
from .recipe import Workshop, recipe_digest

BZIMAGE = "vmlinuz"
ELF = "vmlinux"
INITRAMFS = "initramfs"
_PACKAGE = "linux-image-cloud-amd64"
_RECIPE = ("kernel.py", "bzimage.py", "initramfs.py", "init.sh", "modules.py", "cpio.py")
_DEPMOD_S = 120


@dataclass(frozen=True, slots=True)
class KernelRecipe:
    """Unpacks the kernel's package, without installing it."""

    name: str = "kernel"
    files: tuple[str, ...] = (BZIMAGE, ELF, INITRAMFS)
    weight: int = 8 * UNITS
    space: int = 300 * 1024 * 1024

    def inputs(self) -> Mapping[str, str]:
        """Return the release and the recipe's digest."""
        return {"suite": host_suite(), "recipe": recipe_digest(*_RECIPE)}

    async def build(self, shop: Workshop, into: Path) -> Mapping[str, str]:
        """Download and unpack the kernel, and build the initramfs."""
        shop.report("Downloading the kernel", 0.0)
        await shop.apt.refresh()
        packages = [name for name in await shop.apt.depends(_PACKAGE) if name.startswith("linux-image-")]
        if not packages:
            raise Unavailable(f"apt does not find the kernel package {_PACKAGE}", hint="Run: sudo apt-get update")
        (package,) = await shop.apt.download(packages[:1], shop.scratch)
        shop.report("Unpacking the kernel", 0.5)
        tree = shop.scratch / "tree"
        await shop.apt.unpack(package, tree)
        release = await anyio.to_thread.run_sync(_release, tree)
        await run([shop.tools["depmod"], "-b", tree, release], deadline_s=_DEPMOD_S, pass_fds=shop.held)
        shop.report("Making the initramfs", 0.8)
        busybox = shop.tools["busybox"]
        await anyio.to_thread.run_sync(_write, tree, release, busybox, into)
        version = re.sub(r"^[^_]*_|_[^_]*$", "", package.stem)
        return {"kernel": f"{packages[0]} {version}"}


def _release(tree: Path) -> str:
    # Newer packages have all files below /usr, but depmod looks in /lib, which is a link on a real system.
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    releases = [path.name for path in (tree / "lib/modules").glob("*")]
    if len(releases) != 1:
        raise Unavailable(f"The kernel's package must hold the modules of one kernel, got {len(releases)}")
    return releases[0]


def _write(tree: Path, release: str, busybox: Path, into: Path) -> None:
    image = (tree / "boot" / f"vmlinuz-{release}").read_bytes()
    (into / BZIMAGE).write_bytes(image)
    (into / ELF).write_bytes(bzimage.unpack(image))
    modules = ModuleTree.read(tree / "lib/modules" / release)
    (into / INITRAMFS).write_bytes(initramfs.build(modules, busybox))
