"""Images over REST: what sandboxes can be made from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from auth.roles import Scope
from vmm.sandboxes.spec import DISK

from .endpoint import Endpoint

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from vmm.fleet import Fleet


class ImageRoutes:
    """The routes about images."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """The routes of this module."""
        base, read = "/api/images", Scope.READ
        return [
            Endpoint(method="GET", path=base, handler=self.images, scope=read, action="image.list"),
            Endpoint(method="GET", path=f"{base}/{{image}}", handler=self.image, scope=read, action="image.get"),
            Endpoint(method="GET", path=f"{base}/name/{{image}}", handler=self.image, scope=read, action="image.get"),
        ]

    async def images(self, request: Request, who: Principal) -> Response:
        """The images, the default first."""
        del request, who
        return JSONResponse([image_object(name) for name in self._fleet.images()])

    async def image(self, request: Request, who: Principal) -> Response:
        """One image, by id or name."""
        del who
        wanted = request.path_params["image"]
        for name in self._fleet.images():
            found = image_object(name)
            if wanted in {name, f"{name}:latest", found["id"]}:
                return JSONResponse(found)
        raise HTTPException(404, "Image not found")


def image_object(name: str) -> dict[str, Any]:
    """An image as clients know it; its id follows from its name, for an image has no record."""
    return {
        "id": hashlib.sha256(name.encode()).hexdigest()[:24],
        "name": name,
        "tag": "latest",
        "sizeGB": DISK // 1024,
        "system": True,
        "active": True,
        "orgId": "",
        "createdBy": "",
    }
