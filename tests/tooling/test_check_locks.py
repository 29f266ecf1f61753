"""`scripts/check_locks.py` on the project's own lock files, and on copies with one mistake each."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "requirements.in", "requirements.lock", "requirements-otel.lock", "requirements-dev.lock")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/check_locks.py", directory]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def refused(directory: Path) -> list[str]:
    """The problems that the script names, without the way out at the end."""
    done = check(directory)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    *found, way_out = done.stderr.splitlines()
    assert way_out == "Run scripts/lock to write the lock files again"
    return found


def replace(path: Path, pattern: str, by: str) -> None:
    changed, count = re.subn(pattern, by, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1, pattern
    path.write_text(changed)


def test_the_lock_files_of_the_project_pin_all_of_its_dependencies(copy: Path) -> None:
    done = check(copy)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_new_dependency_is_missing_from_every_lock_file(copy: Path) -> None:
    replace(copy / "pyproject.toml", r"^dependencies = \[", 'dependencies = [\n  "brand-new>=1",')
    assert refused(copy) == [f"{name}: brand-new is missing" for name in FILES[2:]]


def test_a_new_development_dependency_is_missing_from_the_lock_file_for_development(copy: Path) -> None:
    replace(copy / "pyproject.toml", r"^dev = \[", 'dev = [\n  "Brand_New>=1",')
    assert refused(copy) == ["requirements-dev.lock: Brand_New is missing"]


def test_an_extra_that_another_one_includes_is_checked_for_both(copy: Path) -> None:
    replace(copy / "pyproject.toml", r"^otel = \[", 'otel = [\n  "brand-new>=1",')
    assert refused(copy) == [f"{name}: brand-new is missing" for name in FILES[3:]]


def test_a_build_requirement_is_checked_too(copy: Path) -> None:
    (copy / "requirements.in").write_text("brand-new\n")
    assert refused(copy) == [f"{name}: brand-new is missing" for name in FILES[2:]]


def test_a_pin_outside_of_what_is_required_is_refused(copy: Path) -> None:
    replace(copy / "pyproject.toml", r'"ruff>=[0-9.]+"', '"ruff>=9000"')
    (line,) = refused(copy)
    assert re.fullmatch(r"requirements-dev\.lock: ruff>=9000 is required, but [0-9.]+ is pinned", line)


def test_a_package_without_a_hash_is_refused(copy: Path) -> None:
    replace(copy / "requirements.lock", r"^(anyio==\S+) \\\n(    --hash=\S+(?: \\)?\n)+", r"\1\n")
    (line,) = refused(copy)
    assert re.fullmatch(r"requirements\.lock: anyio==[0-9.]+ has no hash", line)


@pytest.mark.parametrize("loose", ["anyio>=4.10", "anyio==4.*", "anyio"])
def test_a_package_that_is_not_pinned_to_one_version_is_refused(copy: Path, loose: str) -> None:
    replace(copy / "requirements-otel.lock", r"^anyio==\S+", loose)
    assert refused(copy) == [f"requirements-otel.lock: anyio must be pinned with ==, got {loose}"]


def test_lock_files_with_different_versions_of_a_package_are_refused(copy: Path) -> None:
    replace(copy / "requirements-dev.lock", r"^annotated-types==\S+", "annotated-types==0.1")
    (line,) = refused(copy)
    same = r"requirements-dev\.lock: annotated-types must have the same version in all lock files, got 0\.1 and [0-9.]+"
    assert re.fullmatch(same, line)


def test_a_lock_file_that_is_not_there_is_named(copy: Path) -> None:
    (copy / "requirements-otel.lock").unlink()
    done = check(copy)
    assert done.returncode == 1
    assert "requirements-otel.lock" in done.stderr
    assert "Traceback" not in done.stderr
