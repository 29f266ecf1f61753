"""Sandboxes as virtual machines: no HTTP, no MCP, no users; an owner is an opaque id."""
