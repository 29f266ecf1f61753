"""Builds a guest's initramfs: a static busybox, the kernel modules that it needs, and `init.sh`."""

from __future__ import annotations

import gzip
from pathlib import Path, PurePosixPath

from . import cpio
from .modules import ModuleTree

# init.sh loads each group, by this name, only if a device needs it.
GROUPS: dict[str, tuple[str, ...]] = {
    "mmio": ("virtio_mmio",),
    "pci": ("virtio_pci",),
    "block": ("virtio_blk",),
    "scsi": ("virtio_scsi", "sd_mod"),
    "network": ("virtio_net",),
    "socket": ("vmw_vsock_virtio_transport",),
    "random": ("virtio_rng",),
    "balloon": ("virtio_balloon",),
    "file_systems": ("overlay", "erofs", "ext4"),
}
# Optional: a kernel may lack these, and sandboxes work without them.
_EXTRAS = (
    *("fuse", "tun", "loop", "dummy"),
    *("nf_tables", "nft_chain_nat", "nft_redir", "nft_reject_ipv4", "nft_fib_ipv4"),
)
_APPLETS = ("chmod", "cp", "insmod", "ip", "ln", "mkdir", "mount", "sh", "sleep", "switch_root")
_DIRECTORIES = ("bin", "dev", "modules", "new", "proc", "sys")
_INIT = Path(__file__).with_name("init.sh")


def build(tree: ModuleTree, busybox: Path) -> bytes:
    """Return the compressed initramfs; the same inputs give the same bytes. Blocks: call it in a thread.

    Raises:
        Unavailable: The kernel lacks a module that a guest needs.
    """
    entries = [cpio.directory(name) for name in _DIRECTORIES]
    entries.append(cpio.character_device("dev/console", 5, 1))
    entries.append(cpio.file("init", _INIT.read_bytes(), 0o755))
    entries.append(cpio.file("bin/busybox", busybox.read_bytes(), 0o755))
    entries += [cpio.link(f"bin/{applet}", "busybox") for applet in _APPLETS]
    plan = {group: tree.order(names) for group, names in GROUPS.items()}
    plan["extras"] = tree.order(name for name in _EXTRAS if tree.has(name))
    for path in dict.fromkeys(path for paths in plan.values() for path in paths):
        entries.append(cpio.file(f"modules/{_plain(path)}", tree.load(path)))
    lines = (f"{group}='{' '.join(_plain(path) for path in paths)}'\n" for group, paths in plan.items())
    entries.append(cpio.file("modules/groups", "".join(lines).encode()))
    return gzip.compress(cpio.archive(entries), compresslevel=1, mtime=0)


def _plain(path: str) -> str:
    return PurePosixPath(path).name.removesuffix(".xz")
