"""A server as a process of its own, VoidRun's Python clients of it, and one sandbox for each file of tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from bench.server import Server, running
from tests.clients.voidrun_package import CLAIMS, AsyncVoidRun, VoidRun, public_methods
from vmm.hypervisor.process import orphans


@pytest.fixture(scope="module")
def server(served: Path) -> Iterator[Server]:
    """A server that runs beside the tests, so that clients which block do not stop it."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running(served)) as server:
        yield server
        client = VoidRun(api_key=server.key, base_url=base_url(server))
        for left in client.list_sandboxes().sandboxes:
            left.remove()
        assert orphans(served / "instances") == {}


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    """The client that blocks."""
    return VoidRun(api_key=server.key, base_url=base_url(server))


@pytest.fixture
async def async_client(server: Server) -> AsyncGenerator[Any]:
    """The client that does not block."""
    async with AsyncVoidRun(api_key=server.key, base_url=base_url(server)) as client:
        yield client


@pytest.fixture(scope="module")
def box(client: Any) -> Iterator[Any]:
    """The sandbox of the tests of a file, by the client that blocks."""
    with client.create_sandbox(name="box", labels={"of": "tests"}) as box:
        yield box


@pytest.fixture
async def async_box(async_client: Any, box: Any) -> Any:
    """The same sandbox, by the client that does not block."""
    return await async_client.get_sandbox(box.id)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> Generator[None, object, object]:
    """Fail a test that does not call what it says it calls."""
    claimed = CLAIMS.get(pyfuncitem.function, frozenset[str]())
    called: set[str] = set()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, forms in public_methods().items():
            for kind, form in forms if name in claimed else ():
                monkeypatch.setattr(kind, form, _noting(partial(called.add, name), getattr(kind, form)))
        result = yield
    assert claimed <= called, f"the test never calls {sorted(claimed - called)}"
    return result


def base_url(server: Server) -> str:
    """The address that clients of VoidRun are given."""
    return server.url.removesuffix("/mcp")


def _noting(note: Callable[[], None], method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def noted(*arguments: Any, **named: Any) -> Any:
        note()
        return method(*arguments, **named)

    return noted
