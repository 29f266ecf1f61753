"""Names of images as VoidRun's clients write them: `name` or `name:tag`, and names that VoidRun's own images have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.images.catalogue import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Collection

TAG = "latest"
"""The only tag: an image is always the newest build of its name."""

_VOIDRUN = frozenset({"max", "docker", "docker-lite", "debian"})


def image_named(text: str, images: Collection[str]) -> str:
    """Return the image that a client means; the text itself if there is none, for the fleet to refuse.

    The names of VoidRun's images mean `code`, unless there is an image of that name.

    Args:
        text: What the client wrote; may be empty.
        images: The images that there are.
    """
    name, _, tag = text.strip().partition(":")
    if tag not in {"", TAG}:
        return text.strip()
    return DEFAULT if name in _VOIDRUN and name not in images else name


def tagged(image: str) -> str:
    """Return an image's name with its tag, as clients see it."""
    return f"{image}:{TAG}"
