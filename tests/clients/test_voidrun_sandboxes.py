"""VoidRun's Python clients make sandboxes, find them, put them to sleep and remove them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from bench.server import Server
from tests.clients.conftest import base_url
from tests.clients.voidrun_package import (
    AsyncSandboxesFacade,
    AsyncVoidRun,
    Sandbox,
    SandboxesFacade,
    VoidRun,
    calls,
    errors,
)

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@calls(
    VoidRun.create_sandbox,
    VoidRun.get_sandbox,
    VoidRun.list_sandboxes,
    VoidRun.remove_sandbox,
    Sandbox.info,
)
def test_a_sandbox_has_what_it_was_created_with_until_it_is_removed(client: Any) -> None:
    labels = {"env": "prod", "team": "api"}
    box = client.create_sandbox(
        name="shop",
        cpu=1,
        mem=1024,
        region="eu",
        auto_sleep=False,
        env_vars={"GREETING": "hello"},
        labels=labels,
        ports=[{"protocol": "http", "port": 8080}],
    )
    assert box.info() is box
    for seen in (box, client.get_sandbox(box.id)):
        assert (seen.id, seen.name, seen.status, seen.image) == (box.id, "shop", "running", "code:latest")
        assert (seen.cpu, seen.mem, seen.disk_mb, seen.auto_sleep, seen.region) == (1, 1024, 10240, False, "eu")
        assert (seen.labels, not seen.node_id) == (labels, True)
        assert seen.org_id
        assert seen.created_by
        assert seen.created_at is not None
        assert seen.ports is not None
        assert [(port.protocol, port.port) for port in seen.ports] == [("http", 8080)]
    assert box.exec("echo $GREETING from $(hostname)").data.stdout == "hello from shop\n"

    listed = client.list_sandboxes(labels=labels, limit=10)
    assert [found.id for found in listed.sandboxes] == [box.id]
    meta = listed.meta
    assert (meta.total, meta.page, meta.limit, meta.total_pages) == (1, 1, 10, 1)
    assert client.list_sandboxes(labels=labels | {"env": "test"}).sandboxes == []

    client.remove_sandbox(box.id)
    with pytest.raises(errors.NotFoundException) as missing:
        client.get_sandbox(box.id)
    assert '"error":"Sandbox not found' in str(missing.value.body)
    assert client.list_sandboxes(labels=labels).meta.total == 0


@calls(
    SandboxesFacade.create,
    SandboxesFacade.list,
    SandboxesFacade.get,
    SandboxesFacade.delete,
    Sandbox.remove,
    Sandbox.delete,
)
def test_the_older_names_of_the_calls_work_as_well(client: Any) -> None:
    created = client.sandboxes.create(name="older", cpu=1, mem=1024, labels={"age": "old"})
    assert created.status_code == 201
    box = created.data
    assert client.sandboxes.get(box.id).data.name == "older"
    assert box.id in [found.id for found in client.sandboxes.list(page=1, limit=100).data]
    assert client.sandboxes.delete(box.id).data.message == "Sandbox deleted"
    for removed_again in (box.remove, box.delete):
        with pytest.raises(errors.NotFoundException):
            removed_again()


@calls(
    AsyncVoidRun.create_sandbox,
    AsyncVoidRun.get_sandbox,
    AsyncVoidRun.list_sandboxes,
    AsyncVoidRun.remove_sandbox,
    AsyncVoidRun.aclose,
    AsyncSandboxesFacade.create,
    AsyncSandboxesFacade.list,
    AsyncSandboxesFacade.get,
    AsyncSandboxesFacade.delete,
    Sandbox.remove_async,
    Sandbox.delete_async,
)
async def test_a_client_that_does_not_block_makes_and_removes_sandboxes(server: Server) -> None:
    async with AsyncVoidRun(api_key=server.key, base_url=base_url(server)) as client:
        async with await client.create_sandbox(mem=1024, cpu=1, labels={"of": "asyncio"}) as box:
            assert box.name.startswith("sdbx-")
            assert (await client.get_sandbox(box.id)).status == "running"
            found = await client.list_sandboxes(labels={"of": "asyncio"})
            assert [each.id for each in found.sandboxes] == [box.id]
        for removed_again in (box.remove_async(), box.delete_async(), client.remove_sandbox(box.id)):
            with pytest.raises(errors.NotFoundException):
                await removed_again
        created = await client.sandboxes.create(name="older")
        assert (await client.sandboxes.get(created.data.id)).data.name == "older"
        assert created.data.id in [each.id for each in (await client.sandboxes.list()).data]
        assert (await client.sandboxes.delete(created.data.id)).status_code == 200


@calls(
    Sandbox.sleep,
    Sandbox.stop,
    Sandbox.pause,
    Sandbox.wake,
    Sandbox.resume,
    Sandbox.start,
    Sandbox.update,
)
def test_a_sandbox_sleeps_and_wakes_under_all_names_of_that(client: Any, box: Any) -> None:
    box.exec("echo kept > /dev/shm/memory")
    for fall_asleep, wake_up in ((box.sleep, box.wake), (box.stop, box.resume), (box.pause, box.start)):
        assert fall_asleep().data.message == "Sandbox snapshotted"
        assert client.get_sandbox(box.id).status == "snapshotted"
        assert wake_up().data.message in {"Sandbox restored", "Sandbox started"}
        assert client.get_sandbox(box.id).status == "running"
    box.sleep()
    assert box.exec("cat /dev/shm/memory").data.stdout == "kept\n"  # a command wakes it
    for wish in (False, True):
        assert box.update(auto_sleep=wish).data.data.auto_sleep is box.auto_sleep is wish


@calls(
    Sandbox.sleep_async,
    Sandbox.stop_async,
    Sandbox.pause_async,
    Sandbox.wake_async,
    Sandbox.resume_async,
    Sandbox.start_async,
    Sandbox.update_async,
)
async def test_a_sandbox_sleeps_and_wakes_without_blocking(async_client: Any, async_box: Any) -> None:
    box = async_box
    for fall_asleep, wake_up in (
        (box.sleep_async, box.wake_async),
        (box.stop_async, box.resume_async),
        (box.pause_async, box.start_async),
    ):
        await fall_asleep()
        assert (await async_client.get_sandbox(box.id)).status == "snapshotted"
        await wake_up()
        assert (await async_client.get_sandbox(box.id)).status == "running"
    for wish in (False, True):
        assert (await box.update_async(auto_sleep=wish)).data.data.auto_sleep is box.auto_sleep is wish


@calls(
    Sandbox.get_public_urls,
    Sandbox.get_public_url,
    Sandbox.get_public_urls_async,
    Sandbox.get_public_url_async,
)
async def test_a_port_that_was_published_at_creation_opens_by_its_public_url(
    async_client: Any, client: Any, box: Any
) -> None:
    assert box.get_public_urls() == []
    ports = [{"protocol": "http", "port": 8080}, {"protocol": "http", "port": 9090}]
    with client.create_sandbox(name="site", ports=ports) as site:
        again = await async_client.get_sandbox(site.id)
        for urls in (site.get_public_urls(), await again.get_public_urls_async()):
            assert [each.port for each in urls] == [8080, 9090]
        url = site.get_public_url(8080).url
        assert (await again.get_public_url_async(9090)).port == 9090
        assert site.get_public_url(80) is None
        site.fs.upload_file("/srv/index.html", "it is up")
        site.commands.run("python3 -m http.server 8080 --directory /srv")
        site.exec("until curl -s -o /dev/null localhost:8080; do sleep 0.1; done")
        async with httpx.AsyncClient(transport=Here(), follow_redirects=True) as browser:
            assert (await browser.get(url)).text == "it is up"
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        site.get_public_urls()


class Here(httpx.AsyncHTTPTransport):
    """Finds all names below `localhost` on this machine, as browsers do."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        here = httpx.Request(
            request.method,
            request.url.copy_with(host="127.0.0.1"),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        return await super().handle_async_request(here)


@pytest.mark.parametrize(
    "wish",
    [
        {"image": "no-such-image"},
        {"labels": {"Not A Key": "x"}},
        {"ports": [{"protocol": "http", "port": 80}] * 2},
    ],
)
def test_what_a_sandbox_cannot_have_is_refused(client: Any, wish: dict[str, Any]) -> None:
    before = client.list_sandboxes().meta.total
    with pytest.raises(errors.BadRequestException) as refused:
        client.create_sandbox(name="impossible", **wish)
    problem: Any = refused.value
    assert problem.data.error
    assert client.list_sandboxes().meta.total == before


def test_a_wrong_key_is_refused(server: Server) -> None:
    stranger = VoidRun(api_key="vr_" + "x" * 43, base_url=base_url(server))
    with pytest.raises(errors.UnauthorizedException):
        stranger.list_sandboxes()
