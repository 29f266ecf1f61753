"""The variables of a spec, with those that it takes from the host."""

from __future__ import annotations

from collections.abc import Mapping


def filled_in(wanted: Mapping[str, str], host: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables for the machine, and the names of those that the host lacks, which are left out.

    Args:
        wanted: The spec's; an empty value stands for that of the host.
        host: The variables of the host.
    """
    found = {name: value or host.get(name, "") for name, value in wanted.items()}
    missing = [name for name, value in wanted.items() if not value and name not in host]
    return {name: value for name, value in found.items() if name not in missing}, missing
