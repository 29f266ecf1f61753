"""An agent on this host, and a link to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from tests.vmm.guest.agents import Agent, agent
from vmm.guest.link import GuestLink


@pytest.fixture(scope="module", params=["groups", "no groups"])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Agent]:
    """An agent that finds cgroups, and one that does not."""
    options = ("--cgroup", "none") if request.param == "no groups" else ()
    with agent(tmp_path_factory.mktemp("agent"), *options) as running:
        yield running


@pytest.fixture
async def link(guest: Agent) -> AsyncGenerator[GuestLink]:
    link = guest.link()
    yield link
    await link.aclose()


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A directory, as a path in the guest."""
    return str(tmp_path)
