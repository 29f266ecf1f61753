"""The list of commands that sessions may run: every simple command of a line is checked before anything runs.

It is a guard rail against mistakes, not a boundary: what a listed program does is its own affair, and values that the
shell only has when it runs are not known here. The boundary is the virtual machine.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from storage.shown import shown

from . import prefixes
from .shell_lines import check_substitutions, own_text, parse, refused, static, text_of, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tree_sitter import Node

    from .prefixes import Word

_HARMLESS = frozenset({":", "true", "false", "exit", "cd", "break", "continue", "return", "shift", "wait"})
"""What a line needs to be a line, and what runs nothing; always allowed."""
_KEYWORDS = frozenset({"time", "command", "builtin", "exec"})
"""What only stands before a command; always allowed, as far as the command is."""
_UNCHECKABLE = frozenset(
    {"eval", "source", ".", "trap", "enable", "alias", "hash", "mapfile", "readarray", "coproc", "bind", "complete"}
    | {"compgen", "fc", "shopt", "set"}
)
"""Built-in commands that run, or rename, what their arguments say when they run."""
_ASSIGNING = frozenset(
    {"printf", "read", "getopts", "unset", "let", "local", "declare", "typeset", "export", "readonly"}
)
_DECIDING = re.compile(r"PATH|IFS|ENV|BASH\w*|LD_\w+|PS4|PROMPT_COMMAND|SHELLOPTS|EXECIGNORE|GLOBIGNORE", re.ASCII)
"""Variables that decide which program a name stands for, or run one."""
_PLACES = ("/bin/", "/usr/bin/", "/usr/local/bin/", "/sbin/", "/usr/sbin/")
_NAME = re.compile(r"[\w.+@%-]+|\[", re.ASCII)
_SET_BY_REDIRECTION = re.compile(r"\{(\w+)\}[<>]", re.ASCII)
_SET_BY_EXPANSION = re.compile(r"\$\{(\w+):?=", re.ASCII)
_SHOWN = 10
_DEPTH = 20
_TEXTS = frozenset({"raw_string", "ansi_c_string", "string", "word", "concatenation"})
_SUBSCRIPT = re.compile(r"\[.*(\$\(|`)", re.DOTALL)
"""What arithmetic, `test` and `unset` would run when they read it."""


class AllowedCommands:
    """A list of commands.

    Args:
        names: Their names; an empty list allows everything.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.strip() for name in names if name.strip())

    def __bool__(self) -> bool:
        return bool(self._names)

    def check(self, line: str) -> None:
        """Refuse a line with a command that is not in the list, or that cannot be told.

        Raises:
            InvalidInput: The hint names the command, or says what cannot be checked.
        """
        if self:
            self._check_line(line, _DEPTH)

    def _check_line(self, line: str, depth: int) -> None:
        if not depth:
            raise refused("the line has too many lines in lines")
        root = parse(line)
        check_substitutions(root)
        _check_source(line)
        for node in walk(root):
            match node.type:
                case "command":
                    self._check_command(_words(node), depth, fed=False)
                case "declaration_command" | "unset_command":
                    self._check_words_of_builtin(node)
                case "variable_name":
                    _check_reference(node)
                case "command_substitution":
                    if text_of(node).startswith("`") and "\\" in text_of(node):
                        raise refused("backquotes must have no backslash in them: use $( )")
                case "expansion":
                    if "@" in text_of(node).rpartition("}")[0][3:]:
                        raise refused("expansions with @ are not checked: write the value out")
                case "function_definition":
                    self._check_function(node)
                case kind if kind in _TEXTS and _SUBSCRIPT.search(own_text(node)):
                    raise refused("texts must have no subscript with a command in it")
                case _:
                    pass

    def _check_command(self, words: Sequence[Word], depth: int, *, fed: bool) -> None:
        name = words[0]
        if name is None or not name:
            raise refused("the name of a command must be written out, without variables, patterns and braces")
        for place in _PLACES:
            name = name.removeprefix(place) if name.startswith(place) and "/" not in name[len(place) :] else name
        self._check_name(name)
        rest = [name, *words[1:]]
        if name in _ASSIGNING:
            _check_assigned(_assigned(rest))
        if name in prefixes.NAMES:
            found = prefixes.inner_commands(
                rest,
                fed=fed,
                check_line=lambda line: self._check_line(line, depth - 1),
                check_variable=_check_variable,
            )
            for inner, inner_fed in found:
                self._check_command(inner, depth, fed=inner_fed)

    def _check_name(self, name: str) -> None:
        if "/" in name:
            raise refused(f"{shown(name)} must be a name, without the directory it is in")
        if not _NAME.fullmatch(name) and name != ":":
            raise refused(f"{shown(name)} is not a name of a command that is written out")
        if name in _UNCHECKABLE:
            raise refused(f"what {name} runs cannot be checked")
        if name not in self._names and name not in _HARMLESS and name not in _KEYWORDS:
            listed = ", ".join(sorted(self._names)[:_SHOWN])
            more = "" if len(self._names) <= _SHOWN else f" and {len(self._names) - _SHOWN} more"
            raise refused(f"{name} is not one of the allowed commands: {listed}{more}")

    def _check_words_of_builtin(self, node: Node) -> None:
        """Check `export`, `declare` and their like, whose assignments are nodes of their own."""
        self._check_name(text_of(node.children[0]))
        # Names and assignments are nodes of their own, which are checked as such.
        _check_assigned(
            [static(child) for child in node.children[1:] if child.type not in {"variable_assignment", "variable_name"}]
        )

    def _check_function(self, node: Node) -> None:
        name = node.child_by_field_name("name")
        if name is not None and text_of(name) in _HARMLESS | _KEYWORDS:
            raise refused(f"{text_of(name)} must stay what it is")


def _words(node: Node) -> list[Word]:
    """Return the words of a command, from its name on."""
    found: list[Word] = []
    for child in node.children:
        if not found and child.type != "command_name":
            continue  # variables that are set for it, and redirections before its name
        if child.type.endswith("_redirect") or not child.is_named:
            continue
        found.append(static(child))
    return found or [None]


def _check_source(line: str) -> None:
    """Refuse settings of variables in places that the grammar has no nodes for."""
    for pattern in (_SET_BY_REDIRECTION, _SET_BY_EXPANSION):
        for name in pattern.findall(line):
            _check_variable(name)


def _check_reference(node: Node) -> None:
    """Refuse to set a variable that decides what names stand for; to read one is fine."""
    name, parent = text_of(node), node.parent
    if parent is None or text_of(parent) not in {f"${name}", f"${{{name}}}"}:
        _check_variable(name)


def _assigned(words: Sequence[Word]) -> Sequence[Word]:
    """Return the words of a built-in command that may name variables which it sets."""
    if words[0] != "printf":
        return words[1:]
    if len(words) > 1 and words[1] is None:
        raise refused("the format of printf must be written out")
    if not (words[1:2] and (words[1] or "").startswith("-v")):
        return ()
    return [(words[1] or "")[2:], *words[2:3]]


def _check_assigned(words: Sequence[Word]) -> None:
    for word in words:
        if word is None:
            raise refused("variables that are set must be written out")
        _check_variable(re.split(r"\W", word.lstrip("-+"), maxsplit=1)[0])


def _check_variable(name: str) -> None:
    if _DECIDING.fullmatch(name):
        raise refused(f"{name} must stay as it is: it decides what runs")


ALL_COMMANDS = AllowedCommands(())
"""No list: everything may run."""
