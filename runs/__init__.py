"""Runs: machines that a file describes, with the work that is done in them. No HTTP, no MCP, no users."""
