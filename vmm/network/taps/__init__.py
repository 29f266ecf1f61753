"""The way out by a tap: the kernel forwards what needs no names, and hands every other connection to the server."""
