"""The one file of a small multipart form; large files come as raw bodies, which are streamed."""

from __future__ import annotations

from email.message import Message

from starlette.exceptions import HTTPException

from vmm.errors import InvalidInput

MAX_FILE = 5 * 1024 * 1024
"""Bytes of the file."""
MAX_FORM = MAX_FILE + 64 * 1024
"""Bytes of the form."""

_HINT = "Send the file as the form's field 'file', or raw as the body"


def file_of(form: bytes, content_type: str) -> bytes:
    """The content of the field `file`.

    Args:
        form: The whole body.
        content_type: Its Content-Type, with the boundary.

    Raises:
        InvalidInput: It is no form, or it has no such field.
        HTTPException: The file is too large (413).
    """
    boundary = _parameter(content_type, "boundary")
    if not boundary:
        raise InvalidInput("Content-Type: the form names no boundary", hint=_HINT)
    # Between two delimiters is a part; what is before the first and after the last is nothing.
    parts = (b"\r\n" + form).split(b"\r\n--" + boundary.encode("latin-1", "replace"))
    if len(parts) < 3 or not parts[-1].startswith(b"--"):
        raise InvalidInput("The form is not complete", hint=_HINT)
    for part in parts[1:-1]:
        head, separator, content = part.partition(b"\r\n\r\n")
        if separator and _parameter(_disposition(head), "name") == "file":
            if len(content) > MAX_FILE:
                raise HTTPException(413, f"The file has {len(content)} bytes, a form takes {MAX_FILE}: send it raw")
            return content
    raise InvalidInput("file is required", hint=_HINT)


def _disposition(head: bytes) -> str:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            return value.strip()
    return ""


def _parameter(header: str, name: str) -> str:
    message = Message()
    message["content-type"] = " ".join(header.split())
    value = message.get_param(name)
    return value if isinstance(value, str) else ""
