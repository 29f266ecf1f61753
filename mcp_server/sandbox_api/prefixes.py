"""Programs that run the command in their arguments, such as `env` and `xargs`: which command that is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .shell_lines import PLACE, refused

Word = str | None
"""A word of a command; None if the shell decides what it is when it runs."""

SHELLS = frozenset({"sh", "bash", "dash"})
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=", re.ASCII)
_DURATION = re.compile(r"[0-9.]+[smhd]?")
_EXECS = frozenset({"-exec", "-execdir", "-ok", "-okdir"})

# Options by program: those that stand alone, and those that take the next word. All others are refused.
_OPTIONS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "env": (frozenset({"-i", "-", "--ignore-environment", "-0", "--null", "--"}), frozenset({"-u", "-C"})),
    "xargs": (
        frozenset({"-0", "--null", "-r", "--no-run-if-empty", "-t", "--verbose", "-x", "--exit", "--"}),
        frozenset({"-n", "-L", "-P", "-s", "-d", "-a", "-I"}),
    ),
    "nohup": (frozenset({"--"}), frozenset()),
    "nice": (frozenset({"--"}), frozenset({"-n"})),
    "timeout": (frozenset({"--foreground", "--preserve-status", "-v", "--"}), frozenset({"-s", "-k"})),
    "setsid": (frozenset({"-c", "-f", "-w", "--"}), frozenset()),
    "stdbuf": (frozenset({"--"}), frozenset({"-i", "-o", "-e"})),
    "time": (frozenset({"-p", "--"}), frozenset()),
    "command": (frozenset({"-p", "--"}), frozenset()),
    "builtin": (frozenset({"--"}), frozenset()),
    "exec": (frozenset({"-c", "-l", "--"}), frozenset({"-a"})),
}
_JOINED = re.compile(r"-[nLPsdakoieuC][^-].*|--(?:adjustment|signal|kill-after|max-args|max-procs|max-lines)=.*")
_QUERIES = frozenset({"-v", "-V"})

NAMES = frozenset(_OPTIONS) | SHELLS | {"find"}
"""The programs that this module knows."""


def inner_commands(
    words: Sequence[Word], *, fed: bool, check_line: Callable[[str], None], check_variable: Callable[[str], None]
) -> list[tuple[Sequence[Word], bool]]:
    """Return the commands that a command runs, each with whether its last words come from its input.

    Args:
        words: The command, whose name is in NAMES.
        fed: Whether further words follow that nobody knows, as after `xargs`.
        check_line: Checks a line that a shell is given.
        check_variable: Checks the name of a variable that is set.

    Raises:
        InvalidInput: What it runs cannot be told.
    """
    name = words[0] or ""
    if name in SHELLS:
        check_line(_script(words))
        return []
    if name == "find":
        return [(inner, False) for inner in _found(words, fed=fed)]
    inner = _after_options(words, check_variable)
    if name == "command" and len(words) > 1 and words[1] in _QUERIES:
        return []
    if not inner:
        if fed:
            raise refused(f"what {name} runs comes from its input")
        return []
    return [(inner, fed or name == "xargs")]


def _after_options(words: Sequence[Word], check_variable: Callable[[str], None]) -> Sequence[Word]:
    """Return what is left of a command after its options, and after the variables that `env` sets."""
    name = words[0] or ""
    if name == "command" and len(words) > 1 and words[1] in _QUERIES:
        return ()
    alone, taking = _OPTIONS[name]
    rest = list(words[1:])
    while rest:
        word = rest[0]
        if word is None:
            raise refused(f"the words of {name} up to its command must be written out")
        if word in taking:
            if name == "xargs" and word == "-I" and rest[1:2] != [PLACE]:
                raise refused("xargs must have -I {} and no other placeholder")
            del rest[:2]
        elif word in alone or (name != "time" and _JOINED.fullmatch(word)):
            if name == "xargs" and word.startswith("-i"):
                raise refused("xargs must have -I {} and no other placeholder")
            del rest[:1]
        elif name == "env" and (found := _ASSIGNMENT.match(word)):
            check_variable(found[1])
            del rest[:1]
        elif word.startswith("-"):
            raise refused(f"{name} must have no option {word[:20]}: it is not known here")
        else:
            break
    if name == "timeout" and rest:
        if not _DURATION.fullmatch(rest[0] or ""):
            raise refused("timeout must have its duration before its command")
        del rest[:1]
    return rest


def _script(words: Sequence[Word]) -> str:
    """Return the line that a shell is given with `-c`."""
    name = words[0]
    if len(words) < 3 or words[1] not in {"-c", "-ec", "-ce", "-euc"}:
        raise refused(f"{name} must have -c and a line: what it reads elsewhere cannot be checked")
    line = words[2]
    if line is None:
        raise refused(f"the line of {name} -c must be written out")
    if PLACE in line:
        raise refused(f"the line of {name} -c must have no {PLACE}, which something else replaces")
    return line


def _found(words: Sequence[Word], *, fed: bool) -> list[Sequence[Word]]:
    """Return the commands that `find` runs."""
    if fed or None in words:
        raise refused("the words of find must be written out, with patterns in quotes")
    inner: list[Sequence[Word]] = []
    rest = list(words[1:])
    while rest:
        word = rest.pop(0)
        if word in _EXECS:
            end = next((at for at, one in enumerate(rest) if one in {";", "+"}), len(rest))
            inner.append([*rest[:end]] or [PLACE])
            del rest[: end + 1]
    return inner
