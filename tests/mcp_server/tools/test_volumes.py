"""The tools for volumes. What needs a real machine is in tests/vmm/volumes."""

from __future__ import annotations

import json

import pytest

from tests.mcp_server.edge import Edge, text_of

pytestmark = pytest.mark.anyio


async def test_a_model_makes_copies_lists_and_deletes_volumes(host: Edge) -> None:
    async with host.client("alice") as client:

        async def told(tool: str, **arguments: object) -> str:
            return text_of(await client.call_tool(tool, arguments))

        made = json.loads(await told("change_volume", action="create", name="data", size=64))
        assert (made["name"], made["sizeMB"]) == ("data", 64)
        copy = json.loads(await told("change_volume", action="snapshot", name="data", copy_name="kept"))
        assert copy["sourceId"] == made["id"]
        listed = json.loads(await told("list_volumes"))
        assert ([one["name"] for one in listed["volumes"]], listed["total"]) == (["data", "kept"], 2)
        assert "id is required to attach a volume" in await told("change_volume", action="attach", name="data")
        refused = await told("change_volume", action="attach", name="data", id="box", path="/proc")
        assert "path must be a directory that the sandbox does not need itself" in refused
        for name in ("data", "kept"):
            assert json.loads(await told("change_volume", action="delete", name=name))["status"] == "deleted"
        assert "Volume not found" in await told("change_volume", action="delete", name="data")
        assert json.loads(await told("list_volumes", id="box")) == {"volumes": [], "total": 0}
