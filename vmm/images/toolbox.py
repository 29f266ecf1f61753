"""The part `toolbox`: the guest's own small root file system with Python and the agent, out of sandboxes' reach."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from vmm.errors import Unavailable

from .apt import host_suite
from .commands import run
from .progress import UNITS
from .recipe import Workshop, recipe_digest, source_files, tree_digest

TOOLBOX = "toolbox"
_AGENT = "opt/casemate/agent"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_RECIPE = ("toolbox.py",)
_DEADLINE_S = 300
_PREFIX = re.compile(r"^(lib)?python3\.\d+|^(libc6|zlib1g|libexpat1|libffi\d|libssl\d|liblzma5|libbz2-1\.0|libcrypt1)")
_NFTABLES = re.compile(r"^(nftables$|libnft|libmnl|libedit|libtinfo|libbsd|libmd0|libgmp|libjansson|libxtables)")
_DIRECTORIES = ("base", "dev", "disk", "etc", "opt/casemate", "proc", "run", "sandbox", "sys", "tmp", "var")
_INITTAB = (
    "::respawn:/usr/bin/python3 -I -S -B -u /opt/casemate/agent"
    " --isolate --root /sandbox --outputs /disk --secret-file /run/casemate/secret\n"
)
_FILES = {
    "etc/inittab": _INITTAB,
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\n",
    "etc/group": "root:x:0:\n",
}
# Modules that the agent never imports; their compiled caches are removed too.
_USELESS = (
    "EXTERNALLY-MANAGED", "LICENSE.txt",
    "config-*", "ctypes/test", "curses", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "sqlite3",
    "test", "tkinter", "turtledemo", "unittest", "venv", "wsgiref", "xmlrpc",
    "lib-dynload/_codecs_*", "lib-dynload/_curses*", "lib-dynload/_dbm*", "lib-dynload/_gdbm*", "lib-dynload/_sqlite3*",
    "lib-dynload/_test*", "lib-dynload/_xx*", "lib-dynload/audioop*", "lib-dynload/nis*", "lib-dynload/ossaudiodev*",
    "lib-dynload/readline*", "lib-dynload/xxlimited*",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolboxRecipe:
    """Unpacks Debian's Python, adds busybox and the agent, and packs everything into a read-only file system.

    Attributes:
        agent: The agent's package directory.
    """

    agent: Path
    name: str = "toolbox"
    files: tuple[str, ...] = (TOOLBOX,)
    weight: int = 12 * UNITS
    space: int = 200 * 1024 * 1024

    def inputs(self) -> Mapping[str, str]:
        """Return the release, and the digests of the recipe and the agent."""
        return {"suite": host_suite(), "recipe": recipe_digest(*_RECIPE), "agent": tree_digest(self.agent)}

    async def build(self, shop: Workshop, into: Path) -> Mapping[str, str]:
        """Download, unpack, compile and pack."""
        shop.report("Downloading the toolbox's packages", 0.0)
        await shop.apt.refresh()
        python = next((name for name in await shop.apt.depends("python3-minimal") if name.startswith("python3.")), None)
        if python is None:
            raise Unavailable("apt does not find the package python3-minimal", hint="Run: sudo apt-get update")
        version = python.removesuffix("-minimal")
        wanted = (f"{version}-minimal", f"lib{version}-minimal", f"lib{version}-stdlib")
        packages = [name for name in await shop.apt.closure(wanted) if _PREFIX.match(name)]
        packages += [name for name in await shop.apt.closure(("nftables",)) if _NFTABLES.match(name)]
        downloads = await shop.apt.download(packages, shop.scratch)
        tree = shop.scratch / "tree"
        for number, package in enumerate(downloads):
            shop.report("Unpacking the toolbox", 0.4 + 0.2 * number / len(downloads))
            await shop.apt.unpack(package, tree)
        await anyio.to_thread.run_sync(_fill, tree, version, shop.tools["busybox"], self.agent)
        shop.report("Compiling the toolbox's Python", 0.6)
        await run(_compiler(tree, version), deadline_s=_DEADLINE_S, env={"PYTHONHOME": str(tree / "usr")})
        shop.report("Packing the toolbox", 0.9)
        pack = [shop.tools["mkfs.erofs"], "--quiet", "--all-root", "-T0", "-x-1", into / TOOLBOX, tree]
        await run(pack, deadline_s=_DEADLINE_S, pass_fds=shop.held)
        return {path.name.split("_")[0]: path.stem.split("_")[1].replace("%3a", ":") for path in downloads}


def _fill(tree: Path, version: str, busybox: Path, agent: Path) -> None:
    _merge(tree)
    library = tree / "usr/lib" / version
    for pattern in _USELESS:
        for path in library.glob(pattern):
            _remove(path)
    for name in (
        "usr/share",
        "usr/lib/valgrind",
        f"{_LIBRARIES}/gconv",
        f"{_LIBRARIES}/engines-3",
    ):
        _remove(tree / name)
    for name in _DIRECTORIES:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (tree / name).write_text(text)
    shutil.copyfile(busybox, tree / "bin/busybox")
    (tree / "bin/busybox").chmod(0o755)
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=30).stdout.split()
    for applet in applets:
        if not (tree / "bin" / applet).exists():
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "usr/sbin/init").symlink_to("../bin/busybox")
    (tree / "usr/bin/python3").symlink_to(version)
    for source in source_files(agent):
        target = tree / _AGENT / source.relative_to(agent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _merge(tree: Path) -> None:
    # Packages install to /lib or /usr/lib, depending on the release; as on a real system, one links to the other.
    for name in ("bin", "sbin", "lib", "lib64"):
        outer, inner = tree / name, tree / "usr" / name
        inner.mkdir(parents=True, exist_ok=True)
        if outer.is_dir() and not outer.is_symlink():
            shutil.copytree(outer, inner, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(outer)
        if not outer.is_symlink():
            outer.symlink_to(f"usr/{name}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _compiler(tree: Path, version: str) -> list[str | Path]:
    # Compile with the guest's own Python and loader, since the host's may have another version. The guest starts
    # Python with -B and never checks the sources, which cannot change.
    libraries = tree / _LIBRARIES
    loader: list[str | Path] = [libraries / "ld-linux-x86-64.so.2", "--library-path", libraries]
    options = ("-q", "-f", "-j0", "--invalidation-mode", "unchecked-hash")
    return [
        *loader, tree / "usr/bin" / version, "-S", "-s", "-m", "compileall", *options,
        *("-s", tree, "-p", "/", tree / "usr/lib" / version, tree / _AGENT),
    ]  # fmt: skip
