"""Commands over REST, on each of the ways to run them."""

from __future__ import annotations

from typing import Any

import anyio
import httpx

from tests.mcp_server.rest.conftest import BASE, data_of, events
from tests.vmm.guest.agents import living
from tests.waiting import PATIENCE_S


async def stream(http: httpx.AsyncClient, path: str = "exec-stream", **body: object) -> list[tuple[str, str]]:
    async with http.stream("POST", f"{BASE}/{path}", json=body) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        return await events(answer.aiter_lines())


async def flat(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["success"] is True
    return body


async def printed(http: httpx.AsyncClient, path: str, **fields: Any) -> str:
    """What a command prints, on one of the three ways to run it."""
    if path == "exec":
        return data_of(await http.post(f"{BASE}/exec", json=fields))["stdout"]
    if path == "exec-stream":
        found = await stream(http, **fields)
    else:
        pid = (await flat(await http.post(f"{BASE}/commands/run", json=fields)))["pid"]
        found = await stream(http, "commands/attach", pid=pid)
    return "".join(text for name, text in found if name == "stdout")


async def gone(marker: str) -> None:
    """Wait until no process has the marker among its arguments."""
    with anyio.fail_after(PATIENCE_S):
        while living(marker):
            await anyio.sleep(0.02)


async def there(marker: str) -> None:
    """Wait until a process has the marker among its arguments."""
    with anyio.fail_after(PATIENCE_S):
        while not living(marker):
            await anyio.sleep(0.02)
