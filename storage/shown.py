"""A value as an error text shows it; here because every package may import the storage package."""


def shown(value: object, limit: int = 80) -> str:
    """Shorten a value for an error text: quoted, on one line, and cut to `limit` characters."""
    if isinstance(value, int) and value.bit_length() > 4 * limit:  # Python refuses to write out very long integers
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
