"""The kernel of the emulated KVM host: one of Debian's with all its modules, and our own initramfs."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import anyio

from vmm.images import cpio
from vmm.images.apt import Apt
from vmm.images.commands import run
from vmm.images.modules import ModuleTree
from vmm.images.recipe import tree_digest
from vmm.images.tools import find_tools

_PACKAGE = "linux-image-cloud-amd64"
_MODULES = ("virtio_pci", "virtiofs", "overlay")
_APPLETS = ("insmod", "mkdir", "mount", "sh", "switch_root")
_DIRECTORIES = ("bin", "dev", "modules", "new", "proc", "root", "sys", "upper")
_HERE = Path(__file__).parent
_RECIPE = ("kernel.py", "init.sh")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKernel:
    """The files that the host boots from.

    Attributes:
        image: The kernel, as bzImage.
        initramfs: Mounts this machine's file system under an overlay, and switches to it.
        modules: Contains the directory `<release>` with all modules of the kernel.
    """

    image: Path
    initramfs: Path
    modules: Path


async def host_kernel(cache: Path, package: Path | None = None) -> HostKernel:
    """Return the files; they are made once per kernel package, and a directory keeps those of the last package.

    Args:
        cache: The directory.
        package: The package's file; None for the cloud kernel of this machine's Debian.
    """
    tools = await find_tools()
    apt = Apt(tools=tools)
    if package is None:
        await apt.refresh()
        name = next(each for each in await apt.depends(_PACKAGE) if each.startswith("linux-image-"))
    else:
        name = package.stem
    digest = tree_digest(_HERE, [_HERE / file for file in _RECIPE])
    place = cache / f"kvm-host-{name}-{digest[:12]}"
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".kvm-host-") as scratch:
            tree, made = Path(scratch, "tree"), Path(scratch, "made")
            archive = package or (await apt.download([name], Path(scratch)))[0]
            await apt.unpack(archive, tree)
            await anyio.to_thread.run_sync(_publish, tree, made)
            (release,) = [path.name for path in made.joinpath("lib/modules").iterdir()]
            await run([tools["depmod"], "-b", made, release], deadline_s=120)
            await anyio.to_thread.run_sync(_initramfs, made, release, tools["busybox"])
            made.rename(place)
        for old in cache.glob("kvm-host-*"):
            if old != place:
                await anyio.to_thread.run_sync(shutil.rmtree, old)
    return HostKernel(image=place / "vmlinuz", initramfs=place / "initramfs", modules=place / "lib/modules")


def _publish(tree: Path, made: Path) -> None:
    modules = next(path for path in (tree / "lib/modules", tree / "usr/lib/modules") if path.exists())
    shutil.copytree(modules, made / "lib/modules", symlinks=True)
    (image,) = (tree / "boot").glob("vmlinuz-*")
    shutil.copy(image, made / "vmlinuz")


def _initramfs(made: Path, release: str, busybox: Path) -> None:
    modules = ModuleTree.read(made / "lib/modules" / release)
    order = modules.order(_MODULES)
    entries = [cpio.directory(name) for name in _DIRECTORIES]
    entries.append(cpio.character_device("dev/console", 5, 1))
    entries.append(cpio.file("init", (_HERE / "init.sh").read_bytes(), 0o755))
    entries.append(cpio.file("bin/busybox", busybox.read_bytes(), 0o755))
    entries += [cpio.link(f"bin/{applet}", "busybox") for applet in _APPLETS]
    entries += [cpio.file(f"modules/{number:02}.ko", modules.load(path)) for number, path in enumerate(order)]
    (made / "initramfs").write_bytes(gzip.compress(cpio.archive(entries), compresslevel=1, mtime=0))
