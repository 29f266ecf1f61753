"""A route for the operator: build the template of an image and a size before the first sandbox needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_server.image_names import image_named

from .body import WireModel, parse_body
from .contract import contract
from .envelope import success
from .operator import operator_endpoint
from .sandboxes import Cpu, Mem
from .shapes.envelope import Enveloped
from .shapes.sandboxes import TemplateObject

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from mcp_server.defaults import Defaults
    from vmm.fleet import Fleet

    from .endpoint import Endpoint

_MOST = 4096


class TemplateRequest(WireModel):
    """A template to build; `mem` is in MiB, and what is left out is the server's default."""

    image: str = ""
    cpu: Cpu | None = None
    mem: Mem | None = None


class TemplateRoutes:
    """Templates of the whole server."""

    def __init__(self, fleet: Fleet, defaults: Defaults) -> None:
        self._fleet = fleet
        self._defaults = defaults

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        return [operator_endpoint("POST", "/api/operator/templates", self.build, "template.build")]

    @contract(Enveloped[TemplateObject], body=TemplateRequest, refusals=(404, 507, 529))
    async def build(self, request: Request, who: Principal) -> Response:
        """Build a template and answer when it is ready, at once if it exists. It is finished if the client leaves."""
        wanted = await parse_body(request, TemplateRequest, most=_MOST)
        image = image_named(wanted.image, self._fleet.images()) or self._defaults.image
        cpu = self._defaults.cpu if wanted.cpu is None else wanted.cpu
        mem = self._defaults.mem if wanted.mem is None else wanted.mem
        await self._fleet.build_template(image, cpu=cpu, mem=mem)
        return success("template ready", TemplateObject(image=image, cpu=cpu, mem=mem))
