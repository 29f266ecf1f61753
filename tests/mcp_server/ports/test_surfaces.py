"""Ports as models and the command line publish and use them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute

from tests.mcp_server.cli.rig import Cli
from tests.mcp_server.conftest import Assemble
from tests.mcp_server.edge import ERAS, Era, Tools, serving
from tests.mcp_server.host import ALICE, OneHost
from tests.mcp_server.ports.conftest import Published
from tests.waiting import PATIENCE_S
from vmm.sandboxes.sandbox import State

pytestmark = pytest.mark.anyio


@pytest.fixture
def cli(app: Published, tmp_path: Path) -> Cli:
    """The command line with alice's key."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    return Cli(url=app.edge.url, key=app.edge.keys["alice"], keys=app.edge.keys, cwd=cwd)


async def opened(app: Published, url: str) -> str:
    """What a browser shows for a URL, whose host leads to the server."""
    address = urlsplit(url)
    async with app.http(host=address.netloc) as http:
        answer = await http.get(f"{address.path}?{address.query}")
        if answer.status_code == 303:
            cookie = answer.headers["set-cookie"].partition(";")[0]
            answer = await http.get(urlsplit(answer.headers["location"]).path, headers={"cookie": cookie})
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_voidruns_clients_publish_a_list_and_get_urls_that_open_in_a_browser(app: Published) -> None:
    box = "/api/sandboxes/box"
    async with app.edge.http("alice") as http:
        changed = await http.patch(f"{box}/publish-ports", json={"publishPorts": [app.port]})
        assert changed.json()["data"]["publishPorts"] == [app.port]
        (found,) = (await http.get(f"{box}/public-urls")).json()["data"]
        assert found["port"] == app.port
        url: str = found["url"]
        assert await opened(app, url) == "page /"
        await http.patch(f"{box}/publish-ports", json={"publishPorts": []})
        address = urlsplit(url)
        async with app.http(host=address.netloc) as browser:
            assert (await browser.get(f"{address.path}?{address.query}")).status_code == 401


@pytest.mark.parametrize("era", ERAS)
async def test_a_model_publishes_a_port_and_revokes_it(app: Published, era: Era) -> None:
    async with app.edge.client("alice", era) as client:
        box = Tools(client)
        assert "ports" not in json.loads(await box("get_sandbox"))
        made = json.loads(await box("publish_port", port=app.port))
        assert made["url"].startswith(f"http://{app.host}/?casemate_token=")
        assert await opened(app, made["url"]) == "page /"
        (listed,) = json.loads(await box("get_sandbox"))["ports"]
        assert listed == {"port": app.port, "url": f"http://{app.host}/", "path": f"{app.prefix}/", "public": False}
        public = json.loads(await box("publish_port", port=app.port, public=True, expires=60))
        assert (public["url"], public["public"]) == (f"http://{app.host}/", True)
        assert await opened(app, public["url"]) == "page /"
        assert json.loads(await box("unpublish_port", port=app.port)) == {"status": "unpublished"}
        assert "ports" not in json.loads(await box("get_sandbox"))
        assert "port must be from 1 to 65535, got 70000" in await box.refused("publish_port", port=70000)
        assert "is not published" in await box.refused("unpublish_port", port=app.port)


async def test_the_command_line_publishes_lists_and_revokes(cli: Cli, app: Published) -> None:
    url = (await cli("port", "publish", "box", str(app.port), "--expires", "1h")).text.strip()
    assert await opened(app, url) == "page /"
    listed = (await cli("port", "list", "box", "--json")).json
    assert [(one["port"], one["public"]) for one in listed] == [(app.port, False)]
    public = (await cli("port", "publish", "box", str(app.port), "--public", "--json")).json
    assert public["url"] == f"http://{app.host}/"
    shown = (await cli("port", "list", "box")).text
    assert re.search(rf"{app.port}\s+yes\s+-\s+http://", shown)
    assert (await cli("port", "revoke", "box", str(app.port), "--json")).json == {"revoked": app.port}
    assert "is not published" in (await cli("port", "revoke", "box", str(app.port))).refusal
    assert "No published ports." in (await cli("port", "list", "box")).err
    assert "port must be from 1 to 65535" in (await cli("port", "publish", "box", "0")).refusal


async def test_a_local_port_leads_to_one_of_the_sandbox(cli: Cli, app: Published) -> None:
    async with cli.started("port-forward", "box", f"{app.port}:0") as process:
        assert process.stderr is not None
        said = b""
        with anyio.fail_after(PATIENCE_S):
            while b"\n" not in said:
                said += await process.stderr.receive()
        found = re.fullmatch(rf"127\.0\.0\.1:(\d+) is port {app.port} of box\.\n", said.decode())
        assert found, said
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{found[1]}", timeout=PATIENCE_S) as http:
            assert (await http.get("/x")).text == "page /x"
            body = b"x" * 3_000_000
            assert (await http.post("/upload", content=body)).json()["size"] == len(body)
            async with http.stream("GET", "/download?pieces=50") as answer:
                assert len(await answer.aread()) == 50 * 65536


async def test_a_forwarding_that_cannot_work_is_refused(cli: Cli, app: Published) -> None:
    for text in ("0", "65536", "80:65536", "x", "80:", ":80", "1:2:3"):
        assert "is not PORT or PORT:LOCAL" in (await cli("port-forward", "box", text)).refusal
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        taken = listener.extra(SocketAttribute.local_port)
        assert "Cannot listen on 127.0.0.1" in (await cli("port-forward", "box", f"80:{taken}")).refusal
    assert "There is no sandbox" in (await cli("port-forward", "nowhere", "80")).refusal


async def test_a_request_wakes_a_sandbox_that_sleeps(
    assemble: Assemble, fleet_of_one: OneHost, app: Published, keys: dict[str, str]
) -> None:
    services = assemble(fleet_of_one)
    async with serving(services.web(), keys, services.identity.run) as edge, edge.http("alice") as alice:
        port = Published(edge=edge, port=app.port)
        await port.publish(public=True)
        assert (await alice.post("/api/sandboxes/box/sleep")).status_code == 200
        assert [one["port"] for one in (await alice.get("/api/sandboxes/box/ports")).json()["data"]] == [app.port]
        assert (await fleet_of_one.sandboxes.get(ALICE, "box")).state is State.ASLEEP
        async with port.http() as http:
            assert (await http.get("/")).text == "page /"
        assert (await fleet_of_one.sandboxes.get(ALICE, "box")).state is State.RUNNING
