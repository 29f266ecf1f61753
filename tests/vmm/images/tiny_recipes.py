"""Recipes that build quickly, and record each build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from vmm.errors import Unavailable
from vmm.images.catalogue import Catalogue
from vmm.images.commands import run
from vmm.images.recipe import Workshop


@dataclass(frozen=True, kw_only=True)
class TinyRecipe:
    name: str
    files: tuple[str, ...]
    log: Path
    known: Mapping[str, str] = field(default_factory=lambda: {"recipe": "1"})
    command: str = "true"
    weight: int = 100
    space: int = 1024

    def inputs(self) -> Mapping[str, str]:
        return self.known

    async def build(self, shop: Workshop, into: Path) -> Mapping[str, str]:
        def note() -> None:
            with self.log.open("a") as log:
                log.write(f"{self.name}\n")
            (into / self.files[0]).write_text("half")

        await anyio.to_thread.run_sync(note)
        shop.report(f"Building {self.name}", 0.5)
        await run(["sh", "-c", self.command], deadline_s=60, pass_fds=shop.held, cwd=shop.scratch)
        for name in self.files:
            await anyio.Path(into / name).write_text(f"{self.name} {name}")
        return {self.name: "1"}


@dataclass(frozen=True, kw_only=True)
class FailingRecipe(TinyRecipe):
    message: str = "the mirror is down"

    async def build(self, shop: Workshop, into: Path) -> Mapping[str, str]:
        await super().build(shop, into)
        raise Unavailable(self.message)


def tiny_catalogue(root: Path, log: Path, known: Mapping[str, str] | None = None, **changes: str) -> Catalogue:
    """Make a catalogue of tiny parts; `changes` are commands that parts run during a build."""

    def recipe(name: str, *files: str) -> TinyRecipe:
        inputs = known or {"recipe": "1"}
        return TinyRecipe(name=name, files=files, log=log, known=inputs, command=changes.get(name, "true"))

    return Catalogue(
        root,
        shared=(recipe("kernel", "vmlinuz", "vmlinux", "initramfs"), recipe("toolbox", "toolbox")),
        bases=(recipe("code", "base.ext4"), recipe("minimal", "base.ext4")),
    )
