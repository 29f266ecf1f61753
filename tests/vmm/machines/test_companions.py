"""What runs beside a machine: a sandbox waits for its policy, unless that is in vain."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import anyio
import pytest

from tests.waiting import PATIENCE_S, until
from vmm.errors import Unavailable
from vmm.machines import companions
from vmm.machines.companions import Companions
from vmm.machines.machine import Machine

pytestmark = pytest.mark.anyio

BOX = "b" * 24


MACHINE = cast("Machine", object())


async def test_a_sandbox_waits_for_its_policy_though_the_host_refuses_it_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(companions, "IN_FORCE_S", PATIENCE_S)
    tried: list[str] = []

    async def serve(sandbox_id: str, machine: Machine, in_force: Callable[[], None]) -> None:
        assert machine is MACHINE
        tried.append(sandbox_id)
        if len(tried) == 1:
            raise Unavailable("the host is busy")
        in_force()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        made = Companions({"not served": serve}, tasks)
        made.begin(BOX, MACHINE)
        await made.in_force(BOX)
        assert tried == [BOX] * 2
        made.end(BOX)


async def test_a_sandbox_whose_policy_the_host_never_takes_is_given_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(companions, "IN_FORCE_S", 0.01)
    async with anyio.create_task_group() as tasks:
        made = Companions({"not served": _never}, tasks)
        made.begin(BOX, MACHINE)
        await made.in_force(BOX)
        made.end(BOX)


async def test_nobody_waits_for_a_sandbox_whose_machine_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(companions, "IN_FORCE_S", PATIENCE_S)
    waited: list[str] = []

    async def wait() -> None:
        await made.in_force(BOX)
        waited.append(BOX)

    async with anyio.create_task_group() as tasks:
        made = Companions({"not served": _never}, tasks)
        await wait()
        made.begin(BOX, MACHINE)
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert len(waited) == 1
        made.end(BOX)
        await until(lambda: len(waited) == 2)


async def _never(_sandbox_id: str, _machine: Machine, _in_force: Callable[[], None]) -> None:
    await anyio.sleep_forever()
