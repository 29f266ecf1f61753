"""Runs the command line in processes that are forked from one in which it is loaded already.

What `casemate` does is the same; that it need not be loaded anew makes ten commands out of one in the same time.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["mcp_server.cli", "mcp_server.cli.temporary_server"])


async def run_forked(
    arguments: Sequence[str], *, stdin: bytes, env: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[bytes]:
    """Run `casemate` to its end; killed if the wait for it is given up."""
    with TemporaryDirectory() as place:
        files = [Path(place, name) for name in ("stdin", "stdout", "stderr")]
        files[0].write_bytes(stdin)
        process = _CONTEXT.Process(target=_casemate, args=(list(arguments), files, dict(env), cwd))
        process.start()
        try:
            # Starting another one looks after all children: in two threads both would read the one status there is.
            await anyio.wait_readable(process.sentinel)
            process.join()
        finally:
            status = _ended(process)
        return subprocess.CompletedProcess(arguments, status, files[1].read_bytes(), files[2].read_bytes())


def _ended(process: ForkServerProcess) -> int:
    if process.exitcode is None:
        process.kill()
        process.join()
    status = process.exitcode
    assert status is not None
    process.close()
    return status


def _casemate(arguments: list[str], files: list[Path], env: dict[str, str], cwd: Path) -> None:
    flags = (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)
    for number, (file, flag) in enumerate(zip(files, flags, strict=True)):
        os.dup2(os.open(file, flag, 0o600), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 -- by descriptor
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["casemate", *arguments]
    from mcp_server.cli import main  # noqa: PLC0415 -- loaded once, in the process that this one is forked from

    main()
