"""The images by name: builds missing ones, verifies existing ones, lists and removes them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from storage.shown import shown
from vmm.errors import CasemateError, Conflict, HostExhausted, InvalidInput, Unavailable

from ..disk.os_errors import translate_os_errors
from . import base, kernel, toolbox
from .builds import Site
from .progress import Meter, Progress, no_progress
from .recipe import Recipe
from .store import Part, Store

DEFAULT = "code"
_AGENT = Path(__file__).parent.parent / "agent"
_SPARE = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """All files that a machine boots from. They never change; another build creates other files.

    Attributes:
        name: The base image's name.
        kernel_elf: The uncompressed kernel, for QEMU's microvm machine.
        kernel_bz: The same kernel as a bzImage, for cloud-hypervisor.
        initramfs: The kernel's first root.
        toolbox: The guest's own read-only root (erofs): the first drive.
        base: The base image (read-only ext4): the second drive; the third is a disk of `make_disk`.
        digest: Digest of all their contents, hex.
        sizes: Bytes of each file, by its name.
    """

    name: str
    kernel_elf: Path
    kernel_bz: Path
    initramfs: Path
    toolbox: Path
    base: Path
    digest: str
    sizes: Mapping[str, int] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """An image as a user sees it.

    Attributes:
        name: Its name.
        description: What is in it.
        built: Whether it can be used now.
        digest: As in `ImageSet`; empty if it is not built.
        size: Bytes on the host's disk, with the parts that it shares with other images.
        built_ms: When its newest part was built, epoch milliseconds; 0 if never.
        facts: What it was built from, such as the kernel's version.
        problem: What is wrong with it; empty if nothing is.
    """

    name: str
    description: str
    built: bool
    digest: str = ""
    size: int = 0
    built_ms: int = 0
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    problem: str = ""


class Catalogue:
    """The images below one directory. Several processes may share it: they build one at a time.

    Args:
        root: The directory; created when the first image is built.
        agent: The agent's package directory, if not the project's own.
        shared: Recipes of the parts that all images share, if not the project's own.
        bases: Recipes of the base images by name, if not the project's own; the default first.
    """

    def __init__(
        self,
        root: Path,
        *,
        agent: Path = _AGENT,
        shared: Sequence[Recipe] | None = None,
        bases: Sequence[Recipe] | None = None,
    ) -> None:
        self._root = root
        self._store = Store(root)
        self._shared = tuple(shared or (kernel.KernelRecipe(), toolbox.ToolboxRecipe(agent)))
        self._bases = {recipe.name: recipe for recipe in bases or (base.CODE, base.MINIMAL)}
        self._inputs: dict[str, Mapping[str, str]] = {}

    def names(self) -> tuple[str, ...]:
        """List the names of all images, built or not, the default first."""
        return tuple(self._bases)

    async def find(self, name: str) -> ImageSet | None:
        """Find and verify an image as `Store.check` does; None if no build has this version's inputs.

        Raises:
            InvalidInput: There is no such image.
            Unavailable: A file is not what was built, or the host fails.
            HostExhausted: The server has too many files open.
        """
        recipes = self._recipes(name)
        with translate_os_errors("the images", self._root):
            return await anyio.to_thread.run_sync(self._find, name, recipes)

    async def require(self, name: str) -> ImageSet:
        """Find and verify an image as `find` does.

        Raises:
            InvalidInput: There is no such image.
            Unavailable: It is not built, a file is not what was built, or the host fails.
            HostExhausted: The server has too many files open.
        """
        images = await self.find(name)
        if images is None:
            raise Unavailable(f"The image {name} is not built", hint=f"Build it: casemate image build {name}")
        return images

    async def ensure(self, name: str = DEFAULT, *, progress: Progress = no_progress) -> ImageSet:
        """Find and verify an image as `find` does; builds missing parts first, which takes about a minute.

        Raises:
            InvalidInput: There is no such image.
            Unavailable: A file is not what was built, a tool is missing, or a build failed.
            HostExhausted: The host's disk is too full to build.
        """
        return await self.find(name) or await self.build(name, progress=progress)

    async def build(self, name: str, force: bool = False, *, progress: Progress = no_progress) -> ImageSet:
        """Build the missing parts of an image, or all of it again, with the newest packages. Waits for other builds.

        An interrupted build leaves no partial image. Older builds stay for the machines that use them, until `prune`.

        Raises:
            InvalidInput: There is no such image.
            Unavailable: A tool is missing, or a build failed.
            HostExhausted: The host's disk is too full.
        """
        recipes = self._recipes(name)
        async with Site.open(self._root, waiting=lambda: progress("Waiting for another build of images", 0, 1)) as site:
            missing = [recipe for recipe in recipes if force or not await self._has(recipe)]
            if missing:
                await site.prepare()
                await anyio.to_thread.run_sync(_check_space, self._root, missing)
            meter = Meter(progress=progress, total=sum(recipe.weight for recipe in missing) or 1)
            for recipe in missing:
                await site.build(recipe, self._known_inputs(recipe), self._store, meter)
        image = await self.find(name)
        if image is None:
            raise Unavailable(f"The image {name} was removed just after it was built", hint="Try again")
        return image

    async def list(self) -> tuple[ImageInfo, ...]:
        """List all images, built or not; damaged ones have a `problem`."""
        return tuple([await anyio.to_thread.run_sync(self._info, name) for name in self._bases])

    async def verify(self, name: str) -> None:
        """Compare the SHA-256 of every file of an image with its manifest; takes a second or two.

        Raises:
            InvalidInput: There is no such image.
            Unavailable: It is not built, or a file is not what was built.
        """
        recipes = self._recipes(name)
        parts = await anyio.to_thread.run_sync(self._parts, recipes)
        if parts is None:
            raise Unavailable(f"The image {name} is not built", hint=f"Build it: casemate image build {name}")
        for part in parts:
            await anyio.to_thread.run_sync(self._store.check_all, part)

    async def remove(self, name: str) -> None:
        """Remove all builds of an image, and with the last image the kernel and the toolbox too.

        Running machines keep working, because their files stay open. Sleeping machines could not wake: the caller must
        make sure that there are none.

        Raises:
            InvalidInput: There is no such image.
            Conflict: A build is running.
        """
        self._recipes(name)
        async with Site.open(self._root, waiting=_refuse) as site:
            parts = await anyio.to_thread.run_sync(self._store.parts)
            others = any(part.name in self._bases and part.name != name for part in parts)
            for part in parts:
                if part.name == name or (part.name not in self._bases and not others):
                    await site.remove(part.directory)

    async def prune(self, keep: Collection[Path] = ()) -> tuple[Path, ...]:
        """Remove parts that this version would not use, and return them.

        Args:
            keep: Files that are still needed; the parts that hold them stay.

        Raises:
            Conflict: A build is running.
        """
        kept = {path.parent for path in keep}
        async with Site.open(self._root, waiting=_refuse) as site:
            parts = await anyio.to_thread.run_sync(self._store.parts)
            current = await anyio.to_thread.run_sync(self._current)
            useless = [part.directory for part in parts if part.directory not in current | kept]
            for directory in useless:
                await site.remove(directory)
        return tuple(useless)

    def _recipes(self, name: str) -> tuple[Recipe, ...]:
        if name not in self._bases:
            raise InvalidInput(f"image must be {' or '.join(sorted(self._bases))}, got {shown(name)}")
        return (*self._shared, self._bases[name])

    def _known_inputs(self, recipe: Recipe) -> Mapping[str, str]:
        # The inputs of the running program do not change while it runs.
        if recipe.name not in self._inputs:
            self._inputs[recipe.name] = recipe.inputs()
        return self._inputs[recipe.name]

    async def _has(self, recipe: Recipe) -> bool:
        return await anyio.to_thread.run_sync(self._parts, (recipe,)) is not None

    def _parts(self, recipes: Sequence[Recipe]) -> list[Part] | None:
        parts = [self._store.find(recipe.name, self._known_inputs(recipe)) for recipe in recipes]
        whole = [part for part in parts if part is not None]
        return whole if len(whole) == len(recipes) else None

    def _find(self, name: str, recipes: Sequence[Recipe]) -> ImageSet | None:
        parts = self._parts(recipes)
        if parts is None:
            return None
        for part in parts:
            self._store.check(part)
        return _image_set(name, parts)

    def _info(self, name: str) -> ImageInfo:
        described = self._bases[name]
        description = described.description if isinstance(described, base.BaseRecipe) else ""
        try:
            parts = self._parts(self._recipes(name))
            if parts is None:
                return ImageInfo(name=name, description=description, built=False)
            for part in parts:
                self._store.check(part)
            return ImageInfo(
                name=name,
                description=description,
                built=True,
                digest=_set_digest(parts),
                size=sum(part.occupied() for part in parts),
                built_ms=max(part.manifest.built_ms for part in parts),
                facts={key: value for part in parts for key, value in part.manifest.facts.items()},
            )
        except CasemateError as error:
            return ImageInfo(name=name, description=description, built=False, problem=str(error))

    def _current(self) -> set[Path]:
        recipes = (*self._shared, *self._bases.values())
        parts = [self._store.find(recipe.name, self._known_inputs(recipe)) for recipe in recipes]
        return {part.directory for part in parts if part is not None}


def _image_set(name: str, parts: Sequence[Part]) -> ImageSet:
    files = {file: part.file(file) for part in parts for file in part.manifest.files}
    return ImageSet(
        name=name,
        kernel_elf=files[kernel.ELF],
        kernel_bz=files[kernel.BZIMAGE],
        initramfs=files[kernel.INITRAMFS],
        toolbox=files[toolbox.TOOLBOX],
        base=files[base.BASE],
        digest=_set_digest(parts),
        sizes={file: record.size for part in parts for file, record in part.manifest.files.items()},
    )


def _set_digest(parts: Sequence[Part]) -> str:
    return hashlib.sha256("".join(f"{part.name} {part.content}\n" for part in parts).encode()).hexdigest()


def _check_space(root: Path, recipes: Sequence[Recipe]) -> None:
    needed = sum(recipe.space for recipe in recipes) + _SPARE
    free = shutil.disk_usage(root).free
    if free < needed:
        raise HostExhausted(
            f"Building images needs {needed / 2**30:.1f} GiB in {root}, but {free / 2**30:.1f} GiB are free",
            hint="Free space there, or set CASEMATE_DATA to a directory on a larger disk",
        )


def _refuse() -> None:
    raise Conflict("Images are being built", hint="Try again when the build is done")
