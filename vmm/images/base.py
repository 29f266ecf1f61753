"""The base images: the root file systems that sandboxes see, made from Debian packages by mmdebstrap."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from . import node, wheels
from .apt import host_suite
from .commands import run
from .progress import UNITS
from .recipe import Workshop, recipe_digest

BASE = "base.ext4"
LABEL = "cm-base"
_RECIPE = ("base.py", "base.sh")
_CODE_RECIPE = ("node.py", "node/package.json", "node/package-lock.json", "wheels.py")
_SCRIPT = Path(__file__).with_name("base.sh")
_BOOTSTRAP_S = 3600
_PACK_S = 900
_MIB = 1024 * 1024
# Agents do not need manuals, translations, static libraries of Python and the compiler's own debugging; licences stay.
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/vim/vim*/doc/*",
    "path-exclude=/usr/share/vim/vim*/lang/*",
    "path-exclude=/usr/share/vim/vim*/tutor/*",
    "path-exclude=/usr/lib/python3*/config-*/libpython*.a",
    "path-exclude=/usr/lib/*/libpython*.a",
    "path-exclude=/usr/bin/*-lto-dump-*",
    "path-include=/usr/share/doc/*/copyright",
    # Java and PostgreSQL do not install where the directories of the manuals are missing.
    "path-include=/usr/share/man/man?",
)
# locale-gen makes it in the finished tree, where Debian's own configuration of the package would ask which.
_LOCALE = "en_US.UTF-8 UTF-8"
_LOCALE_HOOK = f'echo "{_LOCALE}" >> "$1/etc/locale.gen" && chroot "$1" locale-gen'
_SYSTEM_PACKAGES = (
    "adduser", "bash", "bind9-dnsutils", "bzip2", "ca-certificates", "coreutils", "curl", "fd-find", "file",
    "iproute2", "iputils-ping", "jq", "less", "libnss-myhostname", "locales", "lsof", "mount", "nano",
    "openssh-client", "passwd", "procps", "ripgrep", "rsync", "sqlite3", "strace", "sudo", "tar", "tmux", "tree",
    "tzdata", "unzip", "vim", "xz-utils", "zip", "zstd",
)  # fmt: skip
_DEVELOPMENT_PACKAGES = (
    "g++", "gcc", "git", "libc6-dev", "libstdc++6", "make", "patch", "pkg-config", "python-is-python3", "python3",
    "python3-dev", "python3-pip", "python3-pytest", "python3-requests", "python3-venv", "python3-yaml",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecipe:
    """One base image.

    Attributes:
        description: What is in it, for a user.
        variant: mmdebstrap's variant, the set of packages that it starts from.
        packages: Further packages.
        with_tools: Whether it has Node and uv, which do not come from Debian.
        lines: Lines that mmdebstrap writes, for progress.
    """

    name: str
    description: str
    variant: str
    packages: tuple[str, ...]
    with_tools: bool
    lines: int
    weight: int
    space: int
    files: tuple[str, ...] = (BASE,)

    def inputs(self) -> Mapping[str, str]:
        """Return the release, the recipe's digest, the packages, and the versions of what does not come from Debian."""
        inputs = {"suite": host_suite(), "recipe": recipe_digest(*_RECIPE), "packages": " ".join(self.packages)}
        if self.with_tools:
            inputs["node"] = f"{node.node_version()} {recipe_digest(*_CODE_RECIPE)}"
            inputs["uv"] = wheels.wheel_version(wheels.UV)
        return inputs

    async def build(self, shop: Workshop, into: Path) -> Mapping[str, str]:
        """Bootstrap the root file system, add Node and uv, and make the image."""
        shop.report(f"Fetching the packages of the image {self.name}", 0.0)
        await shop.apt.refresh()
        extra = shop.scratch / "extra"
        await anyio.Path(extra / "usr").mkdir(parents=True)
        if self.with_tools:
            await node.install(shop, extra / "usr/local")
            await anyio.to_thread.run_sync(wheels.install_uv, extra / "usr/local")
        packed = shop.scratch / "root.tar"
        await self._bootstrap(shop, packed)
        shop.report(f"Packing the image {self.name}", 0.8)
        pack = ["/bin/sh", str(_SCRIPT), str(packed), str(extra), str(shop.scratch / "tree"), str(into / BASE), LABEL]
        await run([*shop.tools.root, *pack], deadline_s=_PACK_S, pass_fds=shop.held)
        return {"suite": await anyio.to_thread.run_sync(host_suite)}

    async def _bootstrap(self, shop: Workshop, packed: Path) -> None:
        suite = await anyio.to_thread.run_sync(host_suite)
        sources = shop.scratch / "sources.list"
        await anyio.Path(sources).write_text(await shop.apt.sources(suite))
        root = os.geteuid() == 0
        options = [f"--aptopt={setting}" for setting in await shop.apt.settings()]
        options += [f"--dpkgopt={option}" for option in _DPKG_OPTIONS]
        if self.packages:
            options.append(f"--include={','.join(self.packages)}")
        if "locales" in self.packages:
            options.append(f"--customize-hook={_LOCALE_HOOK}")
        seen = 0

        def on_line(line: str) -> None:
            nonlocal seen
            seen += 1
            shop.report(f"Building the image {self.name}: {_shown(line)}", 0.05 + 0.74 * min(seen / self.lines, 1.0))

        await run(
            [*shop.tools.mounting, shop.tools["mmdebstrap"], f"--mode={'root' if root else 'unshare'}",
             f"--variant={self.variant}", "--verbose", "--format=tar", "--skip=output/dev", *options,
             suite, packed, sources],
            deadline_s=_BOOTSTRAP_S,
            # As root, temporary files go into the build's directory, which is removed at the end. In a plain user's
            # namespace, mmdebstrap uses other ids, which may not enter that directory.
            env={"TMPDIR": str(shop.scratch)} if root else {},
            on_line=on_line,
            pass_fds=shop.held,
        )  # fmt: skip


CODE = BaseRecipe(
    name="code",
    description="bash, Python 3 with pip, uv and pytest, Node with TypeScript (tsx), gcc, g++, make, git, curl",
    variant="apt",
    packages=(*_SYSTEM_PACKAGES, *_DEVELOPMENT_PACKAGES),
    with_tools=True,
    lines=2012,
    weight=90 * UNITS,
    space=3000 * _MIB,
)
MINIMAL = BaseRecipe(
    name="minimal",
    description="bash and coreutils",
    variant="essential",
    packages=(),
    with_tools=False,
    lines=821,
    weight=15 * UNITS,
    space=700 * _MIB,
)


def _shown(line: str) -> str:
    words = line.split()
    if len(words) >= 2 and words[0] in {"Unpacking", "Selecting"}:
        return f"unpacking {words[1]}"
    if len(words) >= 3 and words[:2] == ["Setting", "up"]:
        return f"setting up {words[2]}"
    return "working"
