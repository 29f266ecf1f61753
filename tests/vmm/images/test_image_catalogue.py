from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.vmm.images.tiny_recipes import FailingRecipe, TinyRecipe, tiny_catalogue
from tests.waiting import PATIENCE_S
from vmm.errors import Conflict, HostExhausted, InvalidInput, Unavailable
from vmm.images import catalogue as catalogue_module
from vmm.images.catalogue import Catalogue

pytestmark = pytest.mark.anyio

_BUILDER = """
import sys, anyio
from pathlib import Path
from tests.vmm.images.tiny_recipes import tiny_catalogue
catalogue = tiny_catalogue(Path(sys.argv[1]), Path(sys.argv[2]), code=sys.argv[3])
print((anyio.run(catalogue.ensure, "code")).digest)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def _names(root: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in root.iterdir() if path.name != ".lock")


def _builder(root: Path, log: Path, command: str) -> subprocess.Popen[str]:
    top = Path(__file__).parents[3]
    arguments = [sys.executable, "-c", _BUILDER, str(root), str(log), command]
    return subprocess.Popen(arguments, cwd=top, stdout=subprocess.PIPE, text=True)


async def test_missing_parts_are_built_once(root: Path, log: Path) -> None:
    catalogue = tiny_catalogue(root, log)
    assert await catalogue.find("code") is None
    seen: list[tuple[int, int]] = []

    def progress(step: str, done: int, total: int) -> None:
        assert step
        seen.append((done, total))

    image = await catalogue.ensure("code", progress=progress)
    assert image.base.read_text() == "code base.ext4"
    assert image.sizes["toolbox"] == len("toolbox toolbox")
    assert seen == sorted(seen)
    assert seen[-1] == (300, 300)
    assert await catalogue.ensure("code") == image
    assert await tiny_catalogue(root, log).ensure("code") == image
    assert log.read_text().split() == ["kernel", "toolbox", "code"]
    await catalogue.ensure("minimal")
    assert log.read_text().split() == ["kernel", "toolbox", "code", "minimal"]


async def test_a_changed_agent_rebuilds_only_the_toolbox(root: Path, log: Path) -> None:
    kernel = TinyRecipe(name="kernel", files=("vmlinuz", "vmlinux", "initramfs"), log=log)
    code = TinyRecipe(name="code", files=("base.ext4",), log=log)

    def catalogue(agent: str) -> Catalogue:
        toolbox = TinyRecipe(name="toolbox", files=("toolbox",), log=log, known={"agent": agent})
        return Catalogue(root, shared=(kernel, toolbox), bases=(code,))

    first = await catalogue("1").ensure("code")
    second = await catalogue("2").ensure("code")
    assert log.read_text().split() == ["kernel", "toolbox", "code", "toolbox"]
    assert first.base == second.base
    assert first.toolbox != second.toolbox
    assert first.toolbox.exists()
    assert await catalogue("1").find("code") == first


async def test_concurrent_calls_share_one_build(root: Path, log: Path) -> None:
    catalogue = tiny_catalogue(root, log, toolbox="sleep 0.3")
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(catalogue.ensure, "code")
    assert sorted(log.read_text().split()) == ["code", "kernel", "toolbox"]


async def test_two_processes_share_one_build(root: Path, log: Path) -> None:
    builders = [_builder(root, log, "sleep 0.5") for _ in range(2)]
    digests = {(await anyio.to_thread.run_sync(builder.communicate))[0] for builder in builders}
    assert len(digests) == 1
    assert sorted(log.read_text().split()) == ["code", "kernel", "toolbox"]


async def test_a_cancelled_build_leaves_no_partial_files(root: Path, log: Path) -> None:
    catalogue = tiny_catalogue(root, log, code="sleep 600")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(catalogue.ensure, "code")
        with anyio.fail_after(PATIENCE_S):
            while not log.exists() or "code" not in log.read_text():
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    assert _names(root) == ["kernel", "toolbox"]
    assert await catalogue.find("code") is None


async def test_after_a_killed_build_the_next_one_waits_for_its_programs_and_cleans_up(root: Path, log: Path) -> None:
    builder = _builder(root, log, "echo $$ > pid; sleep 600")
    with anyio.fail_after(PATIENCE_S):
        while not (started := list(root.glob(".build-*/scratch/pid"))) or not started[0].read_text():
            await anyio.sleep(0.02)
    program = int(started[0].read_text())
    builder.kill()
    await anyio.to_thread.run_sync(builder.communicate)
    waited: list[str] = []
    async with anyio.create_task_group() as tasks:

        def progress(step: str, done: int, total: int) -> None:
            del done, total
            if step.startswith("Waiting") and not waited:
                os.killpg(program, signal.SIGKILL)
            waited.append(step)

        async def work() -> None:
            await tiny_catalogue(root, log).ensure("code", progress=progress)

        tasks.start_soon(work)
    assert waited[0] == "Waiting for another build of images"
    assert _names(root) == ["code", "kernel", "toolbox"]


async def test_a_failed_build_leaves_nothing_and_reports_the_reason(root: Path, log: Path) -> None:
    kernel = FailingRecipe(name="kernel", files=("vmlinuz",), log=log)
    with pytest.raises(Unavailable, match="Building kernel failed: the mirror is down"):
        await Catalogue(root, shared=(kernel,)).ensure("minimal")
    assert _names(root) == []


async def test_a_full_disk_is_reported(root: Path, log: Path) -> None:
    kernel = FailingRecipe(name="kernel", files=("vmlinuz",), log=log, message="tar: x: No space left on device")
    with pytest.raises(HostExhausted, match="kernel"):
        await Catalogue(root, shared=(kernel,)).ensure("minimal")
    assert _names(root) == []


async def test_free_space_is_checked_before_a_build(root: Path, log: Path) -> None:
    kernel = TinyRecipe(name="kernel", files=("vmlinuz",), log=log, space=1 << 60)
    with pytest.raises(HostExhausted, match="GiB are free"):
        await Catalogue(root, shared=(kernel,)).ensure("minimal")
    assert not log.exists()


async def test_missing_tools_are_named_with_the_command_that_installs_them(
    root: Path, log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("vmm.images.tools.SYSTEM_PATHS", str(tmp_path))
    with pytest.raises(Unavailable, match=r"mmdebstrap.*sudo apt-get install .*busybox-static.*erofs-utils"):
        await tiny_catalogue(root, log).ensure("code")


async def test_a_directory_that_is_not_writable_is_named(tmp_path: Path, log: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"^CASEMATE_DATA must be .*file/images: Not a directory"):
        await tiny_catalogue(tmp_path / "file/images", log).ensure("code")


async def test_force_rebuilds_and_repairs_damaged_parts(root: Path, log: Path) -> None:
    catalogue = tiny_catalogue(root, log)
    image = await catalogue.ensure("code")
    image.base.chmod(0o644)
    image.base.write_text("code base.ext5")
    for call in (catalogue.find("code"), catalogue.ensure("code"), catalogue.verify("code")):
        with pytest.raises(Unavailable, match="casemate image build --force code"):
            await call
    (info,) = [info for info in await catalogue.list() if info.name == "code"]
    assert not info.built
    assert "--force" in info.problem
    again = await catalogue.build("code", force=True)
    assert again.digest == image.digest
    assert again.base != image.base
    await catalogue.verify("code")


async def test_the_list_shows_which_images_are_built(root: Path, log: Path) -> None:
    catalogue = tiny_catalogue(root, log)
    image = await catalogue.ensure("minimal")
    code, minimal = await catalogue.list()
    assert (code.name, code.built, code.digest) == ("code", False, "")
    assert (minimal.name, minimal.built, minimal.digest) == ("minimal", True, image.digest)
    assert minimal.built_ms > 0
    assert minimal.facts["kernel"] == "1"


async def test_shared_parts_are_removed_with_the_last_image(root: Path, log: Path) -> None:
    catalogue = tiny_catalogue(root, log)
    await catalogue.ensure("code")
    await catalogue.ensure("minimal")
    await catalogue.remove("code")
    assert _names(root) == ["kernel", "minimal", "toolbox"]
    await catalogue.remove("code")
    await catalogue.remove("minimal")
    assert _names(root) == []


async def test_pruning_keeps_parts_that_are_current_or_in_use(root: Path, log: Path) -> None:
    catalogue = tiny_catalogue(root, log)
    first = await catalogue.ensure("code")
    await anyio.sleep(0.002)
    second = await catalogue.build("code", force=True)
    await anyio.sleep(0.002)
    third = await catalogue.build("code", force=True)
    removed = await catalogue.prune([first.base])
    assert first.base.exists()
    assert not first.toolbox.exists()
    assert not second.base.exists()
    assert await catalogue.find("code") == third
    assert set(removed) == {first.toolbox.parent, first.initramfs.parent} | {
        path.parent for path in (second.base, second.toolbox, second.initramfs)
    }


async def test_nothing_is_removed_during_a_build(root: Path, log: Path) -> None:
    catalogue = tiny_catalogue(root, log, code="sleep 600")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(catalogue.ensure, "code")
        with anyio.fail_after(PATIENCE_S):
            while not log.exists():
                await anyio.sleep(0.02)
            with pytest.raises(Conflict):
                await catalogue.remove("code")
        tasks.cancel_scope.cancel()


async def test_an_unknown_image_is_refused_with_the_names_of_the_others(root: Path, log: Path) -> None:
    catalogue = tiny_catalogue(root, log)
    for call in (catalogue.find, catalogue.ensure, catalogue.remove, catalogue.verify):
        with pytest.raises(InvalidInput, match=r"image must be code or minimal, got .\.\./etc"):
            await call("../etc")
    assert not root.exists()


async def test_the_image_directory_can_be_moved(root: Path, log: Path) -> None:
    await tiny_catalogue(root, log).ensure("code")
    moved = root.with_name("moved")
    shutil.move(root, moved)
    assert await tiny_catalogue(moved, log).find("code") is not None
    assert catalogue_module.DEFAULT == "code"
