"""`casemate template`: templates, from which sandboxes of one image and size are cloned."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from .console import CliError, err, run
from .options import target_of
from .remote import route
from .target import open_remote
from .values import Object, as_object

app = typer.Typer(help="Templates that new sandboxes are cloned from.", no_args_is_help=True)

_MOST = 8
"""As many as a server keeps."""
_READ_S = 600.0
_DIGITS = 9


@app.callback()
def group() -> None:
    """Keep the group a group while it has one command."""


@app.command()
def prewarm(
    context: typer.Context,
    size: Annotated[
        list[str], typer.Option("--size", metavar="CPU/MIB", help="Virtual CPUs and memory; may be repeated.")
    ],
    image: Annotated[str, typer.Option("--image", metavar="IMAGE", help="Default: the server's.")] = "",
) -> None:
    """Build templates now, so that the first sandbox of a size does not wait for one; operator only."""
    sizes = list(dict.fromkeys(map(_size, size)))
    if len(sizes) > _MOST:
        raise CliError(f"--size may be given at most {_MOST} times, got {len(sizes)}: a server keeps {_MOST} templates")

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            for number, (cpu, mem) in enumerate(sizes, 1):
                err.print(f"{number} of {len(sizes)}: {cpu}/{mem}: building, unless it exists", markup=False)
                started = time.monotonic()
                body: Object = {"image": image, "cpu": cpu, "mem": mem}
                made = as_object(await remote.data("POST", route("operator", "templates"), body=body, read_s=_READ_S))
                took = time.monotonic() - started
                err.print(f"{made.get('image')} {cpu}/{mem}: ready after {took:.1f} s", markup=False)

    run(work)


def _size(text: str) -> tuple[int, int]:
    cpu, slash, mem = text.partition("/")
    if not slash or not all(part.isascii() and part.isdecimal() and len(part) <= _DIGITS for part in (cpu, mem)):
        raise CliError(f"--size must be CPU/MIB, such as 2/2048, got {text[:80]!r}")
    return int(cpu), int(mem)
