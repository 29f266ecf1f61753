"""The host's own package registries, as a sandbox under the policy "packages" reaches them: what people fetch arrives.

The way is the real one: this host's configuration, name servers and additional certificates. A registry that the host
itself does not reach promptly is skipped. Of tools that the image does not have, cargo and go are this host's own
programs, which fetch without a compiler and the rest of them; what Maven would fetch and check, curl does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from storage.sqlite import SqliteDatabase
from tests.conftest import HOST
from vmm.fleet import Fleet
from vmm.guest.values import MIB, Command, Outcome
from vmm.hypervisor.detect import Choice
from vmm.hypervisor.process import orphans
from vmm.images.apt import host_suite
from vmm.images.catalogue import Catalogue
from vmm.machines.certificates import host_certificates
from vmm.network.gateway import Gateway
from vmm.network.packages import registries
from vmm.network.policy import Policy
from vmm.network.registries import apt, cargo, go, maven, npm, pip
from vmm.network.registries.host import Host
from vmm.network.rules import HostRules
from vmm.sandboxes.limits import HostReserve, OwnerLimits
from vmm.sandboxes.quotas import Quotas
from vmm.sandboxes.spec import SandboxSpec
from vmm.sandboxes.store import SANDBOXES, SandboxStore
from vmm.volumes.store import VOLUMES, VolumeStore

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALICE = "a" * 24
PROMPT_S = 5.0
"""Seconds within which this host must get a small file of a registry; else that is too slow for a test."""
WAIT_MS = 240_000
_WEB = re.compile(r"(?:sparse\+)?(https?://.+?)/*")

CARGO = """\
mkdir -p crate/src; cd crate; touch src/lib.rs
printf '[package]\\nname = "box"\\nversion = "0.1.0"\\n[dependencies]\\ncfg-if = "1"\\n' > Cargo.toml
cargo --quiet vendor > config.toml
cat vendor/cfg-if/Cargo.toml"""

# The sums in go.sum stand for the checksum database, which not every host with a proxy reaches.
GO = """\
mkdir -p module root; cd module; printf 'module box\\n\\ngo 1.19\\n' > go.mod
printf 'rsc.io/quote v1.5.2%s\\n' ' h1:w5fcysjrx7yqtD/aO+QwRjYZOKnaM9Uh2b40tElTs3Y=' \
    '/go.mod h1:LzX7hefJvL54yjefDEDHNONDjII0t9xZLPXsUe+TKr0=' > go.sum
