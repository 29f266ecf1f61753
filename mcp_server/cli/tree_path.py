"""A path in a tree: one end of a copy."""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import join
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePath:
    """A path in a tree."""

    tree: Tree
    path: str

    @property
    def name(self) -> str:
        """Return the name of the path for messages."""
        return self.tree.name(self.path)

    @property
    def last(self) -> str:
        """Return the last part of the path; empty if the path means a directory's content, as `dir/.` does."""
        part = self.path.rstrip("/").rpartition("/")[2]
        return "" if part in {"", ".", ".."} else part

    def below(self, name: str) -> TreePath:
        """Return a path in this directory."""
        return TreePath(tree=self.tree, path=join(self.path, name))
