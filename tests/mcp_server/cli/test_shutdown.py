"""What a signal means for machines, and what is said: each case, without a server."""

from __future__ import annotations

import signal

import anyio
import pytest

from mcp_server.cli.shutdown import OnStop, Shutdown, stop_hint, stop_summary
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


class MachineRegistry:
    """Machines that fall asleep one after the other, when told how far they may go."""

    def __init__(self, count: int, *, fails: int = 0) -> None:
        self.running = count
        self.fails = fails
        self.asleep = 0
        self.one_sleeps = anyio.Event()
        self.go_on = anyio.Event()

    def __len__(self) -> int:
        return self.running

    async def sleep_all(self) -> int:
        while self.running > self.fails:
            self.running -= 1
            self.asleep += 1
            self.one_sleeps.set()
            await self.go_on.wait()
        return self.asleep


def at_once(count: int, *, fails: int = 0) -> MachineRegistry:
    machines = MachineRegistry(count, fails=fails)
    machines.go_on.set()
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
async def test_the_operators_word_overrules_what_the_signal_means(on_stop: OnStop, number: int, sleeps: bool) -> None:
    stopping, machines = Shutdown(on_stop), at_once(2)
    stopping.handle(number)
    said = await stopping.settle(machines)
    assert machines.asleep == (2 if sleeps else 0)
    assert said.startswith("2 machines sleep; the next start wakes them." if sleeps else "2 machines live on; ")


async def test_a_server_that_ends_without_a_signal_leaves_machines_alone() -> None:
    machines = at_once(1)
    assert (await Shutdown("sleep").settle(machines)).startswith("1 machine lives on")
    assert machines.asleep == 0


async def test_without_machines_nothing_is_put_to_sleep(capsys: pytest.CaptureFixture[str]) -> None:
    stopping = Shutdown("")
    stopping.handle(signal.SIGINT)
    assert await stopping.settle(MachineRegistry(0)) == "Stopped; no machine runs."
    assert capsys.readouterr().err == ""


async def test_what_cannot_be_put_to_sleep_is_told() -> None:
    stopping = Shutdown("")
    stopping.handle(signal.SIGINT)
    said = await stopping.settle(at_once(3, fails=1))
    assert said == "2 machines sleep, 1 lives on; the next start has all of them run."


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_waits_for_no_more_machines(second: int, capsys: pytest.CaptureFixture[str]) -> None:
    stopping, machines = Shutdown(""), MachineRegistry(3)
    stopping.handle(signal.SIGINT)
    said: list[str] = []

    async def settle() -> None:
        said.append(await stopping.settle(machines))

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(settle)
            await machines.one_sleeps.wait()
            stopping.handle(second)
    assert said == ["1 machine sleeps, 2 live on; the next start has all of them run."]
    assert "Putting 3 machines to sleep" in capsys.readouterr().err


async def test_two_signals_before_it_begins_put_nothing_to_sleep() -> None:
    stopping, machines = Shutdown(""), MachineRegistry(2)
    stopping.handle(signal.SIGINT)
    stopping.handle(signal.SIGINT)
    with anyio.fail_after(PATIENCE_S):
        said = await stopping.settle(machines)
    assert said.startswith(("2 machines live on", "1 machine sleeps, 1 lives on"))


@pytest.mark.parametrize(
    ("asleep", "alive", "said"),
    [
        (0, 0, "Stopped; no machine runs."),
        (1, 0, "1 machine sleeps; the next start wakes it."),
        (0, 1, "1 machine lives on; the next start takes it over. To end it: casemate sandbox rm --all"),
        (1, 1, "1 machine sleeps, 1 lives on; the next start has all of them run."),
    ],
)
def test_one_machine_is_spoken_of_as_one(asleep: int, alive: int, said: str) -> None:
    assert stop_summary(asleep=asleep, alive=alive) == said


def test_the_beginning_promises_what_the_end_does() -> None:
    assert "sleep" in stop_hint("")
    assert "sleep" in stop_hint("sleep")
    assert "live on" in stop_hint("keep")
