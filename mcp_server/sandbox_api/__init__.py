"""Sandbox-api's REST API and MCP endpoint: sessions that their callers name, over the fleet."""
