"""Errors of the command line: one line that says how to fix it, status 2, and never a key."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream

from mcp_server.http.serve import listen
from tests.mcp_server.cli.rig import Cli, Result

pytestmark = pytest.mark.anyio

KEYS = "give a valid key with --key-file FILE or in CASEMATE_API_KEY"


async def all_refused(cli: Cli, cases: dict[tuple[str, ...], str]) -> None:
    """Run all commands, a few at a time; each must fail with its message."""
    limiter = anyio.CapacityLimiter(3)

    async def refused(arguments: tuple[str, ...], words: str) -> None:
        async with limiter:
            assert words in (await cli(*arguments)).refusal, arguments

    async with anyio.create_task_group() as tasks:
        for arguments, words in cases.items():
            tasks.start_soon(refused, arguments, words)


async def test_invalid_values_are_refused_by_name_before_anything_is_done(cli: Cli) -> None:
    cases = {
        ("sandbox", "list", "--label", "x"): "--label must be name=value, got 'x'",
        ("sandbox", "create", "x", "--label", "=y"): "--label must be name=value, got '=y'",
        ("sandbox", "create", "x", "--env", "NOT_SET_ANYWHERE"): "NOT_SET_ANYWHERE is not set in the local environment",
        ("sandbox", "create", "x", "--env", "A-B=1"): "'A-B' is not a valid variable name",
        ("sandbox", "rm"): "or --all",
        ("sandbox", "rm", "--all", "box"): "or --all",
        ("sandbox", "get", "../../x"): "is not a valid sandbox",
        ("sandbox", "get", ""): "is not a valid sandbox",
        ("sandbox", "exec", "box", "--shell", "--", "a", "b"): "quote the line",
        ("logs", "box", "-f", "--json"): "give one of them",
        ("top", "a/b"): "is not a valid sandbox",
        (
            "key",
            "create",
            "x",
            "--expires",
            "tomorrow",
        ): "--expires must be a duration such as 90s, 15m, 2h, 30d or 1w, got 'tomorrow'",
        ("key", "create", "x", "--expires", "0d"): "30d or 1w, got '0d'",
        ("invite", "create", "--expires", "-1d"): "30d or 1w, got '-1d'",
        ("invite", "revoke", "a/b"): "is not a valid invitation",
        ("quota", "set", "x"): "Nothing to set",
        ("quota", "set", "x", "--cpus", "-1"): "--cpus must be a number from 0 or default, got '-1'",
        ("quota", "set", "x", "--mem", "much"): "--mem must be a number from 0 or default, got 'much'",
        ("quota", "show", ".."): "is not a valid organisation",
        ("template", "prewarm", "--size", "2"): "--size must be CPU/MIB, such as 2/2048, got '2'",
        ("template", "prewarm", "--size", "2/-1"): "such as 2/2048, got '2/-1'",
        ("template", "prewarm", *(f"--size=1/{mem}" for mem in range(256, 265))): "at most 8 times, got 9",
        ("sandbox", "update", "box"): "Nothing to change",
        (
            "sandbox",
            "update",
            "box",
            "--ttl",
            "-1",
        ): "--ttl must be a duration such as 90s, 15m, 2h, 7d, or none, got '-1'",
        ("sandbox", "update", "box", "--idle", "0s"): "or none",
        ("sandbox", "create", "x", "--ttl", "soon"): "or none, got 'soon'",
        ("sandbox", "sleep", "a/b"): "is not a valid sandbox",
        ("snapshot", "create", "a/b"): "is not a valid sandbox",
        ("snapshot", "get", "a/b"): "is not a valid snapshot",
        ("snapshot", "rm", "x", "a/b"): "is not a valid snapshot",
        ("snapshot", "restore", "box", ""): "is not a valid snapshot",
        ("fork", ".."): "is not a valid sandbox",
        ("store", "copy", "--from", "sqlite", "--to", "sqlite"): "give sqlite for one and mongodb for the other",
        ("store", "copy", "--from", "sqlite", "--to", "mongodb"): "set MONGO_URI",
        ("--key-file", "nothing", "sandbox", "list"): "--key-file: cannot read nothing",
    }
    await all_refused(cli, cases)


async def test_invalid_options_end_with_status_2(cli: Cli) -> None:
    for arguments in (
        ("sandbox", "create", "x", "--cpu", "zero"),
        ("sandbox", "create", "x", "--mem", "0"),
        ("sandbox", "exec", "box", "--timeout", "0", "--", "true"),
        ("key", "create", "x", "--scope", "all"),
        ("member", "add", "a@b.c", "--role", "king"),
        ("audit", "--limit", "0"),
        ("fork", "box", "-n", "0"),
        ("fork", "box", "--count", "101"),
        ("completion", "tcsh"),
        ("store", "copy", "--from", "here", "--to", "there"),
    ):
        done = await cli(*arguments)
        assert done.status == 2, arguments
        assert arguments[-1] in done.err or "Invalid value" in done.err


async def test_errors_of_the_server_are_printed(cli: Cli) -> None:
    cases = {
        ("sandbox", "get", "nobody"): "There is no sandbox 'nobody'",
        ("sandbox", "rm", "nobody"): "There is no sandbox 'nobody'",
        ("sandbox", "exec", "nobody", "--", "true"): "There is no sandbox 'nobody'",
        ("sandbox", "create", "Not A Name"): "name",
        ("sandbox", "create", "x", "--image", "nothing"): "nothing",
        ("logs", "nobody"): "There is no sandbox 'nobody'",
        ("logs", "box", "999"): "list all with casemate logs box",
        ("top", "nobody", "--once"): "There is no sandbox 'nobody'",
        ("cp", "nobody:/x", "y"): "There is no sandbox 'nobody'",
        ("sandbox", "wake", "nobody"): "There is no sandbox 'nobody'",
        ("sandbox", "update", "box", "--ttl", "365d"): "ttl must be 0 to 2592000 seconds (30 days), got 31536000",
        ("fork", "nobody"): "There is no sandbox 'nobody'",
        ("snapshot", "create", "nobody"): "There is no sandbox 'nobody'",
        ("snapshot", "create", "box", "Bad Name"): "got 'Bad Name'",
        ("snapshot", "restore", "box", "nothing"): "There is no snapshot 'nothing'",
        ("sandbox", "create", "x", "--snapshot", "nothing"): "There is no snapshot 'nothing'",
    }
    await all_refused(cli, cases)


async def test_a_wrong_key_is_reported_with_its_origin(cli: Cli) -> None:
    wrong = cli.using(key="cm_" + "x" * 43)
    assert (
        f"{cli.url} does not accept the key from CASEMATE_API_KEY; {KEYS}" in (await wrong("sandbox", "list")).refusal
    )
    (cli.cwd / "file").write_text("cm_" + "y" * 43)
    refusal = (await cli("--key-file", "file", "sandbox", "list")).refusal
    assert "does not accept the key from file" in refusal
    (cli.cwd / "good").write_text(f"{cli.key}\n")
    assert (await wrong("--key-file", "good", "sandbox", "list")).status == 0


async def test_a_malformed_key_is_neither_sent_nor_printed(cli: Cli) -> None:
    for key in ("two words", "umläut", "line\nbreak"):
        done = await cli.using(key=key)("sandbox", "list")
        assert "CASEMATE_API_KEY does not hold a valid key" in done.refusal
        assert key not in done.err


async def test_invalid_addresses_are_refused_without_printing_their_passwords(cli: Cli) -> None:
    for url, words in {
        "example.org": "is not a server's URL",
        "ftp://example.org": "is not a server's URL",
        "http://": "is not a server's URL",
        "http://[::1": "is not a server's URL",
        "http://example.org:99999": "is not a server's URL",
        "http://example.org/?a=b": "is not a server's URL",
        "http://user:secret@example.org": "give the key with --key-file",
    }.items():
        refusal = (await cli("--url", url, "sandbox", "list")).refusal
        assert words in refusal, url
        assert "secret" not in refusal


async def test_the_address_of_an_endpoint_is_accepted(cli: Cli) -> None:
    for url in (f"{cli.url}/", f"{cli.url}/api", f"{cli.url}/api/mcp", f"{cli.url}/api/mcp/"):
        assert (await cli("--url", url, "sandbox", "list")).status == 0


async def test_a_server_on_this_host_is_not_reached_through_a_proxy(cli: Cli) -> None:
    proxies = {"HTTP_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
    assert (await cli("sandbox", "list", env=proxies)).status == 0


async def test_an_unreachable_server_is_reported(cli: Cli) -> None:
    with listen("127.0.0.1", 0) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    refusal = (await cli("--url", nowhere, "sandbox", "list")).refusal
    assert f"Cannot connect to {nowhere}" in refusal
    assert "casemate serve" in refusal


@asynccontextmanager
async def answering(piece: bytes, asked_at: list[float] | None = None) -> AsyncGenerator[str]:
    """Serve every request with these bytes and close the connection; record when requests arrive."""

    async def answer(stream: ByteStream) -> None:
        if asked_at is not None:
            asked_at.append(anyio.current_time())
        async with stream:
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += await stream.receive()
            await stream.send(piece)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(listener.serve, answer))
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


def answer(status: int, body: bytes, **headers: str) -> bytes:
    """Return a complete HTTP response."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def error(status: int, **fields: str) -> bytes:
    return answer(status, json.dumps(fields).encode(), content_type="application/json", retry_after="7")


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (error(401, error="authentication required"), KEYS),
        (error(403, error="This needs the scope run; the credential has read"), "needs the scope run"),
        (error(409, error="The name fits several", details="Use one of these ids"), "fits several: Use one of"),
        (error(429, error="Too many requests"), "Too many requests: try again in 7 s"),
        (error(503, error="The server's store failed"), "store failed: try again in a moment"),
        (error(500, error="Internal error", requestId="r-1"), "search the server's log for request r-1"),
        (error(529, error="The host is full", details="End something"), "The host is full: End something"),
        (error(400, error="bad \x1b[31mred\nline"), "bad \\x1b[31mred\\nline"),
        (answer(404, b"<html>nginx</html>"), "is it a Casemate server"),
        (answer(502, b""), "is it a Casemate server"),
        (answer(200, b"<html>hello</html>"), "did not answer with JSON"),
        (answer(200, b"[1]"), "instead of a JSON object"),
        (answer(200, b'{"data": {"a": 1}}'), "instead of a JSON list"),
        (answer(200, b'{"data": [')[:-3], "closed the connection early"),
        (b"", "closed the connection early"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "closed the connection early"),
    ],
)
async def test_unexpected_answers_are_reported_in_one_line_with_the_way_out(
    cli: Cli, response: bytes, words: str
) -> None:
    async with answering(response) as url:
        assert words in (await cli("--url", url, "sandbox", "list")).refusal


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"1a\r\nevent: stdout\ndata:hello\n\n\r\n"


