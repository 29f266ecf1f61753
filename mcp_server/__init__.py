"""The edge of Casemate: HTTP, MCP and the command line. It knows wire formats and nothing of machines."""
