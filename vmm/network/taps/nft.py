"""The program nft, which reads and writes the kernel's nftables."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

from ...errors import Unavailable
from .refusals import no_privilege

DEADLINE_S = 15.0
"""Seconds. Its work takes milliseconds; the kernel lets it wait for other changes of its tables."""

_ADMIN_PATH = "/usr/sbin:/sbin"  # where Debian has it, which is not in the PATH of plain users
_NOT_IN_KERNEL = ("Protocol not supported", "Operation not supported", "Unable to initialize Netlink socket")
_LONGEST_TEXT = 500


def run(text: str) -> None:
    """Carry out nft's commands in one transaction: all of them, or none. Blocks.

    Raises:
        Unavailable: There is no nft, no nf_tables in the kernel, or no privilege; or the kernel refuses a command.
    """
    _nft("-f", "-", text=text)


def listed(*what: str) -> list[dict[str, Any]]:
    """List what `nft list` names, as objects of nft's JSON. Blocks.

    Raises:
        Unavailable: As of `run`.
    """
    return json.loads(_nft("--json", "--terse", "list", *what))["nftables"]


def chains() -> list[dict[str, Any]]:
    """List all chains of all tables, as of `listed`."""
    return [found["chain"] for found in listed("chains") if "chain" in found]


def _nft(*arguments: str, text: str = "") -> str:
    program = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:{_ADMIN_PATH}")
    if program is None:
        raise Unavailable("Taps need the program nft, which is not installed", hint="Run: apt-get install nftables")
    try:
        done = subprocess.run(
            [program, *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
            env={"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"nft did not answer within {DEADLINE_S:.0f} s", hint="Look whether another program holds the firewall"
        ) from None
    except OSError as error:
        raise Unavailable(f"nft cannot be started: {error.strerror}", hint=f"Look at {program}") from error
    if done.returncode:
        raise _refused(done.stderr)
    return done.stdout


def _refused(text: str) -> Unavailable:
    if "Operation not permitted" in text:
        return no_privilege()
    if any(sign in text for sign in _NOT_IN_KERNEL):
        return Unavailable(
            f"Taps need nf_tables in the kernel: {_first_line(text)}",
            hint="Run: modprobe nf_tables; if that fails, use a kernel that has it",
        )
    return Unavailable(f"nft refused the rules: {text.strip()[:_LONGEST_TEXT]}")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
