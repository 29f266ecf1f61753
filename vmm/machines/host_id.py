"""The id of this host: it is in the data directory, and separates the host's sandboxes from those of others."""

from __future__ import annotations

import os
import re
from pathlib import Path

from storage.ids import new_id

from ..errors import Unavailable

_FILE = "host"
_ID = re.compile(r"[0-9a-f]{24}")


def host_id(data: Path) -> str:
    """Read the id of the host, or create it at the first call. Blocks on the disk.

    Raises:
        Unavailable: The file holds something else.
        OSError: The directory cannot be written.
    """
    path = data / _FILE
    if not path.exists():
        draft = path.with_name(f".{_FILE}.{os.getpid()}")
        draft.write_text(f"{new_id()}\n")
        draft.replace(path)
    found = path.read_text().strip()
    if not _ID.fullmatch(found):
        raise Unavailable(f"{path} must hold a host id", hint="Restore it from a backup: sandboxes are found by it")
    return found
