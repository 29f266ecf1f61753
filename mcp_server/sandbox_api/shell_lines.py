"""Shell lines as trees, and the words of them that are what they look like."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import tree_sitter_bash
from tree_sitter import Language, Parser

from storage.shown import shown
from vmm.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tree_sitter import Node

REFUSED = "Command not allowed by whitelist"
_SUBSTITUTIONS = frozenset({"command_substitution", "process_substitution", "arithmetic_expansion"})
_REREAD = frozenset({"string", "expansion", "heredoc_body", "translated_string"})
"""Nodes in which single quotes may be no quotes."""
_OPENING = re.compile(rb"\$\(|`|(?<![<>])[<>]\(")
_PLAIN = re.compile(r"[^\\$`*?\[\]{}~'\"]*")
PLACE = "{}"
"""What find and xargs replace; bash leaves it as it is."""
_ESCAPED = re.compile(r"\\(?:\n|(.))", re.DOTALL)
_ESCAPED_IN_STRING = re.compile(r"\\(?:\n|([$`\"\\]))", re.DOTALL)


def refused(reason: str) -> InvalidInput:
    """Build the refusal of a line."""
    return InvalidInput(REFUSED, hint=reason)


def parse(line: str) -> Node:
    """Parse a line as bash would.

    Raises:
        InvalidInput: It cannot be parsed; the reason says where.
    """
    try:
        data = line.encode()
    except UnicodeEncodeError:
        raise refused("the line is not valid Unicode text") from None
    if "\0" in line or "\r" in line:
        raise refused("the line has NUL characters or carriage returns")
    root = _parser().parse(data).root_node
    bad = next((node for node in walk(root) if node.is_error or node.is_missing), None)
    if bad is not None:
        near = data[bad.start_byte : bad.start_byte + 20].decode("utf-8", "replace")
        raise refused(f"the line cannot be parsed at byte {bad.start_byte}, near {shown(near)}: is a quote open?")
    return root


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all below it."""
    rest = [node]
    while rest:
        one = rest.pop()
        yield one
        rest += reversed(one.children)


def text_of(node: Node) -> str:
    """Return the source of a node."""
    return (node.text or b"").decode("utf-8", "replace")


def own_text(node: Node) -> str:
    """Return the source of a node without the substitutions in it, which are nodes to look at by themselves."""
    source = node.text or b""
    kept, at = b"", 0
    rest = list(node.children)
    while rest:
        one = rest.pop(0)
        if one.type in _SUBSTITUTIONS:
            begin, end = one.start_byte - node.start_byte, one.end_byte - node.start_byte
            kept, at = kept + source[at:begin], end
        else:
            rest = one.children + rest
    return (kept + source[at:]).decode("utf-8", "replace")


def static(node: Node) -> str | None:
    """Return the one word that a node always stands for; None if the shell decides that when it runs."""
    if text_of(node) == PLACE:
        return PLACE
    match node.type:
        case "command_name":
            word = static(node.children[0]) if len(node.children) == 1 else None
        case "word" | "number" | "test_operator":
            word = _unescaped(text_of(node))
        case "raw_string":
            word = text_of(node)[1:-1]
        case "string" if all(child.type in {'"', "string_content"} for child in node.children):
            # The grammar skips blanks at the beginning of a string, so its whole source is taken.
            word = _ESCAPED_IN_STRING.sub(lambda found: found[1] or "", text_of(node)[1:-1])
        case "concatenation":
            parts = [static(child) for child in node.children]
            word = None if None in parts else "".join(part or "" for part in parts)
        case _:
            word = None
    return word


def _unescaped(source: str) -> str | None:
    if not _PLAIN.fullmatch(_ESCAPED.sub("", source)):
        return None
    return _ESCAPED.sub(lambda found: found[1] or "", source)


def check_substitutions(root: Node) -> None:
    """Refuse a line with a command in it that the grammar did not find, such as one in a pattern of an expansion.

    Raises:
        InvalidInput: The reason says where.
    """
    source = root.text or b""
    starts: set[int] = set()
    literal: list[tuple[int, int]] = []
    for node in walk(root):
        if node.type in _SUBSTITUTIONS:
            starts |= {node.start_byte, node.end_byte - 1}
        elif _is_literal(node):
            literal.append((node.start_byte, node.end_byte))
    for found in _OPENING.finditer(source):
        at = found.start() + root.start_byte
        if at not in starts and not any(begin <= at < end for begin, end in literal):
            raise refused(f"the substitution at byte {at} cannot be checked: write it elsewhere")


def _is_literal(node: Node) -> bool:
    """Tell whether bash takes what is in a node as it stands."""
    match node.type:
        case "raw_string" | "ansi_c_string":
            parent = node.parent
            while parent is not None and parent.type not in _REREAD:
                parent = parent.parent
            return parent is None
        case "heredoc_body":
            start = next((one for one in (node.parent or node).children if one.type == "heredoc_start"), None)
            return start is not None and any(quote in text_of(start) for quote in "'\"\\")
        case _:
            return False


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_bash.language()))
