"""The agent's calls about archives in files, made without a host: what they answer, and what they leave behind."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from vmm.agent import frames
from vmm.agent.archive_files import ArchiveFiles
from vmm.agent.arguments import Arguments
from vmm.agent.channel import Channel, ClosedError
from vmm.agent.service import Handler


def compress(path: Path | str, form: str) -> dict[str, Any]:
    """Make an archive of a path."""
    return _answer(ArchiveFiles().compress, path=str(path), format=form)


def extract(archive: Path, target: Path) -> dict[str, Any]:
    """Unpack an archive."""
    return _answer(ArchiveFiles().extract, archive=str(archive), target=str(target))


def left_behind(place: Path) -> list[Path]:
    """What the agent works in, which must be gone afterwards."""
    return [path for path in place.rglob("*") if path.name.startswith(".casemate-")]


def _answer(call: Handler, **values: str) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        call(Channel(theirs), Arguments(values))
        host = Channel(ours)
        try:
            while True:
                kind, payload = host.receive()
                if kind == frames.RESULT:
                    return frames.unpack_json(payload)
                assert (kind, payload) == (frames.DATA, b"")
        except ClosedError:
            raise AssertionError("there is no answer") from None
