"""Values at the edge of what can be written, for every argument of every tool: none is a fault of the server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.mcp_server.edge import Edge, text_of

pytestmark = pytest.mark.anyio

SAMPLES: dict[str, object] = {"id": "box", "pid": 1, "path": "/none", "from": "/none", "to": "/none"}
ODD: dict[str, list[object]] = {
    "string": ["9" * 5000, "\0", "\u2028", "-1", "1e999"],
    "integer": [10**30, -(10**30), 2**63, 0],
    "number": [10**30, -(10**30), 5e-324, 1.7e308],
    "boolean": [False],
    "object": [{"9" * 5000: "\0"}, {"": ""}],
    "array": [["9" * 5000], [10**30], []],
}


def kinds(schema: dict[str, Any]) -> list[str]:
    return [one["type"] for one in schema.get("anyOf", [schema]) if one.get("type", "null") != "null"]


async def test_odd_values_are_refused_or_taken_but_no_fault(host: Edge) -> None:
    faults: list[str] = []
    async with host.client("alice") as client:
        for tool in (await client.list_tools()).tools:
            properties, required = tool.input_schema["properties"], tool.input_schema.get("required", ())
            least = {name: SAMPLES.get(name, "a") for name in required}
            for name, schema in properties.items():
                assert kinds(schema), (tool.name, name)
                for value in (value for kind in kinds(schema) for value in ODD[kind]):
                    told = text_of(await client.call_tool(tool.name, {**least, name: value}))
                    if "Internal error" in told:
                        faults.append(f"{tool.name} {name}={str(value)[:40]!r}")
    assert faults == []
