"""What the log says of answers of sandboxes that never end by themselves: that they were ended is no error."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from mcp_server.app import Services
from mcp_server.observability import logs
from tests.mcp_server.edge import serving
from tests.mcp_server.ports.conftest import Published

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the web server logs, as a server's configuration leaves it."""
    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(logs.ordinary)
    yield caplog
    logger.removeFilter(logs.ordinary)


async def test_a_revoked_port_is_no_error(app: Published, log: pytest.LogCaptureFixture) -> None:
    await app.publish(public=True)
    async with app.edge.http("alice") as alice, app.http() as http, http.stream("GET", "/slow") as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"begun"
        await alice.delete(f"/api/sandboxes/box/ports/{app.port}")
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)
    with pytest.raises(InvalidStatus):
        async with app.socket(key=""):
            pass
    assert log.messages == []


async def test_those_who_still_listen_when_the_server_stops_are_no_error(
    app: Published, with_ports: Services, keys: dict[str, str], log: pytest.LogCaptureFixture
) -> None:
    await app.publish(public=True)
    async with app.http() as http:
        async with serving(with_ports.web(), keys) as second:
            request = http.build_request("GET", f"{second.url}/slow")
            answer = await http.send(request, stream=True)
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b"begun"
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)
    assert [message for message in log.messages if "Cancel 1 running task" not in message] == []
