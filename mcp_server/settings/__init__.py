"""Everything that an operator may set, read once from the environment, with refusals that say the way out."""

from __future__ import annotations

from .model import Reading, Settings, default_data
from .names import PREFIX
from .refusals import SettingsRefused

__all__ = ["PREFIX", "Reading", "Settings", "SettingsRefused", "default_data"]
