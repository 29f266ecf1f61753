"""`casemate port-forward`: raw TCP from ports of this machine to ports of a sandbox, published or not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from anyio.abc import SocketAttribute
from websockets.exceptions import ConnectionClosed

from .console import CliError, note, print_errors, run
from .options import Ref, target_of
from .remote import Remote, route
from .target import open_remote
from .values import as_object, cell, check_ref

if TYPE_CHECKING:
    from anyio.abc import SocketStream, TaskStatus
    from websockets.asyncio.client import ClientConnection

_HOST = "127.0.0.1"
_PIECE = 64 * 1024
_FORM = re.compile(r"([0-9]{1,5})(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """A port of the sandbox and the port of this machine that leads to it; 0 is any free one."""

    port: int
    local: int


def port_forward(
    context: typer.Context,
    ref: Ref,
    ports: Annotated[
        list[str],
        typer.Argument(metavar="PORT[:LOCAL]...", help="Port of the sandbox, and the local port if it differs."),
    ],
) -> None:
    """Forward local TCP ports to ports of a sandbox until Ctrl-C; they need not be published.

    Only programs of this machine can connect. The sandbox stays awake while they are connected.
    """
    check_ref(ref)
    wanted = [parse_forwarding(text) for text in ports]

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            sandbox = as_object(await remote.data("GET", route("sandboxes", ref)))
            async with anyio.create_task_group() as tasks:
                for one in wanted:
                    local = await tasks.start(_listen, remote, cell(sandbox.get("id")), one)
                    note(f"{_HOST}:{local} is port {one.port} of {ref}.")

    run(work)


def parse_forwarding(text: str) -> Forwarding:
    """Parse `PORT` or `PORT:LOCAL`; a local port 0 is any free one.

    Raises:
        CliError: The text is neither.
    """
    found = _FORM.fullmatch(text)
    port, local = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= port <= 65535 or local > 65535:
        raise CliError(f"{text[:80]!r} is not PORT or PORT:LOCAL: give ports from 1 to 65535, such as 8000:9000")
    return Forwarding(port=port, local=local)


async def _listen(remote: Remote, sandbox_id: str, wanted: Forwarding, *, task_status: TaskStatus[int]) -> None:
    try:
        listener = await anyio.create_tcp_listener(local_host=_HOST, local_port=wanted.local)
    except OSError as error:
        raise CliError(
            f"Cannot listen on {_HOST}:{wanted.local} ({error.strerror}): give another local port, such as "
            f"{wanted.port}:0"
        ) from None
    path = route("sandboxes", sandbox_id, "forward", str(wanted.port))

    async def serve(client: SocketStream) -> None:
        async with client:
            try:
                async with remote.socket(path, {}) as socket:
                    await _relay(client, socket)
            except CliError as error:
                print_errors(str(error))  # The others go on.

    async with listener:
        task_status.started(listener.extra(SocketAttribute.local_port))
        await listener.serve(serve)


async def _relay(client: SocketStream, socket: ClientConnection) -> None:
    """Carry bytes both ways; an empty message is the end of a direction."""
    async with anyio.create_task_group() as tasks:

        async def out() -> None:
            try:
                async for data in client:
                    await socket.send(data)
                await socket.send(b"")
            except (anyio.BrokenResourceError, ConnectionClosed):
                tasks.cancel_scope.cancel()

        tasks.start_soon(out)
        try:
            async for message in socket:
                if not message:
                    await client.send_eof()
                    break
                await client.send(message if isinstance(message, bytes) else message.encode())
            else:
                tasks.cancel_scope.cancel()
        except (anyio.BrokenResourceError, ConnectionClosed):
            tasks.cancel_scope.cancel()
