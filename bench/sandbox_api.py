"""`POST /execute` of a session against `POST exec` of its sandbox: `python -m bench.sandbox_api [RUNS] [SESSIONS]`.

The commands are `true`, in turn, one at a time; then each new session's first call.
"""

from __future__ import annotations

import sys
import time

import anyio
import httpx

from bench.server import HEAD, row, running

_WARM_UP = 5


async def main(runs: int, sessions: int) -> None:
    async with running(
        CASEMATE_SANDBOX_API="true",
        CASEMATE_DEFAULT_IMAGE="minimal",
        CASEMATE_RATE_LIMIT_REQUESTS="10000000",
    ) as server:
        base = server.url.removesuffix("/api/mcp")
        async with httpx.AsyncClient(base_url=base, headers={"x-api-key": server.key}, timeout=600) as client:

            async def execute(session: str) -> tuple[float, str]:
                began = time.monotonic()
                answer = await client.post("/execute", json={"session_id": session, "command": "true"})
                answer.raise_for_status()
                return time.monotonic() - began, answer.json()["sandbox_id"]

            _, sandbox = await execute("known")
            known: list[float] = []
            plain: list[float] = []
            for turn in range(runs + _WARM_UP):
                took, _ = await execute("known")
                began = time.monotonic()
                (await client.post(f"/api/sandboxes/{sandbox}/exec", json={"command": "true"})).raise_for_status()
                if turn >= _WARM_UP:  # the first ones warm the emulator's translations
                    known.append(took)
                    plain.append(time.monotonic() - began)
            first = [(await execute(f"new-{number}"))[0] for number in range(sessions)]
            rows = [
                row("POST /execute true, known session", known),
                row("POST exec true", plain),
                row("POST /execute true, new session", first),
            ]
            for name in ("known", *(f"new-{number}" for number in range(sessions))):
                (await client.delete(f"/sessions/{name}")).raise_for_status()
    print("\n".join([HEAD, *rows]))


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 100, int(sys.argv[2]) if len(sys.argv) > 2 else 10)
