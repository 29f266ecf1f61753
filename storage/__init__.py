"""Documents with declared indexes, over SQLite or MongoDB; the only package that knows either."""
