"""Authentication: accounts, keys and tokens, and the gate that puts a `Principal` on each request or refuses it."""
