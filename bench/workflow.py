"""A workflow of 10 steps on 4 levels against its critical path: `python -m bench.workflow [RUNS]`.

Each step sleeps for a second. The steps' part begins with the first step and ends with the last; the critical path is
the longest chain of the steps' own times in the same run, so that it does not count what lies between two steps.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio

from bench.server import HEAD, casemate, row, running

_LEVELS = ((0,), (1, 2, 3, 4), (5, 6, 7, 8), (9,))


def spec() -> dict[str, Any]:
    """Steps that each need all of the level before."""
    before: tuple[int, ...] = ()
    steps: list[dict[str, Any]] = []
    for level in _LEVELS:
        for number in level:
            needs = [f"s{other}" for other in before]
            steps.append({"name": f"s{number}", "run": {"program": "sleep", "args": ["1"]}, "depends_on": needs})
        before = level
    return {
        "kind": "workflow",
        "name": "levels",
        "sandbox": {"image": "minimal", "memory_mb": 512},
        "workflow": {"steps": steps},
    }


def parts(states: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Return seconds: of the steps' part, of its critical path, and of all steps one after the other."""
    longest: dict[str, float] = {}
    for state in states:  # in the order of the file, in which what a step needs comes first
        own = state["duration_ms"] / 1000
        longest[state["stage_name"]] = own + max((longest[name] for name in state["depends_on"]), default=0.0)
    began = min(datetime.fromisoformat(state["started_at"]) for state in states)
    ended = max(datetime.fromisoformat(state["completed_at"]) for state in states)
    return (
        (ended - began).total_seconds(),
        max(longest.values()),
        sum(state["duration_ms"] for state in states) / 1000,
    )


async def main(runs: int) -> None:
    samples: dict[str, list[float]] = {"casemate run": [], "steps": [], "critical path": [], "one by one": []}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "levels.json"
        file.write_text(json.dumps(spec()))
        async with running(CASEMATE_RATE_LIMIT_REQUESTS="10000000") as server:
            environment = os.environ | {"CASEMATE_DATA": str(server.data)}
            for turn in range(runs + 1):
                began = time.monotonic()
                done = await anyio.run_process(
                    [casemate(), "run", "--file", str(file), "--output", "json"], env=environment
                )
                took = time.monotonic() - began
                steps, path, alone = parts(json.loads(done.stdout)["stage_states"])
                if turn:  # the first one builds the template
                    for kept, value in zip(samples.values(), (took, steps, path, alone), strict=True):
                        kept.append(value)
    ratios = [steps / path for steps, path in zip(samples["steps"], samples["critical path"], strict=True)]
    print("\n".join([HEAD, *(row(name, kept) for name, kept in samples.items())]))
    print(row("steps over critical path", ratios, unit="", scale=1))


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 10)
