from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.vmm import still
from vmm.disk.os_errors import translate_os_errors
from vmm.errors import HostExhausted, Unavailable
from vmm.images.store import Part, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def part(store: Store, tmp_path: Path) -> Part:
    return _publish(store, tmp_path, b"content")


def _publish(store: Store, root: Path, content: bytes) -> Part:
    made = root / ".build-x"
    made.mkdir()
    (made / "file").write_bytes(content)
    return store.publish("kernel", made, {"recipe": "1"}, {"version": "6.1"})


def test_a_published_part_is_found_by_its_inputs(store: Store, part: Part) -> None:
    found = store.find("kernel", {"recipe": "1"})
    assert found == part
    store.check(part)
    store.check_all(part)
    assert store.find("kernel", {"recipe": "2"}) is None
    assert part.directory.name.startswith("kernel-")


def test_the_newest_of_two_builds_is_used(store: Store, part: Part, tmp_path: Path) -> None:
    time.sleep(0.002)
    newer = _publish(store, tmp_path, b"other")
    assert store.parts("kernel") == [newer, part]
    assert store.find("kernel", {"recipe": "1"}) == newer


def test_the_same_content_has_the_same_digest_regardless_of_build_time(
    store: Store, part: Part, tmp_path: Path
) -> None:
    moved = part.directory.with_name("elsewhere")
    part.directory.rename(moved)
    assert _publish(store, tmp_path, b"content").content == part.content
    assert _publish(store, tmp_path, b"Content").content != part.content


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("spoil", ["change", "cut", "remove", "replace"])
def test_a_damaged_file_is_detected_before_use(store: Store, part: Part, spoil: str, used: bool) -> None:
    if used:
        store.check(part)
    path = part.file("file")
    if spoil == "change":
        path.chmod(0o644)
        path.write_bytes(b"CONTENT")
    elif spoil == "cut":
        os.truncate(path, 3)
    elif spoil == "remove":
        path.unlink()
    else:
        status = path.stat()
        other = part.directory / "other"
        other.write_bytes(b"CONTENT")
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(path)
    with pytest.raises(Unavailable, match=r"file .*casemate image build --force"):
        store.check(part)


def test_damage_with_an_unchanged_mtime_is_found_by_the_full_check(store: Store, part: Part) -> None:
    path = part.file("file")
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    store.check(part)
    with pytest.raises(Unavailable, match="changed since it was built"):
        store.check_all(part)


def test_a_copied_part_is_verified_once(store: Store, part: Part) -> None:
    copy = shutil.copytree(part.directory, part.directory.with_name("copy"))
    shutil.rmtree(part.directory)
    copy.rename(part.directory)
    before = (part.directory / "checked.json").read_bytes()
    store.check(part)
    assert (part.directory / "checked.json").read_bytes() != before


def test_a_verified_part_is_not_read_again(store: Store, part: Part) -> None:
    assert store.parts() == [part]
    store.check(part)
    (part.directory / "manifest.json").unlink()
    (part.directory / "checked.json").unlink()
    assert store.parts() == [part]
    store.check(part)
    assert not (part.directory / "checked.json").exists()
    shutil.rmtree(part.directory)
    assert store.parts() == []


@pytest.mark.parametrize("text", [b"", b"{}", b"no json"])
def test_a_changed_manifest_is_rejected(store: Store, part: Part, text: bytes) -> None:
    (part.directory / "manifest.json").write_bytes(text)
    assert store.parts() == []


def _as_written_by(part: Part, **fields: object) -> Path:
    """Return the part with further fields in its manifest, and with the directory name that fits."""
    manifest = part.directory / "manifest.json"
    text = json.dumps({**json.loads(manifest.read_text()), **fields}).encode()
    manifest.write_bytes(text)
    return part.directory.rename(part.directory.with_name(f"{part.name}-{hashlib.sha256(text).hexdigest()[:12]}"))


def test_unknown_manifest_fields_of_a_later_release_are_ignored(store: Store, part: Part) -> None:
    directory = _as_written_by(part, mood="good")
    (found,) = store.parts()
    assert (found.directory, found.manifest) == (directory, part.manifest)


def test_a_part_with_a_later_format_is_ignored_and_logged_once(store: Store, part: Part) -> None:
    directory = _as_written_by(part, format=2)
    with capture_logs() as logs:
        assert store.parts() == store.parts() == []
    (line,) = logs
    assert (line["event"], line["part"]) == ("image part ignored", directory.name)
    assert "format" in line["reason"]


def test_a_part_does_not_count_as_unbuilt_because_the_server_has_too_many_open_files(store: Store, part: Part) -> None:
    assert store.parts() == [part]
    fresh = Store(part.directory.parent)
    with (
        still.no_more_files(),
        pytest.raises(HostExhausted, match="too many files open"),
        translate_os_errors("the images", part.directory),
    ):
        fresh.parts()


def test_a_part_with_an_unreadable_manifest_hides_no_other_part(store: Store, part: Part, tmp_path: Path) -> None:
    (part.directory / "manifest.json").unlink()
    (part.directory / "manifest.json").mkdir()
    made = tmp_path / "made"
    made.mkdir()
    (made / "vmlinuz").write_text("kernel")
    other = Store(part.directory.parent).publish("kernel", made, {"recipe": "1"}, {})
    assert [one.directory for one in Store(part.directory.parent).parts()] == [other.directory]


def test_changed_facts_are_detected(store: Store, part: Part) -> None:
    manifest = part.directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace("6.1", "6.2"))
    assert store.find("kernel", {"recipe": "1"}) is None
