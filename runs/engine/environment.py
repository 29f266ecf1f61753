"""The variables of a spec, with those that it takes from the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The variables for a machine.

    Attributes:
        variables: All of them, by name.
        taken: The names of those whose value is the host's.
        missing: The names of those that the host lacks, which are left out.
    """

    variables: dict[str, str]
    taken: tuple[str, ...]
    missing: tuple[str, ...]

    @classmethod
    def of(cls, wanted: Mapping[str, str], host: Mapping[str, str]) -> Environment:
        """Fill in the variables of a spec.

        Args:
            wanted: The spec's; an empty value stands for that of the host.
            host: The variables of the host.
        """
        empty = [name for name, value in wanted.items() if not value]
        missing = tuple(name for name in empty if name not in host)
        return cls(
            variables={name: value or host[name] for name, value in wanted.items() if name not in missing},
            taken=tuple(name for name in empty if name in host),
            missing=missing,
        )
