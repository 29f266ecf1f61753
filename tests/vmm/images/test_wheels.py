from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S
from vmm.errors import Unavailable
from vmm.images import wheels


def test_uv_is_copied_with_the_version_that_is_pinned(tmp_path: Path) -> None:
    wheels.install_uv(tmp_path)
    for program in ("uv", "uvx"):
        done = subprocess.run(
            [tmp_path / "bin" / program, "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE_S
        )
        assert done.stdout.startswith(f"{program} {wheels.wheel_version(wheels.UV)}")


def test_a_wheel_that_is_not_installed_is_named() -> None:
    with pytest.raises(Unavailable, match="no-such-wheel is not installed") as caught:
        wheels.wheel_version("no-such-wheel")
    assert "requirements.lock" in caught.value.hint
