"""The languages that `run_code` knows, and the shell line that runs a piece of code in one of them."""

from __future__ import annotations

from dataclasses import dataclass

from vmm.errors import InvalidInput

_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language.

    Attributes:
        name: Its usual name.
        suffix: Ending of its source files.
        program: What runs a source file.
    """

    name: str
    suffix: str
    program: str

    def shell_line(self) -> str:
        """A line that runs the code on its standard input.

        The code becomes a file in the working directory, so that it finds the modules beside it and its error messages
        show source lines; where that is read-only, a temporary file. The file is gone afterwards.
        """
        name = f".run-XXXXXX{self.suffix}"
        return (
            f'f=$(mktemp "$PWD/{name}" 2>/dev/null || mktemp "/tmp/{name}") && '
            f'trap \'rm -f "$f"\' EXIT && cat > "$f" && {self.program} "$f"'
        )


_LANGUAGES = (
    Language(name="python", suffix=".py", program="python3"),
    Language(name="javascript", suffix=".js", program="node"),
    Language(name="typescript", suffix=".ts", program="tsx"),
    Language(name="bash", suffix=".sh", program="bash"),
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
