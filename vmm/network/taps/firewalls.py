"""Other firewalls of the host, which may drop what ours lets pass: a packet needs the consent of all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from . import nft
from .settings import TapSettings

_PACKETS = {"forward": "Packets of sandboxes to the network", "input": "Packets of sandboxes to the server"}
"""By the hook that lets them pass or not."""
_CLOSING = frozenset({"drop", "reject"})
_FAMILIES = frozenset({"ip", "inet"})
_DOCKER = "DOCKER-USER"


def closed(settings: TapSettings) -> Iterator[tuple[str, str]]:
    """Look for base chains that drop or reject what no rule of theirs accepts, and do not know our bridge. Blocks.

    Returns:
        What was found, and how to let the bridge pass.

    Raises:
        Unavailable: As of `nft.run`.
    """
    bases = [chain for chain in nft.chains() if chain.get("hook") in _PACKETS]
    tables = {(base["family"], base["table"]) for base in bases if base["family"] in _FAMILIES}
    for family, table in sorted(tables - {("ip", settings.bridge)}):
        listed = nft.listed("table", family, table)
        if f'"{settings.bridge}"' in json.dumps(listed):
            continue  # somebody has let it pass, or keeps it out on purpose
        chains = {found["chain"]["name"] for found in listed if "chain" in found}
        for base in bases:
            if (base["family"], base["table"]) == (family, table) and _closes(base, listed):
                detail = f"{_PACKETS[base['hook']]} are dropped by chain {base['name']} of table {family} {table}"
                yield detail, _fix(settings.bridge, base, docker=_DOCKER in chains and base["hook"] == "forward")


def _closes(base: dict[str, Any], listed: list[dict[str, Any]]) -> bool:
    rules = [found["rule"] for found in listed if "rule" in found and found["rule"]["chain"] == base["name"]]
    statements = [next(iter(expression)) for expression in rules[-1]["expr"]] if rules else []
    last = [statement for statement in statements if statement != "counter"]
    return base.get("policy") == "drop" or (len(last) == 1 and last[0] in _CLOSING)


def _fix(bridge: str, base: dict[str, Any], *, docker: bool) -> str:
    name = _DOCKER if docker else base["name"]
    ways = ("iifname", "oifname") if base["hook"] == "forward" else ("iifname",)
    insert = f"nft insert rule {base['family']} {base['table']} {name}"
    return "Run: " + "; ".join(f"{insert} {way} {bridge} accept" for way in ways)
