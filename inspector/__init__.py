"""The MCP Inspector, pinned and configured, and a walk through a sandbox's life with it."""
