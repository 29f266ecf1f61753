"""HTTP middleware and helpers shared by MCP and REST: guards, ids, logs, error bodies, sessions."""
