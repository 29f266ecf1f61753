"""What a server does first: bring the records and the machines that an earlier one left together again.

An earlier server may have been killed at any step. Its machines run on, so what stands in the record is compared with
what is there: a process, a machine that sleeps whole, or nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import structlog

from ..disk.os_errors import EXHAUSTED
from ..errors import CasemateError, Damaged
from ..machines import suspend
from ..machines.registry import Machines
from ..repeated_warnings import Complaints
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import Records
from .lifecycle import Lives

log = structlog.get_logger(__name__)

_KEEP_THEIR_FILES = (State.RUNNING, State.ASLEEP, State.KILLED, State.ERROR)
_ENDED = "its virtual machine ended while the server was down"
_BROKEN_WAKE = "the server ended while it was woken"


async def adopt(records: Records, machines: Machines, lives: Lives) -> list[Sandbox]:
    """Take over what runs, remove what belongs to nobody, and tell of what was lost.

    What goes wrong with one sandbox, or what cannot be read of it, holds up no other, and nothing of it is removed.

    Returns:
        The sandboxes that the last server put to sleep when it stopped.
    """
    complaints = Complaints()
    kept = [sandbox for state in _KEEP_THEIR_FILES for sandbox in await records.in_state(state)]
    damaged = await records.damaged()
    running = [sandbox for sandbox in kept if sandbox.state is State.RUNNING]
    asleep = [sandbox for sandbox in kept if sandbox.state is State.ASLEEP]
    failed = [sandbox for sandbox in kept if sandbox.state is State.ERROR]
    # Those that were being woken have left their sleep behind, and may run already.
    woken = [sandbox for sandbox in asleep if not suspend.is_asleep(machines.directory(sandbox.machine))]
    unread = {damage.machine for damage in damaged}
    swept = 0
    if "" in unread:
        log.warning("nothing removed: a damaged record does not say which machine is its own")
    else:
        swept = await machines.sweep(
            running={sandbox.machine for sandbox in (*running, *woken, *failed)} | unread,
            kept={sandbox.machine for sandbox in kept} | unread,
        )
    for sandbox in kept:
        await anyio.to_thread.run_sync(suspend.tidy, machines.directory(sandbox.machine))
    unfinished = [*await records.in_state(State.CREATING), *await records.in_state(State.DELETED)]
    for sandbox in unfinished:
        with complaints.about("sandbox not removed", sandbox=sandbox.id):
            await machines.destroy(sandbox.id, sandbox.machine)
            await records.remove(sandbox.id)
    adopted = 0
    for sandbox in running:
        adopted += await _each(sandbox, _take_over, machines, lives)
    for sandbox in woken:
        adopted += await _each(sandbox, _finish_wake, machines, lives)
    lost = len(running) + len(woken) - adopted
    for sandbox in failed:
        adopted += await _each(sandbox, _look_again, machines, lives)
    log.info(
        "adopted",
        machines=adopted,
        lost=lost,
        asleep=len(asleep) - len(woken),
        removed=swept + len(unfinished),
        damaged=len(damaged),
    )
    return [sandbox for sandbox in asleep if sandbox.wake_at_start]


_Step = Callable[[Sandbox, Machines, Lives], Awaitable[bool]]


async def _each(sandbox: Sandbox, step: _Step, machines: Machines, lives: Lives) -> bool:
    try:
        return await step(sandbox, machines, lives)
    except Damaged as error:
        log.warning("machine not adopted", sandbox=sandbox.id, reason=str(error))
        reason = error.message
    except CasemateError:
        raise  # the store's, or the host's: nothing is wrong with this one
    except Exception as error:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            raise
        log.exception("machine not adopted", sandbox=sandbox.id)
        reason = f"the server could not take it over ({type(error).__name__})"
    if machines.get(sandbox.id) is None:
        # Its process, if it runs, stays as it is: a server that can read the record takes it over.
        await lives.failed(sandbox, reason, holds_memory=await machines.lingers(sandbox.machine))
    return False


async def _take_over(sandbox: Sandbox, machines: Machines, lives: Lives) -> bool:
    directory = machines.directory(sandbox.machine)
    machine = await machines.adopt(sandbox.id, sandbox.machine)
    if machine is None:
        if suspend.is_asleep(directory):
            await lives.slept(sandbox.id)
            return True
        await _end_what_was_begun(sandbox, machines)
        await lives.died(sandbox.id, sandbox.machine, _ENDED)
        return False
    lives.runs(sandbox)
    try:
        # A sleep, a snapshot or a fork that was broken off left it standing still.
        await anyio.to_thread.run_sync(suspend.forget_sleep, directory)
        if await machine.driver.ailment(machine.running):
            await machine.driver.resume(machine.running)
    except CasemateError as error:
        log.warning("machine not resumed", sandbox=sandbox.id, error=error.message)
    return True


async def _finish_wake(sandbox: Sandbox, machines: Machines, lives: Lives) -> bool:
    machine = await machines.adopt(sandbox.id, sandbox.machine)
    if machine is None:
        await _end_what_was_begun(sandbox, machines)
        await lives.died(sandbox.id, sandbox.machine, _BROKEN_WAKE)
        return False
    try:
        if await machine.driver.ailment(machine.running):
            await machine.driver.resume(machine.running)
        await suspend.rejoin(machine)
        await lives.woke(sandbox.id, machine)
    except CasemateError as error:
        log.warning("machine not woken", sandbox=sandbox.id, error=error.message)
        await machines.end(sandbox.id)
        await lives.died(sandbox.id, sandbox.machine, _BROKEN_WAKE)
        return False
    return True


async def _look_again(sandbox: Sandbox, machines: Machines, lives: Lives) -> bool:
    """Take over one that could not be before, if it can be now."""
    machine = await machines.adopt(sandbox.id, sandbox.machine)
    if machine is not None:
        await lives.woke(sandbox.id, machine)
    return machine is not None


async def _end_what_was_begun(sandbox: Sandbox, machines: Machines) -> None:
    """End a machine that a server began to start and did not live to write down."""
    try:
        await machines.end_strays(sandbox.machine)
    except TimeoutError:
        log.warning("process not ended", sandbox=sandbox.id, machine=sandbox.machine)
