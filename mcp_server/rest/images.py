"""Images over REST: what sandboxes are created from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from auth.roles import Scope
from mcp_server.image_names import TAG, image_named
from mcp_server.wire import timestamp
from vmm.sandboxes.spec import DISK

from .contract import contract
from .endpoint import Endpoint
from .shapes.sandboxes import ImageObject

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.images.catalogue import ImageInfo


class ImageRoutes:
    """The routes for images."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        base, read = "/api/images", Scope.READ
        return [
            Endpoint(method="GET", path=base, handler=self.images, scope=read, action="image.list"),
            Endpoint(method="GET", path=f"{base}/{{image}}", handler=self.image, scope=read, action="image.get"),
            Endpoint(method="GET", path=f"{base}/name/{{image}}", handler=self.image, scope=read, action="image.get"),
        ]

    @contract(list[ImageObject])
    async def images(self, request: Request, who: Principal) -> Response:
        """List the images, the default one first."""
        del request, who
        return JSONResponse([image_object(image) for image in await self._fleet.image_list()])

    @contract(ImageObject)
    async def image(self, request: Request, who: Principal) -> Response:
        """Return one image, by id or name; the names of VoidRun's images mean `code`."""
        del who
        wanted: str = request.path_params["image"]
        name = image_named(wanted, self._fleet.images())
        for image in await self._fleet.image_list():
            found = image_object(image)
            if name == image.name or wanted == found["id"]:
                return JSONResponse(found)
        raise HTTPException(404, "Image not found")


def image_object(image: ImageInfo) -> ImageObject:
    """Convert an image to its JSON form; its id is a hash of its name, because images have no record."""
    found: ImageObject = {
        "id": hashlib.sha256(image.name.encode()).hexdigest()[:24],
        "name": image.name,
        "tag": TAG,
        "sizeGB": DISK // 1024,
        "system": True,
        "active": True,
        "orgId": "",
        "createdBy": "",
    }
    if image.built:
        found["createdAt"] = timestamp(image.built_ms)
    return found
