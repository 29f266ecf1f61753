"""What each signal does to machines, and the messages about it, without a server."""

from __future__ import annotations

import signal

import anyio
import pytest

from mcp_server.cli.shutdown import OnStop, Shutdown, stop_hint, stop_summary
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


class MachineRegistry:
    """Machines that fall asleep one after the other, as far as the test allows."""

    def __init__(self, count: int, *, fails: int = 0) -> None:
        self.running = count
        self.fails = fails
        self.asleep = 0
        self.one_asleep = anyio.Event()
        self.proceed = anyio.Event()

    def __len__(self) -> int:
        return self.running

    async def sleep_all(self) -> int:
        while self.running > self.fails:
            self.running -= 1
            self.asleep += 1
            self.one_asleep.set()
            await self.proceed.wait()
        return self.asleep


def sleeping_at_once(count: int, *, fails: int = 0) -> MachineRegistry:
    machines = MachineRegistry(count, fails=fails)
    machines.proceed.set()
    return machines


@pytest.mark.parametrize(
    ("on_stop", "number", "sleeps"),
    [
        ("", signal.SIGINT, True),
        ("", signal.SIGTERM, False),
        ("keep", signal.SIGINT, False),
        ("keep", signal.SIGTERM, False),
        ("sleep", signal.SIGINT, True),
        ("sleep", signal.SIGTERM, True),
    ],
)
async def test_the_operators_setting_overrides_the_signal(on_stop: OnStop, number: int, sleeps: bool) -> None:
    shutdown, machines = Shutdown(on_stop), sleeping_at_once(2)
    shutdown.handle(number)
    message = await shutdown.settle(machines)
    assert machines.asleep == (2 if sleeps else 0)
    assert message.startswith("2 machines are asleep; the next" if sleeps else "2 machines keep running; ")


async def test_a_server_that_ends_without_a_signal_leaves_machines_running() -> None:
    machines = sleeping_at_once(1)
    assert (await Shutdown("sleep").settle(machines)).startswith("1 machine keeps running")
    assert machines.asleep == 0


async def test_without_machines_there_is_nothing_to_put_to_sleep(capsys: pytest.CaptureFixture[str]) -> None:
    shutdown = Shutdown("")
    shutdown.handle(signal.SIGINT)
    assert await shutdown.settle(MachineRegistry(0)) == "Stopped; no machines are running."
    assert capsys.readouterr().err == ""


async def test_machines_that_cannot_be_put_to_sleep_are_reported() -> None:
    shutdown = Shutdown("")
    shutdown.handle(signal.SIGINT)
    message = await shutdown.settle(sleeping_at_once(3, fails=1))
    assert message == "2 machines are asleep, 1 keeps running; the next start wakes or takes over all of them."


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_stops_waiting_for_machines(second: int, capsys: pytest.CaptureFixture[str]) -> None:
    shutdown, machines = Shutdown(""), MachineRegistry(3)
    shutdown.handle(signal.SIGINT)
    messages: list[str] = []

    async def settle() -> None:
        messages.append(await shutdown.settle(machines))

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(settle)
            await machines.one_asleep.wait()
            shutdown.handle(second)
    assert messages == ["1 machine is asleep, 2 keep running; the next start wakes or takes over all of them."]
    assert "Putting 3 machines to sleep" in capsys.readouterr().err


async def test_two_signals_before_the_shutdown_leave_machines_running() -> None:
    shutdown, machines = Shutdown(""), MachineRegistry(2)
    shutdown.handle(signal.SIGINT)
    shutdown.handle(signal.SIGINT)
    with anyio.fail_after(PATIENCE_S):
        message = await shutdown.settle(machines)
    assert message.startswith(("2 machines keep running", "1 machine is asleep, 1 keeps running"))


@pytest.mark.parametrize(
    ("asleep", "alive", "message"),
    [
        (0, 0, "Stopped; no machines are running."),
        (1, 0, "1 machine is asleep; the next start wakes it."),
        (0, 1, "1 machine keeps running; the next start takes it over. To delete it: casemate sandbox rm --all"),
        (1, 1, "1 machine is asleep, 1 keeps running; the next start wakes or takes over all of them."),
    ],
)
def test_messages_use_the_singular_for_one_machine(asleep: int, alive: int, message: str) -> None:
    assert stop_summary(asleep=asleep, alive=alive) == message


def test_the_startup_message_matches_the_shutdown() -> None:
    assert "sleep" in stop_hint("")
    assert "sleep" in stop_hint("sleep")
    assert "keep running" in stop_hint("keep")
