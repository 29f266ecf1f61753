from __future__ import annotations

import gc
import os
import re
import resource
from pathlib import Path

import pytest

from vmm.hypervisor.spawn import spawn
from vmm.hypervisor.users import User

pytestmark = pytest.mark.anyio

_OTHER = User(uid=0x7000_0001)


async def test_it_leads_its_own_session_and_cannot_gain_privileges(tmp_path: Path) -> None:
    process = spawn(["sleep", "60"], directory=tmp_path, log=tmp_path / "log")
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert os.getsid(process.pid) == process.pid
        assert "NoNewPrivs:\t1" in status
        for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
            assert os.geteuid() != 0 or f"Cap{kind}:\t0000000000000000" in status
        assert process.memory() > 0
    finally:
        await process.kill()


async def test_its_output_goes_to_its_log(tmp_path: Path) -> None:
    process = spawn(["sh", "-c", "echo out; echo err >&2"], directory=tmp_path, log=tmp_path / "log")
    await process.ended()
    assert (tmp_path / "log").read_text() == "out\nerr\n"


async def test_the_server_keeps_the_privileges_that_the_program_loses(tmp_path: Path) -> None:
    before, limits = Path("/proc/self/status").read_text(), resource.getrlimit(resource.RLIMIT_CORE)
    process = spawn(["true"], directory=tmp_path, log=tmp_path / "log")
    assert await process.ended() == 0
    after = Path("/proc/self/status").read_text()
    for name in ("NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd"):
        assert line(before, name) == line(after, name)
    assert resource.getrlimit(resource.RLIMIT_CORE) == limits


async def test_its_limits_cannot_be_raised(tmp_path: Path) -> None:
    process = spawn(["sleep", "60"], directory=tmp_path, log=tmp_path / "log")
    try:
        assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
        assert max(resource.prlimit(process.pid, resource.RLIMIT_NOFILE)) <= 2048
        assert max(resource.prlimit(process.pid, resource.RLIMIT_FSIZE)) <= 20 * 1024**3
    finally:
        await process.kill()


async def test_only_its_process_ref_waits_for_it(tmp_path: Path) -> None:
    process = spawn(["sh", "-c", "exit 3"], directory=tmp_path, log=tmp_path / "log")
    gc.collect()  # the next Popen would reap an abandoned one
    other = spawn(["true"], directory=tmp_path, log=tmp_path / "log")
    assert (await process.ended(), await other.ended()) == (3, 0)


async def test_a_program_gets_a_tap_under_its_number_and_no_other_descriptor_of_the_server(tmp_path: Path) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(reader, "rb") as read:
        line = f"echo packet > /proc/self/fd/{writer}; ls /proc/self/fd"
        process = spawn(["sh", "-c", line], directory=tmp_path, log=tmp_path / "log", tap=writer)
        assert not os.get_inheritable(writer)
        os.close(writer)
        assert await process.ended() == 0
        assert read.read() == b"packet\n"
    # The last one is the directory that is listed.
    assert len((tmp_path / "log").read_text().split()) == 5


async def test_a_missing_program_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/program"):
        spawn(["/no/such/program"], directory=tmp_path, log=tmp_path / "log")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs as others")
async def test_another_user_has_its_own_process_limit_and_none_of_the_servers_groups(tmp_path: Path) -> None:
    process = spawn(["sleep", "60"], directory=tmp_path, log=tmp_path / "log", user=_OTHER, processes=7)
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert line(status, "Uid").split() == [str(_OTHER.uid)] * 4
        assert line(status, "Gid").split() == [str(_OTHER.uid)] * 4
        assert line(status, "Groups").strip() == ""
        for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
            assert line(status, f"Cap{kind}") == "0000000000000000"
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"^Max processes +7 +7 ", limits, re.MULTILINE)
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    finally:
        await process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs as others")
async def test_another_user_works_in_a_directory_that_it_could_not_enter_itself(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    (hidden / "machine").mkdir(parents=True)
    (hidden / "machine").chmod(0o711)
    hidden.chmod(0o700)
    look = "pwd; cat ../../secret || ls /proc/self/cwd/.."
    (tmp_path / "secret").write_text("of the server")
    (tmp_path / "secret").chmod(0o600)
    log = tmp_path / "log"
    process = spawn(["sh", "-c", look], directory=hidden / "machine", log=log, user=_OTHER)
    assert await process.ended() != 0
    said = log.read_text()
    assert "of the server" not in said
    assert said.count("Permission denied") == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs as others")
async def test_the_server_keeps_its_user(tmp_path: Path) -> None:
    before = Path("/proc/self/status").read_text()
    process = spawn(["true"], directory=tmp_path, log=tmp_path / "log", user=User(uid=_OTHER.uid, groups=(5, 6)))
    assert await process.ended() == 0
    after = Path("/proc/self/status").read_text()
    for name in ("Uid", "Gid", "Groups", "CapPrm", "CapEff"):
        assert line(before, name) == line(after, name)


def line(status: str, name: str) -> str:
    return next(text.partition(":\t")[2] for text in status.splitlines() if text.startswith(f"{name}:"))
