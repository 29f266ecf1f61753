"""Images as fixtures: built once on a machine, used by every session."""

from __future__ import annotations

import anyio
import pytest

from vmm.images.catalogue import Catalogue, ImageSet


@pytest.fixture(scope="session")
def image_set(catalogue: Catalogue) -> ImageSet:
    """The smallest image that boots."""
    return anyio.run(catalogue.ensure, "minimal")


@pytest.fixture(scope="session")
def code_image(catalogue: Catalogue) -> ImageSet:
    """The default image."""
    return anyio.run(catalogue.ensure, "code")
