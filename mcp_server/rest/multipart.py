"""The file in a multipart form, taken out of the body as it arrives, so that the form may be as large as a raw body."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from vmm.errors import InvalidInput

_FIELD = b"file"
_HINT = "Send the file as the form's field 'file', or raw as the body"


def _ignore(_name: str) -> None:
    pass


def file_field(
    chunks: AsyncIterable[bytes], content_type: str, on_name: Callable[[str], None] = _ignore
) -> AsyncGenerator[bytes]:
    """Stream the content of the form's first field named `file`.

    Args:
        chunks: The body as it arrives.
        content_type: Its Content-Type, with the boundary.
        on_name: Called with the file's name, if the form has one, before its content.

    Raises:
        InvalidInput: The boundary is missing or invalid, which is refused at once; or the body is not a complete form
            or has no such field, which only the stream shows.
    """
    return _content(chunks, _Form(parse_options_header(content_type)[1].get(b"boundary", b""), on_name))


async def _content(chunks: AsyncIterable[bytes], form: _Form) -> AsyncGenerator[bytes]:
    async for chunk in chunks:
        for piece in form.feed(chunk):
            yield piece
    form.check_end()


class _Form:
    """The state of one form between two chunks: which field the parser is in, and what it found of the file."""

    def __init__(self, boundary: bytes, on_name: Callable[[str], None]) -> None:
        self._on_name = on_name
        if not boundary:
            raise InvalidInput("Content-Type has no boundary for the form", hint=_HINT)
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_name,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise InvalidInput(f"Content-Type is invalid: {error}", hint=_HINT) from None
        self._name = self._value = b""
        self._in_file = False
        self._found = False
        self._complete = False
        self._pieces: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """Parse the next chunk of the body, and return what it has of the file."""
        self._pieces = []
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidInput(f"The form is invalid: {error}", hint=_HINT) from None
        return self._pieces

    def check_end(self) -> None:
        """Refuse a form that broke off, or had no file."""
        if not self._complete:
            raise InvalidInput("The form is incomplete: its last boundary is missing", hint=_HINT)
        if not self._found:
            raise InvalidInput("file is required", hint=_HINT)

    def _begin_part(self) -> None:
        self._name = self._value = b""

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition" and not self._found:
            options = parse_options_header(self._value)[1]
            self._in_file = self._found = options.get(b"name") == _FIELD
            if self._found and b"filename" in options:
                self._on_name(options[b"filename"].decode("utf-8", "replace"))
        self._name = self._value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._pieces.append(data[start:end])

    def _end_part(self) -> None:
        self._in_file = False

    def _end(self) -> None:
        self._complete = True
