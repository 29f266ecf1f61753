"""The agent in a separate root, as in the guest: it cannot reach the host's files, and needs none."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.vmm.guest.agents import agent, groups
from vmm.errors import GuestFileMissing, InvalidInput
from vmm.guest.link import GuestLink
from vmm.guest.values import ArchiveForm, Command

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("busybox") is None, reason="needs root and busybox"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a shell, but without /proc, /dev and Python's library."""
    root = tmp_path / "root"
    for name in ("bin", "etc", "tmp", "root"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox
    linked = subprocess.run(["ldd", busybox], check=False, capture_output=True, text=True).stdout.split()
    for library in [word for word in linked if word.startswith("/")]:
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    shutil.copy(busybox, root / "bin/busybox")
    for applet in ("sh", "cat", "echo", "sleep", "pwd", "id"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\ninner:x:1000:1000::/tmp:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\ninner:x:1000:\nextra:x:2000:inner\n")
    return root


@pytest.fixture
async def link(root: Path, tmp_path: Path) -> AsyncGenerator[GuestLink]:
    with agent(tmp_path, "--root", str(root)) as running:
        link, made = running.link(), {group for group in groups() if running.holds(group)}
        yield link
        await link.aclose()
    assert not made & groups()


async def test_commands_and_files_are_inside_the_root(link: GuestLink, root: Path) -> None:
    assert (await link.exec(Command(shell="pwd; id -u"), wait_ms=10_000)).stdout.data() == b"/root\n0\n"
    inner = await link.exec(Command(shell="pwd; id -u; id -G", user="inner"), wait_ms=10_000)
    assert inner.stdout.data() == b"/tmp\n1000\n1000 2000\n"
    await link.write_file("/tmp/file", b"x" * 1000)
    assert (root / "tmp/file").read_bytes() == b"x" * 1000
    names = [entry.path for entry in (await link.list_files("/")).entries]
    assert {"/bin", "/etc", "/tmp"} <= set(names)
    assert "/proc" not in names
    with pytest.raises(InvalidInput, match="no-such"):
        await link.exec(Command(argv=("no-such",)), wait_ms=10_000)


async def test_no_link_leads_out_of_the_root(link: GuestLink, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("outside")
    (root / "tmp/absolute").symlink_to(outside)
    (root / "tmp/relative").symlink_to("../" * 30 + str(outside).lstrip("/"))
    (root / "tmp/up").symlink_to("/..")
    for path in ("/tmp/absolute", "/tmp/relative", "/../" * 20 + str(outside), f"/tmp/up{outside}"):
        with pytest.raises(GuestFileMissing):
            await link.read_file(path)
    await link.write_file("/tmp/absolute", b"inside")
    assert outside.read_text() == "outside"
    assert (root / str(outside).lstrip("/")).read_text() == "inside"
    await link.delete("/tmp", recursive=True)
    assert outside.exists()


async def test_the_agent_loads_no_module_after_it_has_changed_its_root(link: GuestLink) -> None:
    """Call every operation once; each would fail if it needed a file of Python's library."""
    await link.ping()
    await link.metrics()
    await link.activity()
    info = await link.start(Command(argv=("cat",), env={"A": "é"}), open_stdin=True)
    await link.send_stdin(info.pid, b"in", eof=True)
    await link.wait(info.pid, wait_ms=10_000)
    async with link.attach(info.pid) as chunks:
        assert [chunk.data async for chunk in chunks] == [b"in"]
    await link.write_file("/tmp/é", "needle ü\n".encode())
    await link.copy("/tmp/é", "/tmp/copy")
    await link.move("/tmp/copy", "/tmp/moved")
    assert len((await link.search("/", name="*é", content="needle")).matches) == 1
    await link.list_files("/tmp")
    async with link.open_list("/tmp") as pages:
        assert [entry.path async for page in pages for entry in page]
    forms: tuple[ArchiveForm, ...] = ("tar", "tar.gz", "tar.bz2", "zip")
    for form in forms:
        made = await link.compress("/tmp/é", form)
        assert (await link.extract(made.archive, "/tmp/back")).files == 1
    await link.delete("/tmp/moved")
    timed = await link.exec(Command(shell="sleep 60", timeout_ms=100), wait_ms=10_000)
    assert timed.timed_out
    for call in (link.stat("/no"), link.read_file("/tmp"), link.exec(Command(shell="x", user="no"), wait_ms=1)):
        with pytest.raises(Exception, match=r"no|directory"):
            await call


async def test_the_agent_survives_its_root_being_emptied(link: GuestLink, root: Path) -> None:
    assert (
        await link.exec(Command(argv=("/bin/busybox", "rm", "-rf", "/bin/sh", "/etc")), wait_ms=10_000)
    ).exit_code == 0
    with pytest.raises(InvalidInput, match="in the sandbox"):
        await link.exec(Command(shell="true"), wait_ms=1000)
    assert (await link.exec(Command(argv=("echo", "alive")), wait_ms=10_000)).stdout.data() == b"alive\n"
    await link.metrics()
    assert not (root / "etc").exists()
