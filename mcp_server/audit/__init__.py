"""Who did what, when, and what became of it: a record of every call on every surface."""
