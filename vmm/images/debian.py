"""Debian's packages, from the sources that the host itself uses: this project names no server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio

from ..errors import Unavailable
from . import tools

_NO_LISTS = "Fetch the package lists: sudo apt-get update"
_DOWNLOAD_S = 600
_BOOTSTRAP_S = 1800
_TARGETS = "$(CREATED_BY)|$(ORIGIN)|$(SITE)|$(RELEASE)|$(COMPONENT)"


async def sources() -> str:
    """The host's package sources of Debian itself, as a sources.list.

    Raises:
        Unavailable: The host has none, or has not fetched its package lists yet.
    """
    lines: list[str] = []
    for target in (await tools.run(["apt-get", "indextargets", "--format", _TARGETS], deadline_s=60)).splitlines():
        created_by, origin, site, release, component = target.split("|")
        line = f"deb {site} {release} {component}"
        if created_by == "Packages" and origin == "Debian" and line not in lines:
            lines.append(line)
    if not lines:
        raise Unavailable("The host has no package lists of Debian", hint=_NO_LISTS)
    return "".join(f"{line}\n" for line in lines)


async def dependency(package: str, prefix: str) -> str:
    """The package that another one depends on, by the beginning of its name.

    Raises:
        Unavailable: There is none.
    """
    for line in (await tools.run(["apt-cache", "depends", package], deadline_s=60)).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind.endswith("Depends") and name.startswith(prefix):
            return name
    raise Unavailable(f"No package {prefix}* is known to apt", hint=_NO_LISTS)


async def unpack(packages: Sequence[str], scratch: Path, target: Path) -> None:
    """Download packages and put their files into a directory; none of their scripts is run.

    Raises:
        Unavailable: One cannot be had.
    """
    downloads = anyio.Path(scratch / f"{target.name}-packages")
    await downloads.mkdir()
    await anyio.Path(target).mkdir(exist_ok=True)
    # apt gives up its rights to a user that could not write here; the download needs none of them anyway.
    await tools.run(
        ["apt-get", "-o", "APT::Sandbox::User=", "download", *packages], cwd=Path(downloads), deadline_s=_DOWNLOAD_S
    )
    for package in sorted([package async for package in downloads.glob("*.deb")]):
        await tools.run(["dpkg-deb", "-x", package, target], deadline_s=120)


async def bootstrap(packages: Sequence[str], variant: str, scratch: Path, archive: Path) -> None:
    """Install a Debian of the host's own release into a tar archive.

    Raises:
        Unavailable: It failed; the message ends with what the installer said.
    """
    listed = scratch / "sources.list"
    listed.write_text(await sources())
    release = listed.read_text().split()[2]
    command = ["mmdebstrap", "--quiet", f"--variant={variant}", "--format=tar"]
    if packages:
        command.append(f"--include={','.join(packages)}")
    for what in ("usr/share/doc/*", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "var/cache/apt/*"):
        command.append(f"--dpkgopt=path-exclude=/{what}")
    mode = "unshare" if tools.as_owner_of_all() else "root"
    await tools.run([*command, f"--mode={mode}", release, archive, listed], cwd=scratch, deadline_s=_BOOTSTRAP_S)
