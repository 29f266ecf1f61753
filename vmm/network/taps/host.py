"""Switches the bridge on and off, with what belongs to it on the host, and tells how it is. All of it blocks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CasemateError, Conflict, Unavailable
from . import bridge, firewalls, nft, ruleset
from .links import find, links, netlink
from .refusals import explained, require_privilege
from .settings import TapSettings

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_TUN = Path("/dev/net/tun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that keeps taps, or their packets, from working.

    Attributes:
        detail: What was found.
        fix: The command or step that fixes it.
    """

    detail: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How the bridge is.

    Attributes:
        up: It is there, is ours, and has its tables.
        taps: How many machines are on it.
        problems: What keeps it from working.
    """

    up: bool
    taps: int
    problems: tuple[Problem, ...]


def up(settings: TapSettings, tables: str) -> None:
    """Make the bridge as it is to be, and replace its tables in one step. If that fails, nothing of it is left.

    Args:
        settings: The bridge.
        tables: What `ruleset.tables` wrote.

    Raises:
        Conflict: There is another bridge of that name, the host has a route to the network, or a device whose name
            begins like those of taps.
        Unavailable: There is no CAP_NET_ADMIN, no nft, no nf_tables, no bridges or no taps in the kernel.
    """
    require_privilege()
    if not _TUN.exists():
        raise _no_tun()
    with explained(), netlink() as kernel:
        for obstacle in bridge.obstacles(kernel, settings):
            raise obstacle
        new = find(kernel, settings.bridge) is None
        try:
            link = bridge.make(kernel, settings)
            nft.run(tables)
            if _FORWARD.read_text().strip() == "0":
                # In this order, so that it is known whatever comes between the two.
                bridge.remember_switched(kernel, link)
                _FORWARD.write_text("1")
            bridge.switch_on(kernel, link)
        except BaseException:
            if new:
                with suppress(CasemateError, OSError):
                    _remove(kernel, settings)
            raise


def down(settings: TapSettings) -> None:
    """Undo what `up` did; machines on the bridge lose their network. May be repeated.

    Raises:
        Conflict: The bridge is not ours.
        Unavailable: As of `up`.
    """
    require_privilege()
    with explained(), netlink() as kernel:
        _remove(kernel, settings)


def status(settings: TapSettings) -> Status:
    """Look how the bridge is, and what is in its way. Changes nothing.

    Raises:
        Unavailable: The kernel does not tell.
    """
    problems: list[Problem] = []
    whole = False
    try:
        require_privilege()
        problems += [Problem(detail=detail, fix=fix) for detail, fix in firewalls.closed(settings)]
        tables = {(chain["family"], chain["table"]) for chain in nft.chains()}
        whole = {("bridge", settings.bridge), ("ip", settings.bridge)} <= tables
    except CasemateError as error:
        problems.append(_problem(error))
    if not _TUN.exists():
        problems.append(_problem(_no_tun()))
    with explained(), netlink() as kernel:
        link = find(kernel, settings.bridge)
        taps = sum(1 for port in links(kernel) if link and port.master == link.index)
        problems += [_problem(obstacle) for obstacle in bridge.obstacles(kernel, settings)]
    on = link is not None and bridge.ours(link) and link.up and whole
    if on and _FORWARD.read_text().strip() == "0":
        problems.append(Problem(detail="ip_forward is off", fix="Run: sysctl -w net.ipv4.ip_forward=1"))
    return Status(up=on, taps=taps, problems=tuple(problems))


def _remove(kernel: Any, settings: TapSettings) -> None:
    link = find(kernel, settings.bridge)
    if link is not None and not bridge.ours(link):
        raise Conflict(
            f"{settings.bridge} is not Casemate's, and stays as it is",
            hint=f"If nothing needs it, run: ip link delete {settings.bridge}",
        )
    # The rules last: until then they hold for what is still on the bridge.
    if link is not None:
        bridge.remove(kernel, link)
        if bridge.switched(link):
            _FORWARD.write_text("0")
    nft.run(ruleset.removal(settings))


def _no_tun() -> Unavailable:
    return Unavailable(f"Taps need {_TUN}, which is missing", hint="Run: modprobe tun; give containers the device")


def _problem(error: CasemateError) -> Problem:
    return Problem(detail=error.message, fix=error.hint)
