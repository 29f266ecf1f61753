"""Start the agent, be it as the directory that it is in the guest, or as a module."""

from __future__ import annotations

import sys

if not __package__:
    # Started as a directory: be a package of that name, so that the modules find each other as they do elsewhere. The
    # directory above goes last on the path, where it cannot stand in for anything of the standard library.
    directory, _, __package__ = sys.path.pop(0).rstrip("/").rpartition("/")
    __spec__ = None
    sys.path.append(directory or "/")

from .startup import main

main(sys.argv[1:])
