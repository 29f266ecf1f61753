"""The QEMU that emulates the host: the installed one if it is recent, otherwise that of Debian's backports.

A recent QEMU is faster at it (ADR 15). That of backports is unpacked into a cache directory and not installed, so that
machines on this host keep using the installed one.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from vmm.errors import Unavailable
from vmm.hypervisor.detect import qemu_version
from vmm.images.apt import Apt, host_suite
from vmm.images.commands import run
from vmm.images.tools import find_tools

_PROGRAM = "qemu-system-x86_64"
_RECENT = 10
_PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data")
_MODULES = "usr/lib/x86_64-linux-gnu/qemu"
_UPDATE_S, _DOWNLOAD_S = 120, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """A QEMU.

    Attributes:
        command: The program, with the options that it needs to find its own files.
        environment: Variables that it needs.
    """

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict[str, str])


async def host_emulator(cache: Path) -> Emulator:
    """Return the QEMU for a host; if it is not the faster one, print the reason on standard error.

    Args:
        cache: A directory that keeps downloads between runs.
    """
    own = Emulator(command=(_PROGRAM,))
    version = await qemu_version(_PROGRAM)
    if int(version.partition(".")[0]) >= _RECENT:
        return own
    try:
        suite = f"{host_suite()}-backports"
        place = cache / f"emulator-{suite}"
        if not place.exists():
            await _fetch(suite, place)
        found = _unpacked(place)
        await qemu_version(found.command[0])
    except Unavailable as reason:
        print(f"The host is emulated by QEMU {version}, which is slower: {reason.message}", file=sys.stderr)
        return own
    return found


def _unpacked(place: Path) -> Emulator:
    return Emulator(
        # Use the firmware that is installed here.
        command=(str(place / "usr/bin" / _PROGRAM), "-L", str(place / "usr/share/qemu"), "-L", "/usr/share/seabios"),
        environment={"QEMU_MODULE_DIR": str(place / _MODULES)},
    )


async def _fetch(suite: str, place: Path) -> None:
    """Download and unpack the packages of a suite, from the mirror that this machine uses for its own suite.

    Raises:
        Unavailable: The mirror has no such suite, or cannot be reached.
    """
    tools = await find_tools()
    apt = Apt(tools=tools)
    await apt.refresh()
    own = suite.removesuffix("-backports")
    lines = [line for line in (await apt.sources(own)).splitlines() if f" {own} main" in line]
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".emulator-") as scratch:
        work = Path(scratch)
        for directory in ("lists/partial", "cache/archives/partial", "packages"):
            (work / directory).mkdir(parents=True)
        (work / "sources.list").write_text("".join(line.replace(f" {own} ", f" {suite} ") + "\n" for line in lines))
        # Separate package lists, so that this machine's do not change.
        settings = {
            "Dir::Etc::sourcelist": work / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": work / "lists",
            "Dir::Cache": work / "cache",
            "APT::Sandbox::User": "root",
        }
        (work / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
        env = {"APT_CONFIG": str(work / "apt.conf")}
        # Without `--error-on=any`, apt ignores a suite that does not exist.
        await run([tools["apt-get"], "-q", "update", "--error-on=any"], deadline_s=_UPDATE_S, env=env)
        download = [tools["apt-get"], "-q", "download", *_PACKAGES]
        await run(download, deadline_s=_DOWNLOAD_S, cwd=work / "packages", env=env)
        for package in sorted((work / "packages").glob("*.deb")):
            await apt.unpack(package, work / "tree")
        (work / "tree").rename(place)
