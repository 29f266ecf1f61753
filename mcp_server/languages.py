"""The languages that `run_code` knows, and how a piece of code becomes a program in each of them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from vmm.errors import InvalidInput

HOME = "/root"
"""Where commands run that name no working directory: root's home in every image."""

_TEMPORARY = "/tmp"  # noqa: S108 - the guest's, not the host's
_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language.

    Attributes:
        name: Its usual name.
        suffix: Ending of its source files.
        program: What runs a source file.
        beside: Whether a source file must lie in the working directory to find the modules there.
        env: Variables that its program needs.
    """

    name: str
    suffix: str
    program: tuple[str, ...]
    beside: bool = False
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    def places(self, cwd: str) -> tuple[str, ...]:
        """Paths for the source file, the best one first."""
        name = f".run-{secrets.token_hex(6)}{self.suffix}"
        directories = ((cwd or HOME).rstrip("/"), _TEMPORARY) if self.beside else (_TEMPORARY,)
        return tuple(f"{directory}/{name}" for directory in directories)


_LANGUAGES = (
    # Python imports from the working directory by this variable, so its file may lie elsewhere, and stay for as long as
    # the program may want to show its lines in an error.
    Language(name="python", suffix=".py", program=("python3",), env={"PYTHONPATH": "."}),
    Language(name="javascript", suffix=".js", program=("node",), beside=True),
    Language(name="typescript", suffix=".ts", program=("tsx",), beside=True),
    Language(name="bash", suffix=".sh", program=("bash",)),
)
_ALIASES = {"py": "python", "python3": "python", "js": "javascript", "node": "javascript", "ts": "typescript"} | {
    "tsx": "typescript",
    "sh": "bash",
    "shell": "bash",
}
_BY_NAME = {language.name: language for language in _LANGUAGES}


def language_of(name: str) -> Language:
    """The language of a name or alias, in any case.

    Raises:
        InvalidInput: There is no such language here.
    """
    wanted = name.strip().lower()
    language = _BY_NAME.get(_ALIASES.get(wanted, wanted))
    if language is None:
        raise InvalidInput(
            f"language: {name[:_SHOWN]!r} is unknown",
            hint=f"Use {', '.join(_BY_NAME)}, or write a file and run its program with execute_command",
        )
    return language
