"""The languages of `run_code`, and how it runs a piece of code in each of them."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from vmm.errors import InvalidInput

HOME = "/root"
"""The default working directory: root's home in every image."""

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
"""Runs a file as Python's command line does, except for the module search path: the working directory follows the
standard library, so that its files cannot shadow standard modules, and the file's own directory is left out."""

# An await on a line without indentation is hardly ever inside a function.
_AWAITS_AT_TOP = re.compile(
    r"^(?:(?:export\s+)?(?:const|let|var)\b[^=\n]*=\s*)?(?:await\b|for\s+await\b)", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language.

    Attributes:
        name: Its usual name.
        suffix: Extension of its source files.
        program: The command that runs a source file.
        in_cwd: Whether a source file must be in the working directory to find the modules there.
        awaiting: Extension for code with a top-level await, if it needs another one.
        refusal: The program's error about such code under the usual extension, before it runs any of it.
    """

    name: str
    suffix: str
    program: tuple[str, ...]
    in_cwd: bool = False
    awaiting: str = ""
    refusal: bytes = b""

    def suffixes(self, code: str) -> tuple[str, ...]:
        """List the extensions to try for a piece of code, the likeliest first."""
        if not self.awaiting or _AWAITS_AT_TOP.search(code):
            return (self.awaiting or self.suffix,)
        return self.suffix, self.awaiting

    def refuses(self, file: str, errors: bytes) -> bool:
        """Whether the program refused a file because of its extension, and so has run none of it."""
        return bool(self.refusal) and any(
            self.refusal in line and file.encode() in line for line in errors.splitlines()
        )

    def places(self, cwd: str, suffix: str) -> tuple[str, ...]:
        """List paths for the source file, the best one first."""
        name = f".run-{secrets.token_hex(6)}{suffix}"
        directories = ((cwd or HOME).rstrip("/"), _TEMPORARY) if self.in_cwd else (_TEMPORARY,)
        return tuple(f"{directory}/{name}" for directory in directories)


_LANGUAGES = (
    # Python imports from the working directory wherever the file is; the file stays while the program runs, because
    # tracebacks show its lines.
    Language(name="python", suffix=".py", program=("python3", "-c", _START_PYTHON)),
    Language(name="javascript", suffix=".js", program=("node",), in_cwd=True),
    # As .mts it is always an ES module, but sees the default exports of CommonJS modules wrapped: the last resort.
    Language(
        name="typescript",
        suffix=".ts",
        program=("tsx",),
        in_cwd=True,
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
    """Look up a language by name or alias, ignoring case.

    Raises:
        InvalidInput: The language is unknown.
    """
    wanted = name.strip().lower()
    language = _BY_NAME.get(_ALIASES.get(wanted, wanted))
    if language is None:
        raise InvalidInput(
            f"language: {name[:_SHOWN]!r} is unknown",
            hint=f"Use {', '.join(_BY_NAME)}, or write a file and run its program with execute_command",
        )
    return language
