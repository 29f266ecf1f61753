"""What people paste."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from mcp_server import snippets

URL = "http://127.0.0.1:33944"
KEY = Path("/home/some one/key")


def test_cursor_reads_the_key_from_the_environment() -> None:
    server = json.loads(snippets.cursor(URL))["mcpServers"]["casemate"]
    assert server == {"url": f"{URL}/api/mcp", "headers": {"X-API-Key": "${env:CASEMATE_API_KEY}"}}


def test_claude_code_gets_one_line() -> None:
    line = snippets.claude_code(URL, Path("/var/lib/casemate/key"))
    assert line == (
        "claude mcp add --transport http casemate http://127.0.0.1:33944/api/mcp "
        '--header "X-API-Key: $(cat /var/lib/casemate/key)"'
    )


def test_a_path_with_blanks_is_quoted() -> None:
    assert "$(cat '/home/some one/key')" in snippets.claude_code(URL, KEY)
    assert "'/home/some one/key'" in snippets.export(KEY)


def test_curl_posts_json_that_can_be_parsed() -> None:
    words = shlex.split(snippets.curl(URL, Path("/k")))
    assert words[:3] == ["curl", "-s", f"{URL}/api/mcp"]
    assert json.loads(words[-1])["method"] == "initialize"
