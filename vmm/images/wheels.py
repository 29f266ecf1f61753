"""Programs that Debian does not have, or has too old: from wheels that requirements.lock pins by their hashes."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

from vmm.errors import Unavailable

UV = "uv"
_PROGRAMS = {"uv", "uvx"}
_HINT = "Install what requirements.lock pins"


def wheel_version(wheel: str) -> str:
    """Return the installed version of a wheel, which is the one that requirements.lock pins.

    Raises:
        Unavailable: It is not installed.
    """
    return _installed(wheel).version


def broken(wheel: str) -> Unavailable:
    """Describe a wheel that is installed, but without its files."""
    return Unavailable(f"The Python package {wheel} is broken", hint=_HINT)


def install_uv(into: Path) -> None:
    """Copy uv into the directory `bin` below a directory that becomes /usr/local.

    Raises:
        Unavailable: The wheel is not installed, or its programs are not.
    """
    files = _installed(UV).files or ()
    programs = {file.name: Path(str(file.locate())) for file in files if file.parent.name == "bin"}
    if not programs.keys() >= _PROGRAMS or not all(programs[name].is_file() for name in _PROGRAMS):
        raise broken(UV)
    (into / "bin").mkdir(parents=True, exist_ok=True)
    for name in _PROGRAMS:
        shutil.copyfile(programs[name], into / "bin" / name)
        (into / "bin" / name).chmod(0o755)


def _installed(wheel: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(wheel)
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable(f"The Python package {wheel} is not installed", hint=_HINT) from error
