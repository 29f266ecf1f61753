"""Tells a model in one line what its sandboxes may connect to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.network.gateway import TAPS
from vmm.network.policy import Mode

if TYPE_CHECKING:
    from vmm.network.policy import Policy

_MOST = 160


def reach(default: Policy, way: str) -> str:
    """Describe the policy of sandboxes that are created without one.

    Args:
        default: The policy.
        way: How most sandboxes of this host reach the network.
    """
    return f"{_allowed(default, way)} create_sandbox(network=...) sets another policy."


def _allowed(policy: Policy, way: str) -> str:
    match policy.mode:
        case Mode.NONE:
            return "They have no network."
        case Mode.INTERNET if way == TAPS:
            return "They reach the internet, but no private addresses."
        case Mode.INTERNET | Mode.LEARN:
            return "They reach the internet by TCP, but no private addresses."
        case Mode.PACKAGES:
            return "They reach package registries, and nothing else."
        case Mode.ALLOW:
            text = policy.text().replace(",", ", ")
            shown = text if len(text) <= _MOST else f"{text[:_MOST]}…"
            return f"They reach only {shown}."
