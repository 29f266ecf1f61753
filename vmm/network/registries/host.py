"""This host as its package tools see it: environment, programs, and files that may be missing or broken."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")

LARGEST = 4 << 20

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where to look.

    Attributes:
        environ: The environment of the tools.
        home: The home directory of their user.
        root: Where `etc` and `usr` are.
        prefixes: Where Python is installed.
    """

    environ: Mapping[str, str]
    home: Path
    root: Path
    prefixes: tuple[Path, ...]

    @property
    def config_home(self) -> Path:
        """Where the user's configuration is."""
        return self.path("XDG_CONFIG_HOME") or self.home / ".config"

    def path(self, variable: str) -> Path | None:
        """Return the path in an environment variable; None if it is not set."""
        value = self.environ.get(variable, "")
        if not value:
            return None
        return self.home / value[2:] if value.startswith("~/") else self.home / value

    def program(self, name: str) -> Path | None:
        """Find a program on PATH, behind the links to it."""
        found = shutil.which(name, path=self.environ.get("PATH", ""))
        return Path(found).resolve() if found else None

    def words(self, *variables: str) -> Iterator[str]:
        """Give the words of environment variables that hold lists with spaces between them."""
        for variable in variables:
            yield from self.environ.get(variable, "").split()

    def expand(self, text: str) -> str:
        """Put the values of environment variables in the place of ${NAME}."""
        return _VARIABLE.sub(lambda match: self.environ.get(match[1], ""), text)

    def read(self, path: Path, parse: Callable[[str], T]) -> T | None:
        """Parse a file.

        Returns:
            What `parse` returns; None if there is no such file, or it cannot be read, which is logged.
        """
        try:
            if not path.is_file():  # a pipe in its place would hang, a directory is somebody's way to say "none"
                return None
            if path.stat().st_size > LARGEST:
                raise ValueError("too large")  # noqa: TRY301 -- one place that warns
            return parse(path.read_bytes().decode("utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            _skipped(path, error)
            return None

    def member(self, archive: Path, name: str) -> str | None:
        """Return a text within a ZIP archive, such as a wheel; None if it cannot be had."""
        try:
            with zipfile.ZipFile(archive) as opened:
                if opened.getinfo(name).file_size > LARGEST:
                    return None
                return opened.read(name).decode()
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
            _skipped(archive, error)
            return None

    def glob(self, directory: Path, pattern: str) -> list[Path]:
        """List files, those with the highest version last; an unreadable directory has none."""
        try:
            return sorted(directory.glob(pattern))
        except OSError as error:
            _skipped(directory, error)
            return []


def _skipped(path: Path, error: Exception) -> None:
    # Only the kind of error: parsers quote the line, and lines of such files hold passwords.
    reason = (error.strerror if isinstance(error, OSError) else None) or f"it cannot be parsed ({type(error).__name__})"
    line = getattr(error, "lineno", None)
    log.warning("configuration skipped", file=str(path), reason=reason, **({"line": line} if line else {}))
