"""Snippets to paste into clients: Cursor, Claude Code, curl."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINT = "/api/mcp"


def cursor(base_url: str) -> str:
    """Build the content of `.cursor/mcp.json`, which takes the key from the environment."""
    entry = {"url": f"{base_url}{ENDPOINT}", "headers": {"X-API-Key": "${env:CASEMATE_API_KEY}"}}
    return json.dumps({"mcpServers": {"casemate": entry}}, indent=2)


def claude_code(base_url: str, key_file: Path) -> str:
    """Build the command that adds the server to Claude Code."""
    return (
        f"claude mcp add --transport http casemate {base_url}{ENDPOINT} "
        f'--header "X-API-Key: $(cat {_quoted(key_file)})"'
    )


def export(key_file: Path) -> str:
    """Build the command that exports the key for Cursor's configuration."""
    return f'export CASEMATE_API_KEY="$(cat {_quoted(key_file)})"'


def curl(base_url: str, key_file: Path) -> str:
    """Build a command that initializes an MCP session and prints the server's answer."""
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "curl", "version": "0"},
        },
    }
    return (
        f'curl -s {base_url}{ENDPOINT} -H "X-API-Key: $(cat {_quoted(key_file)})" '
        "-H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' "
        f"-d '{json.dumps(body, separators=(',', ':'))}'"
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
