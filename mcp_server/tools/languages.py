"""The languages of `run_code`, and how it runs a piece of code in each of them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
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
_MODULE_SYNTAX = re.compile(r"^\s*(?:import\s*[\w{*'\"]|export\b)|\bimport\.meta\b", re.MULTILINE)
_COMMONJS = re.compile(r"\brequire\b|\bmodule\b|\bexports\b|\b__(?:dir|file)name\b")
_LOADS = re.compile(r"\b(?:from|import|require)\s*\(?\s*(?P<quote>['\"`])(?P<name>[^'\"`]*)(?P=quote)")
_LOADS_LATER = re.compile(r"\b(?:require|import)\b(?!\s*\(\s*['\"`])(?:\s*[(;,.)\[=/]|\s*$)", re.MULTILINE)
_DECORATOR = re.compile(r"^\s*@\w", re.MULTILINE)
_OF_NODE = re.compile(
    r"(?:node:(?!module)|(?:assert|async_hooks|buffer|child_process|cluster|crypto|dgram|diagnostics_channel|dns|events|fs|https?"
    r"|http2|net|os|path|perf_hooks|process|querystring|readline|stream|string_decoder|timers|tls|tty|url|util|v8|vm"
    r"|worker_threads|zlib)(?:/|$))"
)
"""Names of Node's own modules, which it also loads without the prefix `node:`; not of the one that loads others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A way to run a piece of code.

    Attributes:
        program: The command that runs a source file.
        suffix: Extension of the source file.
        refusals: The program's errors about code that it cannot take, before it runs any of it.
    """

    program: tuple[str, ...]
    suffix: str
    refusals: tuple[bytes, ...] = ()

    def refuses(self, file: str, errors: bytes) -> bool:
        """Whether the program refused a file, and so has run none of it."""
        return file.encode() in errors and any(refusal in errors for refusal in self.refusals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language.

    Attributes:
        name: Its usual name.
        attempts: The ways to run a piece of its code, to be tried in this order while the code is refused.
        in_cwd: Whether a source file must be in the working directory to find the modules there.
    """

    name: str
    attempts: Callable[[str], tuple[Attempt, ...]]
    in_cwd: bool = False

    def places(self, cwd: str, suffix: str) -> tuple[str, ...]:
        """List paths for the source file, the best one first."""
        name = f".run-{secrets.token_hex(6)}{suffix}"
        directories = ((cwd or HOME).rstrip("/"), _TEMPORARY) if self.in_cwd else (_TEMPORARY,)
        return tuple(f"{directory}/{name}" for directory in directories)


def _always(program: tuple[str, ...], suffix: str) -> Callable[[str], tuple[Attempt, ...]]:
    attempts = (Attempt(program=program, suffix=suffix),)
    return lambda _code: attempts


def _typescript(code: str) -> tuple[Attempt, ...]:
    """Have Node itself run what needs nothing but Node, in a third of the time of tsx."""
    awaits = _AWAITS_AT_TOP.search(code) is not None
    tsx = (_TSX_MODULE,) if awaits else (_TSX, _TSX_MODULE)
    module = awaits or _MODULE_SYNTAX.search(code) is not None
    if _needs_more_than_node(code) or (module and _COMMONJS.search(code)):
        return tsx
    return (Attempt(program=("node",), suffix=".mts" if module else ".cts", refusals=_NODE_REFUSALS), *tsx)


def _needs_more_than_node(code: str) -> bool:
    """Whether it may load files or packages, which tsx finds in more ways, or needs a compiler: yes if in doubt."""
    if _DECORATOR.search(code) or _LOADS_LATER.search(code.replace("import.meta", "")):
        return True
    return not all(_OF_NODE.match(found["name"]) for found in _LOADS.finditer(code))


_NODE_REFUSALS = (
    b"[ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX]",  # an enum, a namespace, a parameter property
    b"[ERR_INVALID_TYPESCRIPT_SYNTAX]",  # such as `<T>(x: T) => x`, which needs a comma there
    b"[ERR_UNKNOWN_FILE_EXTENSION]",  # a Node without types
    b"does not provide an export named",  # an import of a type
    b"SyntaxError: await is only valid in async functions",
)
_TSX = Attempt(
    program=("tsx",),
    suffix=".ts",
    refusals=(b'ERROR: Top-level await is currently not supported with the "cjs" output format',),
)
# As .mts it is always an ES module, but sees the default exports of CommonJS modules wrapped: the last resort.
_TSX_MODULE = Attempt(program=("tsx",), suffix=".mts")

_LANGUAGES = (
    # Python imports from the working directory wherever the file is; the file stays while the program runs, because
    # tracebacks show its lines.
    Language(name="python", attempts=_always(("python3", "-c", _START_PYTHON), ".py")),
    Language(name="javascript", attempts=_always(("node",), ".js"), in_cwd=True),
    Language(name="typescript", attempts=_typescript, in_cwd=True),
    Language(name="bash", attempts=_always(("bash",), ".sh")),
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
