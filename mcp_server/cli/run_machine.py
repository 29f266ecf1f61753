"""The machine of a run: a sandbox of the server, deleted at the end, whatever the end is."""

from __future__ import annotations

import re
import secrets
import shlex
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

import anyio

from runs.engine.machine import Ended, MachineError

from .console import CliError, note
from .errors import Missing
from .fed_command import follow_fed, send_bytes
from .output_stream import BINARY, follow
from .remote import route
from .values import Object, as_object, cell, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from runs.engine.machine import Sink
    from runs.specs.sandbox import SandboxSection

    from .output_stream import Ended as Exit
    from .remote import Remote

WORKSPACE = "/workspace"
"""The directory in which programs start, as in VoidBox; made if it is missing."""

_CREATE_S = 900
_DELETE_S = 120
_PREPARE_S = 60
_DAY_S = 86_400
_SLUG = 40
_LOOK_S = 5
_LEASE_S = 900
_RENEW_S = 120
_LOST = {"killed", "error"}


class RemoteMachine:
    """A sandbox in which programs are started over REST.

    Args:
        remote: The server.
        ref: The sandbox's id.
        cwd: The directory in which programs start.
    """

    def __init__(self, remote: Remote, ref: str, cwd: str) -> None:
        self._remote = remote
        self._cwd = cwd
        self.ref = ref

    async def run(self, argv: Sequence[str], *, stdin: bytes, timeout_s: int, sink: Sink) -> Ended:
        """Run a program to its end, as `Machine.run` says."""
        body: Object = {"command": f"exec {shlex.join(argv)}", "timeout": timeout_s or _DAY_S, "cwd": self._cwd}
        try:
            ended = await self._followed(body, stdin, sink)
        except CliError as error:
            raise MachineError(str(error)) from None
        if ended is None:
            raise MachineError(f"{self._remote.url} closed the output before it sent the program's exit status")
        return Ended(exit_code=ended.exit_code, reason=ended.reason)

    async def watch(self) -> NoReturn:
        """Wait for ever, as long as the machine is there, asleep or not.

        Raises:
            CliError: It was lost or deleted.
        """
        while True:
            await anyio.sleep(_LOOK_S)
            try:
                found = as_object(await self._remote.data("GET", route("sandboxes", self.ref)))
            except Missing:
                raise CliError(f"The sandbox {self.ref} was deleted meanwhile") from None
            if status_of(found) in _LOST:
                raise CliError(f"The machine of {self.ref} was lost: {cell(found.get('reason'))}")

    async def prepare(self) -> None:
        """Make the directory in which programs start.

        Raises:
            CliError: It cannot be made.
        """
        body: Object = {"command": shlex.join(["mkdir", "-p", "--", self._cwd]), "cwd": "/", "timeout": _PREPARE_S}
        made = as_object(await self._remote.data("POST", route("sandboxes", self.ref, "exec"), body=body))
        if made.get("exitCode"):
            raise CliError(f"--working-dir: cannot make {self._cwd}: {cell(made.get('stderr')).strip()}")

    async def _followed(self, body: Object, stdin: bytes, sink: Sink) -> Exit | None:
        if stdin:
            return await follow_fed(
                self._remote, self.ref, body, sink, lambda pid: send_bytes(self._remote, self.ref, pid, stdin)
            )
        async with self._remote.events(route("sandboxes", self.ref, "exec-stream"), body | BINARY) as output:
            return await follow(output, sink)


def wanted(sandbox: SandboxSection, env: dict[str, str]) -> Object:
    """Return the fields of a sandbox as a spec describes it.

    Args:
        sandbox: The spec's section.
        env: Variables of all programs.
    """
    fields: Object = {"network": network(sandbox.network), "envVars": env}
    if sandbox.snapshot is not None:
        return fields | {"snapshot": sandbox.snapshot}
    return fields | {"cpu": sandbox.vcpus, "mem": sandbox.memory_mb, "image": sandbox.image or ""}


def network(reachable: bool) -> str:
    """Return the policy that stands for VoidBox's switch."""
    return "internet" if reachable else "none"


@asynccontextmanager
async def open_machine(remote: Remote, name: str, fields: Object, *, cwd: str) -> AsyncGenerator[RemoteMachine]:
    """Create a sandbox, and delete it when the block ends; if this process is killed, the server does so later.

    Args:
        remote: The server.
        name: The spec's name, from which the sandbox's is made.
        fields: Further fields of the sandbox; the server decides what is left out.
        cwd: The directory in which programs start.

    Raises:
        CliError: It cannot be created.
    """
    # It never sleeps, because a time to live stands still meanwhile.
    body = {"name": f"{_slug(name)}-{secrets.token_hex(3)}", "ttl": _LEASE_S, "autoSleep": False, "sync": False}
    ref = await _create(remote, body | fields)
    failures: list[Exception] = []
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_renew, remote, ref)
            try:
                await remote.call("POST", route("sandboxes", ref, "wake"), read_s=_CREATE_S)  # waits until it runs
                machine = RemoteMachine(remote, ref, cwd)
                await machine.prepare()
                yield machine
            except Exception as error:
                failures.append(error)  # raised below, because the task group would wrap it
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await _delete(remote, ref)
    if failures:
        raise failures[0]


async def _renew(remote: Remote, ref: str) -> None:
    """Keep the sandbox from being deleted for as long as this process lives."""
    while True:
        await anyio.sleep(_RENEW_S)
        with suppress(CliError):  # there is time for further attempts
            await remote.call("PATCH", route("sandboxes", ref), body={"ttl": _LEASE_S})


async def _create(remote: Remote, body: Object) -> str:
    with anyio.CancelScope(shield=True):  # it takes a moment, and without the id nothing could be deleted
        made = as_object(await remote.data("POST", route("sandboxes"), body=body, read_s=_CREATE_S))
        return cell(made.get("id"))
    raise AssertionError  # unreachable: the block either returns or raises


async def _delete(remote: Remote, ref: str) -> None:
    try:
        await remote.call("DELETE", route("sandboxes", ref), read_s=_DELETE_S)
    except Missing:
        return
    except CliError as error:
        note(f"casemate: the sandbox {ref} is not deleted ({error}): use casemate sandbox rm {ref}")


def _slug(name: str) -> str:
    """Make a host name of a spec's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_SLUG].strip("-") or "run"
