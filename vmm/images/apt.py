"""The host's Debian packages: downloads them with apt, and passes its sources and settings to mmdebstrap."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from vmm.errors import Unavailable

from .commands import run
from .tools import Tools

_QUERY_S = 60
_UPDATE_S = 600
_DOWNLOAD_S = 1800
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_OS_RELEASE = Path("/etc/os-release")
_ONLY_NEEDED = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
# Only the settings that access to the mirrors may depend on; the others concern the host alone.
_SETTING = re.compile(
    r'^(Acquire::(?:https?|ftp|Check-Valid-Until|Check-Date|Retries|ForceIPv[46])\b[^ ]*) "(.+)";$', re.MULTILINE
)
_TARGET = "$(SITE)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(CREATED_BY)"
_UPDATE_HINT = "Fetch the package lists: sudo apt-get update"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One component of one suite on a mirror."""

    site: str
    suite: str
    component: str

    def line(self, keyring: Path | None) -> str:
        """Return its line of a sources.list."""
        option = f"[signed-by={keyring}] " if keyring else ""
        return f"deb {option}{self.site} {self.suite} {self.component}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Apt:
    """The host's apt."""

    tools: Tools

    async def refresh(self) -> None:
        """Fetch the package lists if there are none; only root may do that.

        Raises:
            Unavailable: There are none and this is a plain user, or the mirrors cannot be reached.
        """
        if await self._sources():
            return
        await self._update()
        if not await self._sources():
            raise Unavailable(
                "apt must have a Debian source to build images from, got none", hint="Add Debian's own sources to apt"
            )

    async def depends(self, package: str) -> tuple[str, ...]:
        """List a package's direct dependencies, without virtual packages."""
        return tuple(re.findall(r"^\s+\|?(?:Pre)?Depends: ([^<\s]+)", await self._depends(package), re.MULTILINE))

    async def closure(self, packages: Sequence[str]) -> tuple[str, ...]:
        """List the packages and all their dependencies, direct or not, sorted by name."""
        return tuple(
            sorted(set(re.findall(r"^([^<\s]\S*)$", await self._depends("--recurse", *packages), re.MULTILINE)))
        )

    async def download(self, packages: Sequence[str], into: Path) -> tuple[Path, ...]:
        """Download packages into an existing directory; apt checks their signatures and digests.

        Raises:
            Unavailable: A package is unknown, or could not be fetched.
        """
        command = [self.tools["apt-get"], "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
        try:
            await run(command, deadline_s=_DOWNLOAD_S, cwd=into)
        except Unavailable as error:
            if os.geteuid() != 0:
                raise Unavailable(error.message, hint=f"The package lists may be old. {_UPDATE_HINT}") from error
            await self._update()
            await run(command, deadline_s=_DOWNLOAD_S, cwd=into)
        return tuple(sorted([Path(path) async for path in anyio.Path(into).glob("*.deb")]))

    async def unpack(self, package: Path, into: Path) -> None:
        """Unpack a package's files without running its scripts."""
        await run([self.tools["dpkg-deb"], "-x", package, into], deadline_s=_QUERY_S * 5)

    async def sources(self, suite: str) -> str:
        """Return the Debian mirrors that this host uses for a suite, updates and security fixes, as a sources.list.

        Raises:
            Unavailable: The host uses none.
        """
        wanted = {suite, f"{suite}-updates", f"{suite}-security"}
        chosen = [source for source in await self._sources() if source.suite in wanted]
        if not any(source.suite == suite for source in chosen):
            raise Unavailable(
                f"apt must have a Debian source for {suite} to build images from, got none",
                hint=f"Add Debian's own sources for {suite} to apt",
            )
        keyring = _KEYRING if await anyio.Path(_KEYRING).exists() else None
        return "\n".join(dict.fromkeys(source.line(keyring) for source in chosen)) + "\n"

    async def settings(self) -> tuple[str, ...]:
        """Return the host's proxy, certificate and date settings, as lines of an apt.conf."""
        return parse_settings(await run([self.tools["apt-config"], "dump"], deadline_s=_QUERY_S))

    async def _depends(self, *arguments: str) -> str:
        without = [f"--no-{kind}" for kind in _ONLY_NEEDED]
        return await run([self.tools["apt-cache"], "depends", *without, *arguments], deadline_s=_QUERY_S)

    async def _sources(self) -> tuple[Source, ...]:
        return parse_targets(
            await run([self.tools["apt-get"], "indextargets", "--format", _TARGET], deadline_s=_QUERY_S)
        )

    async def _update(self) -> None:
        if os.geteuid() != 0:
            raise Unavailable("apt has no package lists from Debian", hint=_UPDATE_HINT)
        await run([self.tools["apt-get"], "-q", "update"], deadline_s=_UPDATE_S)


def parse_targets(text: str) -> tuple[Source, ...]:
    """Find the Debian package lists among apt's index targets."""
    rows = (line.split("|") for line in text.splitlines())
    return tuple(
        Source(site=row[0], suite=row[1], component=row[2])
        for row in rows
        if len(row) == 5 and row[3] == "Debian" and row[4] == "Packages"
    )


def parse_settings(text: str) -> tuple[str, ...]:
    """Find the settings of `apt-config dump` that downloads depend on."""
    return tuple(f'{name} "{value}";' for name, value in _SETTING.findall(text))


def host_suite() -> str:
    """Return the name of this host's Debian release, such as bookworm.

    Raises:
        Unavailable: /etc/os-release does not name it.
    """
    match = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', _OS_RELEASE.read_text(), re.MULTILINE)
    if match is None:
        raise Unavailable(f"{_OS_RELEASE} has no VERSION_CODENAME", hint="Images are built on Debian")
    return match[1]
