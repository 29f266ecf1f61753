"""The languages that `run_code` knows, and how a piece of code becomes a program in each of them."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from vmm.errors import InvalidInput

HOME = "/root"
"""Where commands run that name no working directory: root's home in every image."""

_TEMPORARY = "/tmp"  # noqa: S108 - the guest's, not the host's
_SHOWN = 40

_START_PYTHON = """\
# run_code
def start(names):
    import os, sys
    del names["start"]
    path, file = sys.path, sys.argv.pop()
    sys.argv[0] = names["__file__"] = file
    if not getattr(sys.flags, "safe_path", False):
        here, library = path.pop(0), os.path.dirname(os.__file__)
        own = [at for at, place in enumerate(path) if place in (library, library + "/lib-dynload")]
        path.insert(max(own, default=len(path) - 1) + 1, here)
    def tell(kind, error, trace):
        while trace is not None and trace.tb_frame.f_code.co_filename == "<string>":
            trace = trace.tb_next
        sys.__excepthook__(kind, error.with_traceback(trace), trace)
    sys.excepthook = tell
    with open(file, "rb") as source:
        code = compile(source.read(), file, "exec", dont_inherit=True)
    exec(code, names)
start(globals())
"""
"""Runs a file as Python's command line does, but for where it finds modules: the working directory comes behind the
standard library, so that no file there can take its place, and the file's own directory does not come at all."""

# An await where no line is indented is hardly ever inside a function.
_AWAITS_AT_TOP = re.compile(
    r"^(?:(?:export\s+)?(?:const|let|var)\b[^=\n]*=\s*)?(?:await\b|for\s+await\b)", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language.

    Attributes:
        name: Its usual name.
        suffix: Ending of its source files.
        program: What runs a source file.
        beside: Whether a source file must lie in the working directory to find the modules there.
        awaiting: Ending of a source file that awaits outside of functions, if it needs another one.
        refusal: What the program says of such a file with the usual ending, before it runs any of it.
    """

    name: str
    suffix: str
    program: tuple[str, ...]
    beside: bool = False
    awaiting: str = ""
    refusal: bytes = b""

    def suffixes(self, code: str) -> tuple[str, ...]:
        """Endings for a piece of code, the likeliest first; another is for code that the program refused under it."""
        if not self.awaiting or _AWAITS_AT_TOP.search(code):
            return (self.awaiting or self.suffix,)
        return self.suffix, self.awaiting

    def refuses(self, file: str, errors: bytes) -> bool:
        """Whether the program said that it will not run a file under its ending; then none of it has run."""
        return bool(self.refusal) and any(
            self.refusal in line and file.encode() in line for line in errors.splitlines()
        )

    def places(self, cwd: str, suffix: str) -> tuple[str, ...]:
        """Paths for the source file, the best one first."""
        name = f".run-{secrets.token_hex(6)}{suffix}"
        directories = ((cwd or HOME).rstrip("/"), _TEMPORARY) if self.beside else (_TEMPORARY,)
        return tuple(f"{directory}/{name}" for directory in directories)


_LANGUAGES = (
    # Python imports from the working directory wherever its file lies, which may stay for as long as the program may
    # want to show its lines in an error.
    Language(name="python", suffix=".py", program=("python3", "-c", _START_PYTHON)),
    Language(name="javascript", suffix=".js", program=("node",), beside=True),
    # As .mts it is a module whatever the directory says, but gets the default exports of its neighbours wrapped: only
    # where there is no other way.
    Language(
        name="typescript",
        suffix=".ts",
        program=("tsx",),
        beside=True,
        awaiting=".mts",
        refusal=b'ERROR: Top-level await is currently not supported with the "cjs" output format',
    ),
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
