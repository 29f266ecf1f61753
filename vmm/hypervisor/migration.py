"""QEMU's migration to and from files: how to save a machine's state and load it.

Source: docs/devel/migration.rst of QEMU 7.2. The capability `x-ignore-shared` leaves memory in the file that it is
mapped from; it must be the same on both ends of one save and load. QEMU gets the files as descriptors.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio

from .qmp import Qmp, QmpError

_NAME = "state"
_POLL_S = 0.002
_DEVICES_S = 60.0
_MEMORY_S = 600.0
_CANCEL_S = 10.0
# QEMU's default rate is meant for networks: half a minute per GiB.
_BYTES_PER_S = 1 << 40
_OVER = {"completed", "failed", "cancelled"}


async def write_out(control: Qmp, path: Path, *, memory: bool) -> None:
    """Write a paused machine's state into a new file.

    Args:
        control: Its control socket.
        path: The file; removed if this fails.
        memory: Whether to write the memory too, even if it could stay in its own file.

    Raises:
        QmpError: It could not be written; the message ends with QEMU's reason. The machine stays paused.
    """
    limit_s = _MEMORY_S if memory else _DEVICES_S
    await cancel(control)
    # Set each time, because an earlier load or save may have used the other value.
    await _stay_in_file(control, stay=not memory)
    await control.run("migrate-set-parameters", {"max-bandwidth": _BYTES_PER_S})
    await control.pass_file(_NAME, path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        await control.run("migrate", {"uri": f"fd:{_NAME}"})
        await _completed(control, limit_s)
    except BaseException:
        with anyio.CancelScope(shield=True):
            # Otherwise it would write while the guest runs, and block the next save. If cancelling fails, the first
            # error says why.
            with suppress(QmpError):
                await cancel(control)
            await anyio.Path(path).unlink(missing_ok=True)
        raise


async def cancel(control: Qmp) -> None:
    """Cancel a save that still runs in the background after its server was killed. A no-op if there is none.

    When finished, it would pause the guest again.

    Raises:
        QmpError: It does not end.
    """
    if (await control.run("query-migrate")).get("status", "none") in {"none", *_OVER}:
        return
    await control.run("migrate_cancel")
    with anyio.move_on_after(_CANCEL_S):
        await _outcome(control)
        return
    raise QmpError(f"The hypervisor did not end an earlier save within {_CANCEL_S:g} s")


async def read_in(control: Qmp, path: Path, *, memory: bool) -> None:
    """Read a state into a QEMU that was started with `-incoming defer`; the guest does not run yet.

    Args:
        control: Its control socket.
        path: What `write_out` wrote.
        memory: The same as for `write_out`.

    Raises:
        QmpError: The state does not fit the machine, or takes too long.
    """
    limit_s = _MEMORY_S if memory else _DEVICES_S
    await _stay_in_file(control, stay=not memory)
    await control.pass_file(_NAME, path, os.O_RDONLY)
    await control.run("migrate-incoming", {"uri": f"fd:{_NAME}"})
    with anyio.move_on_after(limit_s):
        while (await control.run("query-status"))["status"] == "inmigrate":
            await anyio.sleep(_POLL_S)
        return
    raise QmpError(f"The hypervisor did not load the state within {limit_s:g} s")


async def _stay_in_file(control: Qmp, *, stay: bool) -> None:
    capability = {"capability": "x-ignore-shared", "state": stay}
    await control.run("migrate-set-capabilities", {"capabilities": [capability]})


async def _completed(control: Qmp, limit_s: float) -> None:
    with anyio.move_on_after(limit_s):
        outcome = await _outcome(control)
        if outcome["status"] == "completed":
            return
        raise QmpError(f"The hypervisor could not save the machine: {outcome.get('error-desc', 'no reason given')}")
    raise QmpError(f"The hypervisor did not save the machine within {limit_s:g} s")


async def _outcome(control: Qmp) -> dict[str, Any]:
    while (outcome := await control.run("query-migrate")).get("status") not in _OVER:
        await anyio.sleep(_POLL_S)
    return outcome
