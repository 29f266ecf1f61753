"""Output of megabytes over REST: answered whole, or said to be incomplete."""

from __future__ import annotations

import httpx
import pytest

from tests.mcp_server.rest.command_calls import flat, stream
from tests.mcp_server.rest.conftest import BASE, data_of
from vmm.errors import ProcessMissing

pytestmark = pytest.mark.anyio


LONG = r"head -c 3000000 /dev/zero | tr '\0' x; echo end"


WHOLE = "x" * 3_000_000 + "end\n"


async def test_an_output_of_megabytes_is_answered_whole(http: httpx.AsyncClient) -> None:
    command = f"{LONG}; head -c 2000000 /dev/zero | tr '\\0' '\\\\\\351' >&2; exit 3"
    answer = await http.post(f"{BASE}/exec", json={"command": command})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"status", "message", "data"}
    data = data_of(answer)
    assert data == {"stdout": WHOLE, "stderr": "\\" * 2_000_000, "exitCode": 3}


async def test_an_output_that_is_cut_off_in_a_character_stays_readable(http: httpx.AsyncClient) -> None:
    command = 'python3 -c \'import sys; sys.stdout.buffer.write(b"\\xe2\\x82\\xac" * 1000000 + b"\\xe2\\x82")\''
    data = data_of(await http.post(f"{BASE}/exec", json={"command": command}))
    assert data["stdout"] == "€" * 1_000_000 + "\N{REPLACEMENT CHARACTER}"


async def test_what_the_sandbox_cannot_keep_is_told_on_stderr(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.rest.long_text.MOST", 1_000_000)
    data = data_of(await http.post(f"{BASE}/exec", json={"command": f"{LONG}; echo oops >&2"}))
    lost = int(data["stderr"].removeprefix("oops\n[").partition(" bytes of stdout left out]\n")[0])
    assert 0 < lost < 1_000_000
    assert data["truncated"] is True
    assert data["stdout"] == WHOLE[lost:]


async def test_an_output_that_is_gone_is_told_on_stderr(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_arguments: object, **_offsets: object) -> None:
        raise ProcessMissing("there is no process 7")

    monkeypatch.setattr("vmm.calls.guest.GuestCalls.read_output", gone)
    data = data_of(await http.post(f"{BASE}/exec", json={"command": LONG, "timeout": 60}))
    head, tail = 256 * 1024, 1024 * 1024
    assert data["stdout"] == WHOLE[:head] + WHOLE[-tail:]
    assert data["stderr"] == f"[{len(WHOLE) - head - tail} bytes of stdout left out]\n"
    assert data["truncated"] is True


async def test_who_comes_late_or_reads_slowly_gets_all_of_it(http: httpx.AsyncClient) -> None:
    pid = (await flat(await http.post(f"{BASE}/commands/run", json={"command": LONG})))["pid"]
    await flat(await http.post(f"{BASE}/commands/wait", json={"pid": pid}))
    for follow in (True, False):
        found = await stream(http, "commands/attach", pid=pid, follow=follow)
        assert "".join(text for name, text in found if name == "stdout") == WHOLE
        assert found[-1] == ("exit", '{"exitCode": 0}')
