"""Drives the Inspector's command line through a sandbox's life, in both protocol eras.

    python inspector/smoke.py http://127.0.0.1:33944/api/mcp KEY-FILE

Needs `npm ci --ignore-scripts` in this directory, and a server. Exits with 0 when every step went as it should.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_LAUNCHER = HERE / "node_modules/.bin/mcp-inspector"
_STEP_S = 300

OK, FAILED, AUTH, UNREACHABLE, TOOL_ERROR = 0, 1, 3, 4, 5
"""The Inspector's exit codes."""


class SmokeError(Exception):
    """A step did not go as it should."""


@dataclass(frozen=True, slots=True)
class Inspector:
    """The Inspector's command line, against one server in one era."""

    node: str
    url: str
    key: str
    era: str

    def run(self, method: str, *options: str, expect: int = OK) -> dict[str, Any]:
        """Run one method and return the result that it printed; {} where it printed none."""
        command = [
            *(self.node, str(_LAUNCHER.resolve()), "--cli", self.url, "--transport", "http"),
            *("--header", f"X-API-Key: {self.key}", "--stored-auth-only", "--protocol-era", self.era),
            *("--format", "json", "--method", method, *options),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_STEP_S, check=False)
        if done.returncode != expect:
            said = f"{done.stdout[-600:]}{done.stderr[-600:]}".replace(self.key, "…")
            raise SmokeError(f"{method} {' '.join(options)}: exit {done.returncode}, not {expect}: {said}")
        start = done.stdout.find("{")
        return json.loads(done.stdout[start:])["result"] if start >= 0 else {}

    def call(self, tool: str, *, expect: int = OK, **arguments: object) -> str:
        """Call a tool and return its text."""
        options = ("--tool-name", tool, "--tool-args-json", json.dumps(arguments))
        result = self.run("tools/call", *options, expect=expect)
        return result["content"][0]["text"]


def walk(inspector: Inspector) -> None:
    """A sandbox's life: create, exec, files, a terminal's screen, undo, copies, delete; then what must fail."""
    tools = {tool["name"] for tool in inspector.run("tools/list")["tools"]}
    _expect("create_sandbox" in tools and "terminal_snapshot" in tools, "tools/list names the tools", str(tools))
    name = f"smoke-{inspector.era}"
    sandbox = json.loads(inspector.call("create_sandbox", name=name))
    _expect(sandbox["status"] == "running", "a new sandbox runs", str(sandbox))
    box = sandbox["id"]
    try:
        _says(inspector.call("execute_command", id=box, command="echo $((6 * 7)); exit 3"), "42", "exit 3")
        _says(inspector.call("run_code", id=name, language="python", code="print('snake', 1 + 1)"), "snake 2")
        _says(
            inspector.call("run_code", id=name, language="typescript", code="const n: number = 4\nconsole.log(n)"), "4"
        )
        inspector.call("write_file", id=box, path="/root/a/b.txt", content="one\n" + '{"two": 2}\n')
        _says(inspector.call("read_file", id=box, path="/root/a/b.txt"), "one", '{"two": 2}')
        _says(inspector.call("list_files", id=box, path="/root/a"), "b.txt")
        opened = inspector.call("terminal_open", id=box, cols=60, rows=10)
        found = re.search(r"terminal_id (\S+)", opened)
        _expect(found is not None, "a terminal has an id", opened)
        assert found is not None
        inspector.call("terminal_send", id=box, terminal_id=found[1], text="printf 'ab\\rX\\n'", keys=["enter"])
        _says(inspector.call("terminal_snapshot", id=box, terminal_id=found[1]), "Xb", "60x10")
        _undo(inspector, box)
        _copies(inspector, box)
        resources = inspector.run("resources/read", "--uri", f"casemate://sandbox/{box}")
        _expect(box in json.dumps(resources), "the sandbox is a resource", str(resources))
        _says(inspector.call("read_file", id=box, path="/nowhere", expect=TOOL_ERROR), "/nowhere")
        _says(inspector.call("execute_command", id="0" * 24, command="true", expect=TOOL_ERROR), "no sandbox")
    finally:
        inspector.call("delete_sandbox", id=box)
    _says(inspector.call("get_sandbox", id=box, expect=TOOL_ERROR), "no sandbox")
    Inspector(inspector.node, inspector.url, "cm_" + "x" * 43, inspector.era).run("tools/list", expect=AUTH)
    Inspector(inspector.node, "http://127.0.0.1:9/api/mcp", inspector.key, inspector.era).run(
        "tools/list", expect=UNREACHABLE
    )


def _undo(inspector: Inspector, box: str) -> None:
    """Keep the sandbox, change it, put it back: the change is gone."""
    kept = json.loads(inspector.call("snapshot_sandbox", id=box, name=f"smoke-{inspector.era}"))
    try:
        inspector.call("execute_command", id=box, command="echo wrong > /root/a/b.txt; touch /root/a/new")
        _says(inspector.call("list_snapshots", id=box), kept["id"])
        _says(inspector.call("restore_snapshot", id=box, snapshot=kept["id"][:20]), "All changes since")
        _says(inspector.call("read_file", id=box, path="/root/a/b.txt"), "one")
        _says(inspector.call("read_file", id=box, path="/root/a/new", expect=TOOL_ERROR), "/root/a/new")
    finally:
        inspector.call("delete_snapshot", snapshot=kept["id"])
    _says(inspector.call("delete_snapshot", snapshot=kept["id"], expect=TOOL_ERROR), "no snapshot")


def _copies(inspector: Inspector, box: str) -> None:
    """Two copies that go on from one moment, each under its own name."""
    forks = json.loads(inspector.call("fork_sandbox", id=box, count=2))["forks"]
    try:
        _expect(len(forks) == 2 and all("id" in fork for fork in forks), "a fork of two gives two", str(forks))
        for fork in forks:
            _says(inspector.call("execute_command", id=fork["id"], command="hostname; cat /root/a/b.txt"), fork["name"])
    finally:
        for fork in forks:
            if "id" in fork:
                inspector.call("delete_sandbox", id=fork["id"])
    _says(inspector.call("fork_sandbox", id=box, count=0, expect=TOOL_ERROR), "count must be 1 to 100, got 0")


def main(url: str, key_file: Path, node: str = "node") -> int:
    """Walk in both eras; print what went wrong."""
    key = key_file.read_text().strip()
    for era in ("legacy", "modern"):
        try:
            walk(Inspector(node, url, key, era))
        except SmokeError as error:
            sys.stderr.write(f"{era}: {error}\n")
            return 1
        sys.stdout.write(f"{era}: every step went as it should\n")
    return 0


def _says(text: str, *parts: str) -> None:
    for part in parts:
        _expect(part in text, f"{part!r} is in the answer", text)


def _expect(good: bool, what: str, seen: str) -> None:
    if not good:
        raise SmokeError(f"expected that {what}; seen: {seen[:600]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:4]))
