"""Makes empty disks, sparse and with a journal: the writable one that a template boots with, and those of volumes."""

from __future__ import annotations

import os
from pathlib import Path

import anyio

from storage.shown import shown
from vmm.errors import Conflict, HostExhausted, InvalidInput, Unavailable

from .commands import run
from .tools import find_tool

LABEL = "cm-disk"
VOLUME_LABEL = "cm-volume"
JOURNAL_MIB = 16
_MIN_MIB = 64
_MAX_MIB = 4 * 1024 * 1024
_KIB_PER_INODE = 16
_DEADLINE_S = 60
_NO_SPACE = "No space left on device"
# The inode tables are holes in the file, which read as zeros, so they need not be written.
_OPTIONS = "lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1,nodiscard"
_OF_SANDBOX = "mkdir upper\nmkdir work\nset_inode_field upper mode 040755\nset_inode_field work mode 040755\n"


# Every user of a sandbox may write to a volume, and a tool that wants an empty directory finds one.
_OF_VOLUME = "rmdir lost+found\nset_inode_field <2> mode 040777\n"


async def make_disk(path: Path, size_mib: int) -> None:
    """Make a sparse ext4 file system, labelled `cm-disk`, that holds the empty directories `upper` and `work`.

    It takes about 20 ms and a few MiB; root owns its content even if a plain user makes it. It has a journal of
    16 MiB, because a sandbox may be killed at any moment. The target must not exist.

    Args:
        path: The file to make.
        size_mib: Its apparent size.

    Raises:
        InvalidInput: The size is out of bounds.
        Conflict: The target exists.
        HostExhausted: The host's disk is full; nothing is left behind.
        Unavailable: e2fsprogs is missing or failed.
    """
    await _make(path, size_mib, label=LABEL, content=_OF_SANDBOX)


async def make_volume(path: Path, size_mib: int) -> None:
    """Make a sparse ext4 file system for a volume, whose root every user may write to; see `make_disk`."""
    await _make(path, size_mib, label=VOLUME_LABEL, content=_OF_VOLUME)


async def _make(path: Path, size_mib: int, *, label: str, content: str) -> None:
    if not _MIN_MIB <= size_mib <= _MAX_MIB:
        raise InvalidInput(f"size_mib must be {_MIN_MIB} to {_MAX_MIB}, got {shown(size_mib)}")
    mke2fs, debugfs = find_tool("mke2fs"), find_tool("debugfs")
    if mke2fs is None or debugfs is None:
        raise Unavailable("mke2fs or debugfs is missing", hint="Install it: sudo apt-get install e2fsprogs")
    script = path.with_name(path.name + ".debugfs")
    await anyio.to_thread.run_sync(_create, path)
    try:
        await anyio.to_thread.run_sync(_prepare, path, script, size_mib * 1024 * 1024, content)
        inodes = max(4096, size_mib * 1024 // _KIB_PER_INODE)
        await run(
            [mke2fs, "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label, "-N", str(inodes),
             "-J", f"size={min(JOURNAL_MIB, size_mib // 8)}", "-E", _OPTIONS, path],
            deadline_s=_DEADLINE_S,
        )  # fmt: skip
        await run([debugfs, "-w", "-f", script, path], deadline_s=_DEADLINE_S)
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(path.unlink)
        if isinstance(error, OSError) or (isinstance(error, Unavailable) and _NO_SPACE in error.message):
            raise HostExhausted(f"No space for the disk {path.name}", hint="Free space on the host") from error
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: script.unlink(missing_ok=True))


def _create(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        raise Conflict(f"The disk {path.name} already exists") from error
    except OSError as error:
        raise HostExhausted(f"The disk {path.name} cannot be made: {error.strerror}") from error


def _prepare(path: Path, script: Path, size: int, content: str) -> None:
    os.truncate(path, size)
    script.write_text(content)