export GOROOT=$PWD/../root GOPROXY={url} GOFLAGS=-mod=mod GOTOOLCHAIN=local
go mod download -json rsc.io/quote@v1.5.2"""

MAVEN = """\
curl -sSf -O {url}/org/hamcrest/hamcrest/2.2/hamcrest-2.2.jar -O {url}/org/hamcrest/hamcrest/2.2/hamcrest-2.2.jar.sha1
echo "$(cat hamcrest-2.2.jar.sha1)  hamcrest-2.2.jar" | sha1sum -c"""

# One small component of one source, because an emulated guest reads a whole index for a minute.
APT = """\
cat /etc/apt/sources.list.d/*.list | sed -n '1s/ main$/ contrib/p' > /etc/apt/sources.list
rm /etc/apt/sources.list.d/*
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends gcc-doc-base
dpkg -s gcc-doc-base"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """What somebody does to get a package.

    Attributes:
        urls: Finds the registries that the tool of this host is set up for.
        small: A file of the package below such a URL, or below one of those places in it; {suite} is that of apt.
        places: The same.
        line: What runs in the sandbox; {url} is the registry.
        says: What is in its output.
        program: Of this host, which the sandbox gets.
    """

    urls: Callable[[Host], Iterator[str]]
    small: str
    places: tuple[str, ...] = ("",)
    line: str
    says: str
    program: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A registry of this host.

    Attributes:
        url: Its address.
        program: Fetches from it.
        lacking: Why there is none.
    """

    url: str = ""
    program: Path | None = None
    lacking: str = ""


IMPORT = 'python3 -c "import six; print(six.moves)"'
FETCHINGS = {
    "pip": Fetching(
        urls=pip.urls,
        small="six/",
        places=("", "/simple"),
        line=f"pip install -q --index-url {{url}} six; {IMPORT}",
        says="six.moves",
    ),
    "uv": Fetching(
        urls=pip.urls,
        small="six/",
        places=("", "/simple"),
        line=f"uv -q venv own; uv -q pip install --python own --default-index {{url}} six; own/bin/{IMPORT}",
        says="six.moves",
    ),
    "npm": Fetching(
        urls=npm.urls,
        small="is-number",
        line="npm install --silent --registry {url} is-number; node -p 'require(\"is-number\")(5)'",
        says="true",
    ),
    "apt-get": Fetching(
        urls=apt.urls, small="dists/{suite}/contrib/binary-amd64/Release", line=APT, says="Status: install ok"
    ),
    "cargo": Fetching(urls=cargo.urls, small="config.json", line=CARGO, says='name = "cfg-if"', program="cargo"),
    "go": Fetching(
        urls=go.urls,
        small="rsc.io/quote/@v/v1.5.2.info",
        line=GO,
        says="w5fcysjrx7yqtD/aO+QwRjYZOKnaM9Uh2b40tElTs3Y=",
        program="go",
    ),
    "Maven": Fetching(
        urls=maven.urls, small="org/hamcrest/hamcrest/2.2/hamcrest-2.2.jar.sha1", line=MAVEN, says="jar: OK"
    ),
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def found() -> dict[str, Registry]:
    """The registries of this host, by their tools."""
    with ThreadPoolExecutor(len(FETCHINGS)) as pool:
        return dict(zip(FETCHINGS, pool.map(registry, FETCHINGS.values()), strict=True))


@pytest.fixture(scope="module")
async def box(
    tmp_path_factory: pytest.TempPathFactory,
    data: Path,
    choice: Choice,
    catalogue: Catalogue,
    found: dict[str, Registry],
) -> AsyncGenerator[Fleet]:
    """A fleet with one sandbox, `box`, for all tests of this module; skips if it could reach no registry."""
    if not any(registry.url for registry in found.values()):
        pytest.skip("; ".join(registry.lacking for registry in found.values()))
    rules = HostRules(packages=registries(os.environ, Path.home()))
    async with (
        SqliteDatabase(tmp_path_factory.mktemp("registries") / "store.db") as database,
        Fleet(
            data=data,
            driver=choice.driver,
            catalogue=catalogue,
            store=SandboxStore(await database.collection(SANDBOXES), host=HOST),
            volumes=VolumeStore(await database.collection(VOLUMES), host=HOST),
            quotas=Quotas(OwnerLimits()),
            reserve=HostReserve(),
            gateway=Gateway(
                default=Policy.parse("packages"), host=lambda: rules, clock=lambda: time.time_ns() // 1_000_000
            ),
            certificates=host_certificates(),
        ) as fleet,
    ):
        await fleet.sandboxes.create(ALICE, SandboxSpec(name="box"))
        yield fleet
        await fleet.sandboxes.delete(ALICE, "box")
    assert orphans(data / "instances") == {}


@pytest.mark.parametrize("tool", FETCHINGS)
async def test_a_package_arrives_from_the_registry_that_the_host_is_set_up_for(
    box: Fleet, found: dict[str, Registry], tool: str
) -> None:
    fetching, url = FETCHINGS[tool], found[tool].url
    if not url:
        pytest.skip(found[tool].lacking)
    if program := found[tool].program:
        await box.guest.write_stream(ALICE, "box", f"/usr/local/bin/{program.name}", pieces(program), mode=0o755)
    outcome = await sh(box, f"set -e; mkdir '/root/{tool}'; cd '/root/{tool}'\n{fetching.line.replace('{url}', url)}")
    if outcome.exit_code != 0 and (lacking := (await anyio.to_thread.run_sync(registry, fetching)).lacking):
        pytest.skip(lacking)
    output = (outcome.stdout.data() + outcome.stderr.data()).decode()
    assert outcome.exit_code == 0, (output, outcome)
    assert fetching.says in output
    assert outcome.network == ""


def registry(fetching: Fetching) -> Registry:
    """Find the registry that this host is set up for and gets a file from; it takes what the tool takes."""
    program = host_program(fetching.program) if fetching.program else None
    if fetching.program and program is None:
        return Registry(lacking=f"No {fetching.program} whose registry is used over HTTP is installed")
    host = Host(environ=os.environ, home=Path.home(), root=Path("/"), prefixes=(Path(sys.prefix), Path("/usr")))
    troubles: list[str] = []
    for url in fetching.urls(host):
        if not (match := _WEB.fullmatch(url)):
            continue
        for place in fetching.places:
            small = f"{match[1]}{place}/{fetching.small.replace('{suite}', host_suite())}"
            try:
                with urllib.request.urlopen(small, timeout=PROMPT_S) as answer:  # noqa: S310 -- a web address
                    answer.read(1)
            except OSError as error:
                troubles.append(f"{small}: {error}")
            else:
                return Registry(url=match[1] + place, program=program)
    return Registry(lacking=f"No registry: {'; '.join(troubles) or 'this host is set up for none'}")


def host_program(name: str) -> Path | None:
    """Find a program of this host that runs in a guest, too."""
    if (found := shutil.which(name)) is None:
        return None
    if name == "cargo":
        if shutil.which("rustup"):  # then cargo on PATH is only a stand-in
            found = subprocess.check_output(["rustup", "which", name], text=True).strip()
        _, version, *_ = subprocess.check_output([found, "--version"], text=True).split()
        if tuple(map(int, version.split(".")[:2])) < (1, 70):
            return None
    return Path(found).resolve()


async def pieces(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(MIB):
            yield piece


async def sh(fleet: Fleet, line: str) -> Outcome:
    return await fleet.guest.exec(ALICE, "box", Command(shell=line, timeout_ms=WAIT_MS), wait_ms=WAIT_MS)
