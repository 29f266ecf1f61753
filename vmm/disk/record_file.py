"""What the host's files hold, read back: whole and of a known format, or damaged, which is told and harms nothing else.

Every file names the format that it was written in. Fields that are not known are passed over, so that a file of a
later release of the same format is read; one of a later format, or without a field that is needed, is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar, cast

from ..errors import Damaged
from .os_errors import EXHAUSTED, translate_os_error

T = TypeVar("T")

FORMAT = "format"
"""The field that holds the number of the format; a file without it is of the first one."""
_FIRST = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFile:
    """The fields of one file, or of an object in it.

    Attributes:
        path: The file.
        fields: What it holds.
        hint: What to do if it is damaged.
    """

    path: Path
    fields: Mapping[str, object]
    hint: str

    @classmethod
    def read(cls, path: Path, *, newest: int, hint: str) -> Self | None:
        """Read a file back; None if there is none. Blocks for as long as a disk does.

        Args:
            path: The file.
            newest: The format that is written today; older ones are read.
            hint: What to do if it is damaged.

        Raises:
            Damaged: It cannot be read.
            HostExhausted: Nothing can be read at the moment.
        """
        empty = cls(path=path, fields={}, hint=hint)
        try:
            fields: object = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise translate_os_error(error, path.name, path) from error
            raise empty.damaged(f"it cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise empty.damaged("it is not JSON") from error
        if not isinstance(fields, dict):
            raise empty.damaged("it holds no object")
        written = cls(path=path, fields=cast("dict[str, object]", fields), hint=hint)
        found = written.number(FORMAT, _FIRST)
        if found > newest:
            raise written.damaged(f"it is of format {found}, this release knows {newest}: use the newer release")
        return written

    def text(self, name: str, missing: str | None = None) -> str:
        """A text.

        Raises:
            Damaged: It is something else, or missing where nothing is given for that.
        """
        return self._field(name, str, missing)

    def number(self, name: str, missing: int | None = None) -> int:
        """A whole number; raises as `text`."""
        found = self._field(name, int, missing)
        if isinstance(found, bool):
            raise self.damaged(f"its {name} is no number")
        return found

    def secret(self, name: str) -> bytes:
        """Bytes, which stand there in hex; raises as `text`."""
        try:
            return bytes.fromhex(self.text(name))
        except ValueError:
            raise self.damaged(f"its {name} is not in hex") from None

    def texts(self, name: str) -> dict[str, str]:
        """Texts by name, none if they are missing; raises as `text`."""
        found = self._field(name, dict, {})
        if not all(isinstance(value, str) for value in found.values()):
            raise self.damaged(f"its {name} holds something else than texts")
        return found

    def part(self, name: str) -> Self:
        """An object within; raises as `text`."""
        fields = cast("dict[str, object]", self._field(name, dict, None))
        return type(self)(path=self.path, fields=fields, hint=self.hint)

    def damaged(self, what: str) -> Damaged:
        """That the file is damaged, and in which way."""
        return Damaged(f"{self.path.parent.name}/{self.path.name} is damaged: {what}", hint=self.hint)

    def _field(self, name: str, kind: type[T], missing: T | None) -> T:
        found = self.fields.get(name, missing)
        if found is None:
            raise self.damaged(f"it has no {name}")
        if not isinstance(found, kind):
            raise self.damaged(f"its {name} is of another kind")
        return found
