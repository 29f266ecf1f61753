"""Document storage with declared indexes on SQLite or MongoDB; the only package that imports their drivers."""
