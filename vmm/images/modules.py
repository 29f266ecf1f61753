"""Finds kernel modules and their dependencies, in the order in which they must be loaded."""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vmm.errors import Unavailable

_SUFFIXES = (".ko", ".ko.xz")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleTree:
    """The modules of one kernel, as depmod describes them.

    Attributes:
        root: The directory `lib/modules/<release>`.
        needs: Path of a module below the root, to its dependencies in depmod's order: the last must be loaded first.
        names: Module name, with underscores, to its path.
        builtin: Names of the modules that are part of the kernel itself.
    """

    root: Path
    needs: dict[str, tuple[str, ...]]
    names: dict[str, str]
    builtin: frozenset[str]

    @classmethod
    def read(cls, root: Path) -> ModuleTree:
        """Read `modules.dep` and `modules.builtin`."""
        needs: dict[str, tuple[str, ...]] = {}
        for line in (root / "modules.dep").read_text().splitlines():
            path, _, others = line.partition(":")
            needs[path] = tuple(others.split())
        builtin = (root / "modules.builtin").read_text().split()
        return cls(
            root=root,
            needs=needs,
            names={module_name(path): path for path in needs},
            builtin=frozenset(module_name(path) for path in builtin),
        )

    def order(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the paths of the named modules and all their dependencies: each once, each after its dependencies.

        Raises:
            Unavailable: The kernel has no such module.
        """
        order: list[str] = []
        for name in names:
            plain = name.replace("-", "_")
            if plain in self.names:
                self._add(self.names[plain], order)
            elif plain not in self.builtin:
                raise Unavailable(f"The kernel has no module {name}; use another kernel package")
        return tuple(order)

    def has(self, name: str) -> bool:
        """Tell whether the kernel has a module, either as a file or built in."""
        return name in self.names or name in self.builtin

    def load(self, path: str) -> bytes:
        """Return a module's content, uncompressed."""
        data = (self.root / path).read_bytes()
        return lzma.decompress(data) if path.endswith(".xz") else data

    def _add(self, path: str, order: list[str]) -> None:
        if path in order:
            return
        for other in reversed(self.needs[path]):
            self._add(other, order)
        order.append(path)


def module_name(path: str) -> str:
    """Return the name of a module: `virtio_rng` for `kernel/.../virtio-rng.ko.xz`.

    Raises:
        Unavailable: The module's compression is not supported.
    """
    name = PurePosixPath(path).name
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("-", "_")
    raise Unavailable(f"The kernel module {name} must be .ko or .ko.xz; use another kernel package")
