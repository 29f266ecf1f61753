"""Archives inside of a sandbox over REST: a tree of 10,000 files, beside the sandbox's own tar and unzip; a large list.

`python -m bench.archives`
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import anyio
import httpx

from bench.figures import table
from bench.server import Server, running

_FILES = 10_000
_FILE = 1000
_LISTED = 100_000
_PATIENCE_S = 1200
_GROW = f"""
import os
for number in range({_FILES}):
    directory = f"/root/tree/{{number % 100}}"
    os.makedirs(directory, exist_ok=True)
    with open(f"{{directory}}/{{number}}", "wb") as file:
        file.write(os.urandom({_FILE} // 2).hex().encode())
os.makedirs("/root/list")
for number in range({_LISTED}):
    os.symlink("x", f"/root/list/{{number}}")
"""
_OWN = {
    "tar.gz": ("tar czf own.tar.gz tree", "mkdir own && tar xzf own.tar.gz -C own"),
    "zip": ("zip -qr own.zip tree", "mkdir own && unzip -q own.zip -d own"),
}


async def main() -> None:
    async with running() as server, _rest(server) as http:
        made = await http.post("/sandboxes", json={"name": "box", "mem": 2048})
        base = f"/sandboxes/{made.raise_for_status().json()['data']['id']}"
        await http.post(f"{base}/files/upload", params={"path": "/root/grow.py"}, content=_GROW.encode())
        await _timed(http, f"{base}/exec", json={"command": "python3 grow.py", "timeout": _PATIENCE_S})
        rows: list[list[str]] = []
        before = server.memory()
        for form, own in _OWN.items():
            packed = await _timed(http, f"{base}/files/compress", params={"path": "/root/tree", "format": form})
            where = {"archive": f"/root/tree.{form}", "dest": "/root/back"}
            unpacked = await _timed(http, f"{base}/files/extract", params=where)
            runs = [
                await _timed(http, f"{base}/exec", json={"command": command, "timeout": _PATIENCE_S}) for command in own
            ]
            rows += [
                [f"{form} of {_FILES} files", f"{packed:.1f} s", f"{runs[0]:.1f} s", f"{packed / runs[0]:.1f}"],
                [f"extract of it ({form})", f"{unpacked:.1f} s", f"{runs[1]:.1f} s", f"{unpacked / runs[1]:.1f}"],
            ]
            command = "rm -rf /root/own /root/back"
            await _timed(http, f"{base}/exec", json={"command": command, "timeout": _PATIENCE_S})
        began = time.monotonic()
        listing = (await http.get(f"{base}/files", params={"path": "/root/list"})).raise_for_status()
        took = time.monotonic() - began
        assert len(json.loads(listing.content)["data"]["files"]) == _LISTED
        grown = server.memory() - before
    print(table(["what", "REST", "the same program by `exec`", "ratio"], rows))
    print(f"\nA list of {_LISTED} entries: {took:.1f} s, {len(listing.content) / 2**20:.1f} MiB.")
    print(f"The server grew by {grown:.1f} MiB; {os.cpu_count()} processors.")


def _rest(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=server.url.removesuffix("/mcp"), headers={"x-api-key": server.key}, timeout=_PATIENCE_S
    )


async def _timed(http: httpx.AsyncClient, path: str, **request: Any) -> float:
    """Make a call that ends with the exit code 0, and return its seconds."""
    began = time.monotonic()
    answer = (await http.post(path, **request)).raise_for_status()
    took = time.monotonic() - began
    outcome = answer.json()["data"]
    if outcome["exitCode"]:
        raise SystemExit(f"{path}: {outcome['stderr']}")
    return took


if __name__ == "__main__":
    anyio.run(main)
