"""The MCP tools, one module per noun."""
