"""Refusals in the words that the result of a command ends with, for the agent or person who ran it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from .log import NetworkEvent
from .policy import Policy

SHOWN = 5

_LONGEST = 100


def refusals(events: Iterable[NetworkEvent], policy: Policy) -> str:
    """Describe what was refused: a line for each destination, at most five, then how many more.

    Args:
        events: What happened during the command; allowed ones are passed over.
        policy: What refused where an event says nothing else.

    Returns:
        Lines without a final newline; empty if nothing was refused.
    """
    refused = [event for event in events if not event.allowed]
    connected = {event.host for event in refused if event.protocol != "dns"}
    lines = dict.fromkeys(
        _line(event, policy) for event in refused if event.protocol != "dns" or event.host not in connected
    )
    shown = list(lines)[:SHOWN]
    if more := len(lines) - len(shown):
        shown.append(f"[network: {more} more {'destination' if more == 1 else 'destinations'} refused]")
    return "\n".join(shown)


def _line(event: NetworkEvent, policy: Policy) -> str:
    # The guest chooses the name: it must not write lines of its own into a result.
    host = re.sub(r"[^A-Za-z0-9._:-]", "?", event.host)[:_LONGEST]
    what = replace(event, host=host).destination
    reason = event.reason or f'policy "{policy.mode}"'
    if reason.startswith("policy "):
        return f"[network: refused {what} by {reason}; to allow: update_sandbox(network=...)]"
    if "address" in reason:
        return f"[network: refused {what}, {reason}; only the server's operator can open it]"
    return f"[network: refused {what}, {reason}]"
