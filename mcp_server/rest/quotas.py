"""Routes for quotas: callers see those of their organisation, the operator sees and sets those of any."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from auth.roles import Scope
from storage.shown import shown
from vmm.errors import InvalidInput

from .body import parse_object, read_body
from .contract import contract
from .endpoint import Endpoint
from .operator import operator_endpoint
from .shapes.accounts import QuotaChanges, QuotaObject

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.organisations import Organisations
    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.sandboxes.quotas import Quotas

_MOST = 4096


class QuotaRoutes:
    """Limits and usage of organisations."""

    def __init__(self, quotas: Quotas, fleet: Fleet, organisations: Organisations) -> None:
        """Create the routes.

        Args:
            quotas: The limits of each organisation.
            fleet: Counts what each organisation uses.
            organisations: Looks up organisations.
        """
        self._quotas = quotas
        self._fleet = fleet
        self._organisations = organisations

    def endpoints(self) -> list[Endpoint]:
        """List the routes that need a credential."""
        one = "/api/operator/quotas/{org_id}"
        return [
            Endpoint(method="GET", path="/api/orgs/quota", handler=self.own, scope=Scope.READ, action="quota.own"),
            operator_endpoint("GET", one, self.show, "quota.show"),
            operator_endpoint("PATCH", one, self.change, "quota.set"),
        ]

    @contract(QuotaObject)
    async def own(self, request: Request, who: Principal) -> Response:
        """Return limits and usage of the caller's organisation."""
        return await self._answer(who.org_id)

    @contract(QuotaObject)
    async def show(self, request: Request, who: Principal) -> Response:
        """Return limits and usage of any organisation."""
        return await self._answer(await self._known(request))

    @contract(QuotaObject, body=QuotaChanges, refusals=(409,))
    async def change(self, request: Request, who: Principal) -> Response:
        """Set an organisation's limits: null restores the default, others stay. Existing sandboxes stay."""
        org_id = await self._known(request)
        changes = parse_object(await read_body(request, most=_MOST))
        for name, value in changes.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InvalidInput(
                    f"{name[:80]}={shown(value)} is not a valid limit", hint="Use a number, or null for the default"
                )
        await self._quotas.put(org_id, changes)
        return await self._answer(org_id)

    async def _known(self, request: Request) -> str:
        org_id: str = request.path_params["org_id"]
        if await self._organisations.get(org_id) is None:
            raise HTTPException(404, f"There is no organisation {shown(org_id)}")
        return org_id

    async def _answer(self, org_id: str) -> Response:
        volumes = await self._fleet.volumes.list(org_id)
        return JSONResponse(
            {
                "orgId": org_id,
                "limits": asdict(await self._quotas.of(org_id)),
                "own": dict(await self._quotas.own(org_id)),
                "used": {
                    **asdict(await self._fleet.sandboxes.usage(org_id)),
                    "snapshots": len(await self._fleet.snapshots.list(org_id)),
                    "volumes": len(volumes),
                    "volume_disk": sum(volume.size for volume in volumes),
                },
            }
        )
