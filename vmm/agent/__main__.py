"""The entry point of the agent, started as a directory (in the guest) or as a module."""

from __future__ import annotations

import sys

if not __package__:
    # Started as a directory: become a package of that name, so that relative imports work. The parent directory goes
    # last on sys.path, where it cannot shadow any module of the standard library.
    directory, _, __package__ = sys.path.pop(0).rstrip("/").rpartition("/")
    __spec__ = None
    sys.path.append(directory or "/")

from .startup import main

main(sys.argv[1:])
