"""The operator's settings, read once from the environment and validated."""

from __future__ import annotations

from .model import Reading, Settings, default_data
from .names import PREFIX
from .refusals import SettingsRefused

__all__ = ["PREFIX", "Reading", "Settings", "SettingsRefused", "default_data"]
