"""The container's entry point, and what the Dockerfile says of it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S
from vmm.images.store import Part, Store

ROOT = Path(__file__).parents[2]
START = "deploy/compose/start.sh"
CASEMATE = '#!/bin/sh\necho "casemate $*"\n'


class Container:
    """What the entry point finds: images in the container's image, a volume, and the program."""

    def __init__(self, root: Path) -> None:
        self.built = root / "built"
        self.images = root / "volume" / "images"
        self.programs = root / "bin"
        for place in (self.built, self.programs):
            place.mkdir()
        program = self.programs / "casemate"
        program.write_text(CASEMATE)
        program.chmod(0o755)

    def build(self, name: str, content: str) -> Part:
        """Make an image part as `casemate image build` does."""
        made = self.built / ".build-new"
        made.mkdir()
        (made / "disk").write_text(content)
        return Store(self.built).publish(name, made, {"content": content}, {})

    def upgrade(self) -> None:
        """Take the images away that the container's image brought."""
        self.built.rename(self.built.with_name("old"))
        self.built.mkdir()

    def start(self, *command: str) -> str:
        """Run the entry point; its output."""
        done = subprocess.run(
            [ROOT / START, self.built, *command],
            env={"PATH": f"{self.programs}:{os.environ['PATH']}", "CASEMATE_IMAGES": str(self.images)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_the_server_finds_the_images_of_its_container_in_the_volume(container: Container) -> None:
    built = [container.build("code", "new"), container.build("kernel", "new")]
    assert container.start("serve") == "casemate serve\n"
    store = Store(container.images)
    for part in built:
        found = store.find(part.name, part.manifest.inputs)
        assert found is not None
        store.check(found)


def test_an_upgrade_leaves_the_images_that_sandboxes_lie_over(container: Container) -> None:
    old = container.build("code", "old")
    container.start("serve")
    container.upgrade()
    new = container.build("code", "new")
    container.start("serve")
    assert {path.name for path in container.images.glob("code-*")} == {old.directory.name, new.directory.name}


def test_what_is_in_the_volume_is_not_copied_again(container: Container) -> None:
    part = container.build("code", "new")
    container.start("serve")
    copied = container.images / part.directory.name / "disk"
    before = copied.stat()
    container.start("serve")
    assert copied.stat().st_ino == before.st_ino


def test_an_interrupted_copy_is_made_anew(container: Container) -> None:
    part = container.build("code", "new")
    half = container.images / ".build-copy"
    half.mkdir(parents=True)
    (half / "disk").write_text("ha")
    container.start("serve")
    assert sorted(path.name for path in container.images.iterdir()) == [".lock", part.directory.name]
    assert (container.images / part.directory.name / "disk").read_text() == "new"


def test_other_commands_copy_nothing(container: Container) -> None:
    container.build("code", "new")
    assert container.start("key", "list") == "casemate key list\n"
    assert not container.images.exists()


def test_the_images_in_use_are_in_the_volume_and_the_entry_point_brings_them_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    names = dict(re.findall(r"(CASEMATE_\w+)=(\S+) \\", text))
    assert f"VOLUME {names['CASEMATE_DATA']}\n" in text
    assert Path(names["CASEMATE_IMAGES"]).is_relative_to(names["CASEMATE_DATA"])
    built = re.search(r"^RUN CASEMATE_IMAGES=(\S+) casemate image build", text, re.MULTILINE)
    assert built is not None
    assert f'ENTRYPOINT ["tini", "--", "/opt/casemate/start.sh", "{built[1]}"]\n' in text
    assert f"COPY {START} ./\n" in text
