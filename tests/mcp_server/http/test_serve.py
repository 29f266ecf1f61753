"""Starting and stopping: the port, the lock on the data directory, streams that clients hold open."""

from __future__ import annotations

import logging
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_server.cli import service
from mcp_server.data_dir_lock import DataDirInUse, holder_url, lock_data_dir
from mcp_server.http.causes import cause_of
from mcp_server.http.serve import PortRefused, WebServer, listen
from mcp_server.settings import Settings
from tests.mcp_server.edge import Edge, answer_of, initialize, rpc, serving
from tests.vmm.images.tiny_recipes import tiny_catalogue
from tests.waiting import PATIENCE_S
from vmm.images.catalogue import Catalogue

pytestmark = pytest.mark.anyio


async def test_a_port_in_use_is_refused_with_the_way_out() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortRefused, match=rf"Port {port} of 127\.0\.0\.1 is in use.*CASEMATE_PORT"):
            listen("127.0.0.1", port)


async def test_one_server_at_a_time_works_on_a_directory(tmp_path: Path) -> None:
    assert holder_url(tmp_path) == ""
    with lock_data_dir(tmp_path) as lock:
        lock.announce("http://127.0.0.1:1")
        with pytest.raises(DataDirInUse, match=r"reachable at http://127\.0\.0\.1:1"), lock_data_dir(tmp_path):
            pass
        assert holder_url(tmp_path) == "http://127.0.0.1:1"
    assert holder_url(tmp_path) == ""
    assert holder_url(tmp_path / "missing") == ""


async def test_a_second_server_removes_none_of_the_firsts_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data=tmp_path, default_image="minimal")
    images = tiny_catalogue(settings.images, tmp_path / "log")
    firsts = await images.build("minimal")
    # What the second would build, because it is another version.
    seconds = tiny_catalogue(settings.images, tmp_path / "log", known={"recipe": "2"})

    def second(_settings: Settings) -> Catalogue:
        return seconds

    monkeypatch.setattr(service, "open_catalogue", second)
    with lock_data_dir(tmp_path) as lock:
        for said in ("", "http://127.0.0.1:1"):  # as it starts, and once it serves
            lock.announce(said)
            with anyio.fail_after(30), pytest.raises(ExceptionGroup) as refused:
                await service.Service(settings).run()
            assert isinstance(cause_of(refused.value), DataDirInUse)
            assert await images.find("minimal") == firsts
    removed = await seconds.prune()
    assert {path.name.partition("-")[0] for path in removed} == {"kernel", "toolbox", "minimal"}


async def test_an_open_stream_does_not_hold_up_the_stop(application: ASGIApp, keys: dict[str, str]) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with AsyncExitStack() as clients, serving(application, keys) as running:
            http = await clients.enter_async_context(running.http("alice"))
            session = (await http.post("/api/mcp", json=initialize())).headers["mcp-session-id"]
            headers = {"mcp-session-id": session, "accept": "text/event-stream"}
            stream = await clients.enter_async_context(http.stream("GET", "/api/mcp", headers=headers))
            assert stream.status_code == 200


async def test_a_call_in_progress_does_not_hold_up_the_stop_for_long() -> None:
    entered = anyio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        entered.set()
        await anyio.sleep_forever()

    async def call(url: str) -> None:
        async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
            assert (await http.get(url)).status_code == 500

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(PATIENCE_S):
            async with serving(endless) as running:
                tasks.start_soon(call, running.url)
                await entered.wait()


async def test_a_signal_begins_the_stop() -> None:
    listener = listen("127.0.0.1", 0)
    started = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    server = WebServer(app, started.set)
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            await started.wait()
            server.should_exit = True
    assert signal.getsignal(signal.SIGTERM) is not server.handle_exit


async def test_a_key_is_never_logged(
    edge: Edge, keys: dict[str, str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with edge.http("alice") as http:
        session = {"mcp-session-id": (await http.post("/api/mcp", json=initialize())).headers["mcp-session-id"]}
        call = rpc("tools/call", {"name": "list_files", "arguments": {"id": "x"}}, 2)
        assert answer_of(await http.post("/api/mcp", json=call, headers=session))["result"]["isError"]
    async with edge.http("cm_wrong") as http:
        assert (await http.post("/api/mcp", json=initialize())).status_code == 401
    captured = capsys.readouterr()
    everything = caplog.text + captured.out + captured.err
    assert "request" in everything
    assert keys["alice"] not in everything
    assert "cm_wrong" not in everything
