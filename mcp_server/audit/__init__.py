"""The audit: a record of every call over MCP and REST, with caller, time and outcome."""
