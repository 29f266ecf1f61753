"""The first program of each language in a new sandbox, and the next one: `python -m bench.languages [RUNS]`."""

from __future__ import annotations

import json
import sys
import time

import anyio

from bench.server import HEAD, call, row, running

_CODE = {
    "python": "print({number})",
    "javascript": "console.log({number})",
    "typescript": "const answer: number = {number}; console.log(answer)",
    "typescript with a package": "import {{ near }} from './near'; console.log(near + {number})",
}
_NEAR = "export const near: number = 0"
_SAMPLES = ("first", "next")


async def main(runs: int) -> None:
    took: dict[tuple[str, str], list[float]] = {}
    async with running() as server, server.client() as client:
        warm = json.loads(await call(client, "create_sandbox", name="warm-up"))
        await call(client, "delete_sandbox", id=warm["id"])
        for number in range(runs):
            for language, code in _CODE.items():
                box = json.loads(await call(client, "create_sandbox", name="box"))["id"]
                await call(client, "write_file", id=box, path="/root/near.ts", content=_NEAR)
                for sample, which in enumerate(_SAMPLES):
                    new = code.format(number=10 * number + sample)  # compilers cache what they have seen
                    began = time.monotonic()
                    await call(client, "run_code", id=box, language=language.split()[0], code=new, wait=60)
                    took.setdefault((language, which), []).append(time.monotonic() - began)
                await call(client, "delete_sandbox", id=box)
    print(HEAD)
    for (language, which), samples in took.items():
        print(row(f"{language}, {which}", samples))


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 3)
