"""Host names of policies: their one written form, and what a pattern such as "*.example.com" covers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import idna

from storage.shown import shown

from ..errors import InvalidInput

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST = 253

# Scripts that one language writes together; every other mixture within a label is a disguise.
_TOGETHER = (
    frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC"}),
    frozenset({"LATIN", "CJK", "HANGUL"}),
    frozenset({"LATIN", "CJK", "BOPOMOFO"}),
)


class NamePatterns:
    """A set of names and wildcards; "*.example.com" covers names of any depth below example.com, not itself."""

    def __init__(self, patterns: Iterable[str]) -> None:
        written = frozenset(patterns)
        self._below = frozenset(pattern[2:] for pattern in written if pattern.startswith("*."))
        self._exact = frozenset(pattern for pattern in written if not pattern.startswith("*."))

    def cover(self, name: str) -> bool:
        """Tell whether a name, as DNS, SNI or Host give it, is one of the set."""
        name = plain(name)
        if name in self._exact:
            return True
        _, dot, above = name.partition(".")
        while dot:
            if above in self._below:
                return True
            _, dot, above = above.partition(".")
        return False


def plain(name: str) -> str:
    """Return a name in lower case and without the final dot of a fully qualified one."""
    return name.lower().removesuffix(".")


def is_pattern(text: str) -> bool:
    """Tell whether a name or wildcard can stand in a policy as it is."""
    try:
        return pattern(text, field="name") == text
    except InvalidInput:
        return False


def pattern(text: str, *, field: str) -> str:
    """Check one name or wildcard of a policy.

    Returns:
        It in lower case and without a final dot.

    Raises:
        InvalidInput: It is no name, too wide, or not what it looks like.
    """
    if not text.isascii():
        raise _foreign(text, field)
    name = plain(text)
    below = name.removeprefix("*.")
    labels = below.split(".")
    if "*" in below:
        raise InvalidInput(
            f"{field} must have a wildcard as a whole first label only, got {shown(text)}",
            hint='Write it as "*.example.com"; to allow every name, use "internet".',
        )
    if len(below) > _LONGEST or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidInput(
            f"{field} must be a name of letters, digits and hyphens, an address or a port, got {shown(text)}",
            hint="Examples: example.com, *.example.com, 198.51.100.0/24, 443/tcp.",
        )
    if labels[-1].isdigit():
        raise InvalidInput(
            f"{field} must be a name or a complete IPv4 address, got {shown(text)}",
            hint="Write an address with four numbers from 0 to 255, such as 198.51.100.7.",
        )
    if len(labels) < 2:
        raise _one_label(text, name, field)
    for label in labels:
        if label.startswith("xn--"):
            _check_encoded(label, text, field)
    return name


def _one_label(text: str, name: str, field: str) -> InvalidInput:
    if name.startswith("*."):
        return InvalidInput(
            f"{field} must have at least two labels after a wildcard, got {shown(text)}",
            hint='Name the domain, such as "*.example.com"; to allow every name, use "internet".',
        )
    return InvalidInput(
        f"{field} must be none, internet, packages, learn or an allow list, got {shown(text)}",
        hint='An allow list has names, networks and ports: "example.com, *.example.com, 198.51.100.0/24, 443/tcp".',
    )


def _check_encoded(label: str, text: str, field: str) -> None:
    try:
        decoded = idna.ulabel(label)
    except UnicodeError as error:  # idna's own errors are of this kind
        raise InvalidInput(
            f"{field} must have valid internationalized labels, got {shown(text)}: {shown(label)} encodes no name"
        ) from error
    if _mixed(decoded):
        raise _disguised(text, field)


def _foreign(text: str, field: str) -> InvalidInput:
    """Explain a name that is not ASCII: how to write it, unless it imitates another one."""
    below = text.removeprefix("*.")
    wildcard = text[: len(text) - len(below)]
    if any(_mixed(label) for label in below.split(".")):
        return _disguised(text, field)
    try:
        encoded = idna.encode(below, uts46=True).decode("ascii")
    except UnicodeError:
        return InvalidInput(f"{field} must be a name that DNS can hold, got {shown(text)}")
    return InvalidInput(
        f"{field} must have names in ASCII, got {shown(text)}",
        hint=f"If this is the name that you mean, write it as {wildcard}{encoded}.",
    )


def _disguised(text: str, field: str) -> InvalidInput:
    return InvalidInput(
        f"{field} must not mix scripts within a label, got {shown(text)} ({text!a})",
        hint="It imitates another name: type the name yourself.",
    )


def _mixed(label: str) -> bool:
    # The standard library has no table of scripts, but the name of a letter begins with its script.
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in label if letter.isalpha()}
    return len(scripts) > 1 and not any(scripts <= language for language in _TOGETHER)