async def test_a_server_that_dies_during_output_is_not_mistaken_for_the_end_of_the_command(cli: Cli) -> None:
    for ending, words in ((b"", "closed the connection early"), (b"0\r\n\r\n", "may still be running")):
        async with answering(HEAD + EVENT + ending) as url:
            done: Result = await cli("--url", url, "sandbox", "exec", "box", "--", "true")
            assert (done.status, done.out) == (2, b"hello\n")
            assert words in done.err


async def test_a_server_that_dies_during_a_download_is_reported(cli: Cli, tmp_path: Path) -> None:
    done = await cli("sandbox", "exec", "box", "--shell", f"echo content > {tmp_path}/source")
    assert done.status == 0
    cut = answer(200, b"x" * 1000)[:-500]
    async with answering(cut) as url:
        done = await cli("--url", url, "cp", "box:/x", "-")
        assert done.status == 2
        assert done.out == b"x" * 500
        assert "closed the connection early" in done.err


async def test_a_reached_rate_limit_is_waited_for(cli: Cli) -> None:
    full = answer(200, b"{}", ratelimit_remaining="0", ratelimit_reset="1")
    asked_at: list[float] = []
    async with answering(full, asked_at) as url:
        done = await cli("--url", url, "sandbox", "rm", "one", "two")
    assert asked_at[1] - asked_at[0] > 0.9
    assert done.status == 0
    assert done.err.splitlines() == [
        "Rate limit reached; waiting 1 s.",
        "Deleted 2 sandboxes.",
    ]


async def test_a_file_whose_name_is_not_utf_8_is_refused_alone_but_copied_with_its_directory(
    cli: Cli, guest: Path
) -> None:
    name = os.fsdecode(b"bad\xff")
    (cli.cwd / "tree").mkdir()
    (cli.cwd / "tree" / name).touch()
    assert "A file name is not valid UTF-8" in (await cli("cp", f"tree/{name}", f"box:{guest}")).refusal
    assert (await cli("cp", "tree", f"box:{guest}/tree")).status == 0
    assert (guest / "tree" / name).exists()
