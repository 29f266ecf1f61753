"""`casemate shell`: open or attach to a terminal session in a sandbox."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from websockets.exceptions import ConnectionClosed

from .console import CliError, note, run
from .escapes import Escapes
from .options import Ref, target_of
from .remote import Query, Remote, route
from .target import open_remote
from .terminal import Terminal
from .values import Object, as_object, check_ref

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from websockets.asyncio.client import ClientConnection

_EXIT = re.compile(r"exit:(-?\d{1,3})")
_NORMAL = 1000
_CLEAN_UP_S = 5


def shell(
    context: typer.Context,
    ref: Ref,
    command: Annotated[str, typer.Option("--command", help="Command to run instead of the login shell.")] = "",
    attach: Annotated[str, typer.Option("--attach", metavar="SESSION", help="Attach to an existing session.")] = "",
) -> None:
    """Open a terminal session in a sandbox and exit with its status, or with 2 on an error of casemate.

    Enter ~ . detaches from the session, which keeps running; attach again with --attach. Enter ~ ~ sends a tilde.
    """
    check_ref(ref)
    if command and attach:
        raise CliError("--command and --attach cannot be combined: give one of them")
    if attach:
        check_ref(attach, "session")
    terminal = Terminal.own()

    async def work() -> int:
        async with open_remote(target_of(context)) as remote:
            session = attach or await _opened(remote, ref, command, terminal)
            return await _Attachment(remote, ref, session, terminal).run()

    raise typer.Exit(run(work))


async def _opened(remote: Remote, ref: str, command: str, terminal: Terminal) -> str:
    cols, rows = terminal.size()
    body: Object = {"cols": cols, "rows": rows} | ({"command": command} if command else {})
    session = as_object(await remote.data("POST", route("sandboxes", ref, "pty", "sessions"), body=body)).get(
        "sessionId"
    )
    if not isinstance(session, str) or not session:
        raise CliError(f"{remote.url} sent no session id: does it run another version of Casemate?")
    return session


class _Attachment:
    """An attachment to a session, until the session ends or the user detaches."""

    def __init__(self, remote: Remote, ref: str, session: str, terminal: Terminal) -> None:
        self._remote = remote
        self._ref = ref
        self._session = session
        self._terminal = terminal
        self._path = route("sandboxes", ref, "pty", "sessions", session)
        self._status: int | None = None
        self._detached = False

    async def run(self) -> int:
        """Forward keys and output; return the exit status."""
        try:
            await self._forward()
        except anyio.get_cancelled_exc_class():
            await self._close()
            raise
        if self._detached:
            note(f"Detached; the session keeps running. To return: casemate shell {self._ref} --attach {self._session}")
            return 0
        if self._status is None:
            raise CliError(
                f"Lost the connection to {self._remote.url}: if the session still runs, return with "
                f"casemate shell {self._ref} --attach {self._session}"
            )
        await self._close()
        return self._status

    async def _forward(self) -> None:
        async with self._remote.socket(self._path, self._query()) as socket:
            with self._terminal.raw():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._keep_size)
                    tasks.start_soon(self._type, socket, tasks)
                    await self._show(socket)
                    tasks.cancel_scope.cancel()

    def _query(self) -> Query:
        cols, rows = self._terminal.size()
        return {"binary": "true", "cols": cols, "rows": rows}

    async def _show(self, socket: ClientConnection) -> None:
        try:
            async for message in socket:
                await self._terminal.write(message if isinstance(message, bytes) else message.encode())
        except ConnectionClosed:
            pass  # The close code and reason are read below in either case.
        found = _EXIT.fullmatch(socket.close_reason or "")
        if found is not None and socket.close_code == _NORMAL:
            self._status = int(found[1]) % 256

    async def _type(self, socket: ClientConnection, tasks: TaskGroup) -> None:
        escapes = Escapes()
        try:
            async for typed in self._terminal.keys():
                sent, self._detached = escapes.feed(typed)
                if sent:
                    await socket.send(sent)
                if self._detached:
                    break
        except ConnectionClosed:
            return
        tasks.cancel_scope.cancel()

    async def _keep_size(self) -> None:
        async for cols, rows in self._terminal.sizes():
            try:
                await self._remote.call("POST", f"{self._path}/resize", body={"cols": cols, "rows": rows})
            except CliError:
                continue  # Either the session is ending, or the next change of size will get through.

    async def _close(self) -> None:
        """Close the session on the server."""
        with anyio.move_on_after(_CLEAN_UP_S, shield=True):
            try:
                await self._remote.call("DELETE", self._path)
            except CliError:
                return  # The session or the server is gone already.
