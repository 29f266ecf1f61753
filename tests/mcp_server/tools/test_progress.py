"""A create that has to build a template first says so while it works, to the clients of both of the protocol's eras."""

from __future__ import annotations

import json

import pytest

from tests.mcp_server.edge import ERAS, Edge, Era, text_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
async def test_a_create_of_a_new_size_tells_that_its_template_is_built(edge: Edge, era: Era) -> None:
    told: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    size = {"cpu": 2, "mem": 512 + 256 * ERAS.index(era)}
    async with edge.client("alice", era) as client:
        made = await client.call_tool("create_sandbox", {"name": "new", **size}, progress_callback=hear)
        assert json.loads(text_of(made))["status"] == "running"
        assert told[0] == (1, f"Booting a template with {size['cpu']} CPU and {size['mem']} MiB, once for this size")
        assert [number for number, _ in told] == list(range(1, len(told) + 1))
        told.clear()
        await client.call_tool("create_sandbox", {"name": "next", **size}, progress_callback=hear)
    assert not [message for _, message in told if message and message.startswith("Booting")]
