"""Puts a machine's first secret into its initramfs, where no other user of the host can read it.

The kernel unpacks concatenated archives, so a small one with the secret is appended to the image's.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import cpio


def with_secret(source: Path, target: Path, secret: bytes) -> None:
    """Write a copy of an initramfs with the secret in hex as `/casemate/secret`; only this user can read the copy."""
    entries = (cpio.directory("casemate", 0o700), cpio.file("casemate/secret", secret.hex().encode(), 0o600))
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as image, source.open("rb") as original:
        shutil.copyfileobj(original, image)
        image.write(b"\0" * (-image.tell() % 4))
        image.write(cpio.archive(entries))
