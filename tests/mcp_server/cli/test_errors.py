"""What goes wrong for the person at the keyboard: one line with the way out, status 2, never a key."""

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
from tests.mcp_server.cli.rig import Cli, Done

pytestmark = pytest.mark.anyio

KEYS = "give a valid key with --key-file FILE or in CASEMATE_API_KEY"


async def all_refused(cli: Cli, cases: dict[tuple[str, ...], str]) -> None:
    """Run all commands, a few at a time; each must be refused with the words."""
    limiter = anyio.CapacityLimiter(3)

    async def refused(arguments: tuple[str, ...], words: str) -> None:
        async with limiter:
            assert words in (await cli(*arguments)).refusal, arguments

    async with anyio.create_task_group() as tasks:
        for arguments, words in cases.items():
            tasks.start_soon(refused, arguments, words)


async def test_values_that_cannot_be_are_refused_by_name_before_anything_is_done(cli: Cli) -> None:
    cases = {
        ("sandbox", "list", "--label", "x"): "--label 'x' is no pair",
        ("sandbox", "create", "x", "--label", "=y"): "--label '=y' is no pair",
        ("sandbox", "create", "x", "--env", "NOT_SET_ANYWHERE"): "it is not set here",
        ("sandbox", "create", "x", "--env", "A-B=1"): "is no variable's name",
        ("sandbox", "rm"): "or say --all",
        ("sandbox", "rm", "--all", "box"): "or say --all",
        ("sandbox", "get", "../../x"): "can be no sandbox",
        ("sandbox", "get", ""): "can be no sandbox",
        ("sandbox", "exec", "box", "--shell", "--", "a", "b"): "quote the line",
        ("logs", "box", "-f", "--json"): "say one of them",
        ("top", "a/b"): "can be no sandbox",
        ("key", "create", "x", "--expires", "tomorrow"): "--expires 'tomorrow' is no span of time",
        ("key", "create", "x", "--expires", "0d"): "--expires '0d' is no span of time",
        ("invite", "create", "--expires", "-1d"): "is no span of time",
        ("invite", "revoke", "a/b"): "can be no invitation",
        ("quota", "set", "x"): "nothing to set",
        ("quota", "set", "x", "--cpus", "-1"): "--cpus '-1' is no limit",
        ("quota", "set", "x", "--mem", "much"): "--mem 'much' is no limit",
        ("quota", "show", ".."): "can be no organisation",
        ("sandbox", "update", "box"): "nothing to change",
        ("sandbox", "update", "box", "--ttl", "-1"): "--ttl '-1' is no span of time",
        ("sandbox", "update", "box", "--idle", "0s"): "or none",
        ("sandbox", "create", "x", "--ttl", "soon"): "--ttl 'soon' is no span of time",
        ("sandbox", "sleep", "a/b"): "can be no sandbox",
        ("snapshot", "create", "a/b"): "can be no sandbox",
        ("snapshot", "get", "a/b"): "can be no snapshot",
        ("snapshot", "rm", "x", "a/b"): "can be no snapshot",
        ("snapshot", "restore", "box", ""): "can be no snapshot",
        ("fork", ".."): "can be no sandbox",
        ("store", "copy", "--from", "sqlite", "--to", "sqlite"): "one is sqlite and the other mongodb",
        ("store", "copy", "--from", "sqlite", "--to", "mongodb"): "set MONGO_URI",
        ("--key-file", "nothing", "sandbox", "list"): "--key-file nothing cannot be read",
    }
    await all_refused(cli, cases)


async def test_options_that_are_none_end_with_status_2(cli: Cli) -> None:
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


async def test_what_is_not_there_is_said_by_the_server(cli: Cli) -> None:
    cases = {
        ("sandbox", "get", "nobody"): "There is no sandbox 'nobody'",
        ("sandbox", "rm", "nobody"): "There is no sandbox 'nobody'",
        ("sandbox", "exec", "nobody", "--", "true"): "There is no sandbox 'nobody'",
        ("sandbox", "create", "Not A Name"): "name",
        ("sandbox", "create", "x", "--image", "nothing"): "nothing",
        ("logs", "nobody"): "There is no sandbox 'nobody'",
        ("logs", "box", "999"): "casemate logs box shows all",
        ("top", "nobody", "--once"): "There is no sandbox 'nobody'",
        ("cp", "nobody:/x", "y"): "There is no sandbox 'nobody'",
        ("sandbox", "wake", "nobody"): "There is no sandbox 'nobody'",
        ("sandbox", "update", "box", "--ttl", "365d"): "ttl must be 0 to 2592000 seconds (30 days), got 31536000",
        ("fork", "nobody"): "There is no sandbox 'nobody'",
        ("snapshot", "create", "nobody"): "There is no sandbox 'nobody'",
        ("snapshot", "create", "box", "Bad Name"): "name: 'Bad Name'",
        ("snapshot", "restore", "box", "nothing"): "There is no snapshot 'nothing'",
        ("sandbox", "create", "x", "--snapshot", "nothing"): "There is no snapshot 'nothing'",
    }
    await all_refused(cli, cases)


async def test_a_key_that_is_wrong_is_said_with_where_it_came_from(cli: Cli) -> None:
    wrong = cli.towards(key="cm_" + "x" * 43)
    assert (
        f"the key of CASEMATE_API_KEY is not accepted by {cli.url}; {KEYS}" in (await wrong("sandbox", "list")).refusal
    )
    (cli.here / "file").write_text("cm_" + "y" * 43)
    refusal = (await cli("--key-file", "file", "sandbox", "list")).refusal
    assert "the key of file is not accepted" in refusal
    (cli.here / "good").write_text(f"{cli.key}\n")
    assert (await wrong("--key-file", "good", "sandbox", "list")).status == 0


async def test_a_key_that_can_be_none_is_refused_unsent_and_unsaid(cli: Cli) -> None:
    for key in ("two words", "umläut", "line\nbreak"):
        done = await cli.towards(key=key)("sandbox", "list")
        assert "CASEMATE_API_KEY holds can be no key" in done.refusal
        assert key not in done.err


async def test_addresses_that_are_none_are_refused_and_their_passwords_unsaid(cli: Cli) -> None:
    for url, words in {
        "example.org": "is no server's address",
        "ftp://example.org": "is no server's address",
        "http://": "is no server's address",
        "http://[::1": "is no server's address",
        "http://example.org:99999": "is no server's address",
        "http://example.org/?a=b": "is no server's address",
        "http://user:secret@example.org": "give the key with --key-file",
    }.items():
        refusal = (await cli("--url", url, "sandbox", "list")).refusal
        assert words in refusal, url
        assert "secret" not in refusal


async def test_the_address_of_the_endpoint_is_good_too(cli: Cli) -> None:
    for url in (f"{cli.url}/", f"{cli.url}/api", f"{cli.url}/api/mcp", f"{cli.url}/api/mcp/"):
        assert (await cli("--url", url, "sandbox", "list")).status == 0


async def test_a_server_of_this_machine_is_not_asked_through_a_proxy(cli: Cli) -> None:
    elsewhere = {"HTTP_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
    assert (await cli("sandbox", "list", env=elsewhere)).status == 0


async def test_a_server_that_is_not_there_is_said(cli: Cli) -> None:
    with listen("127.0.0.1", 0) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    refusal = (await cli("--url", nowhere, "sandbox", "list")).refusal
    assert f"{nowhere} cannot be reached" in refusal
    assert "casemate serve" in refusal


@asynccontextmanager
async def answering(piece: bytes, asked_at: list[float] | None = None) -> AsyncGenerator[str]:
    """A server that answers every request with these bytes and hangs up; it notes when it was asked."""

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
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def error(status: int, **said: str) -> bytes:
    return answer(status, json.dumps(said).encode(), content_type="application/json", retry_after="7")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (error(401, error="authentication required"), KEYS),
        (error(403, error="This needs the scope run; the credential has read"), "needs the scope run"),
        (error(409, error="The name fits several", details="Use one of these ids"), "fits several: Use one of"),
        (error(429, error="Too many requests"), "Too many requests: try again in 7 s"),
        (error(503, error="The server's store failed"), "store failed: try again in a moment"),
        (error(500, error="Internal error", requestId="r-1"), "look at the server's log for the request r-1"),
        (error(529, error="The host is full", details="End something"), "The host is full: End something"),
        (error(400, error="bad \x1b[31mred\nline"), "bad \\x1b[31mred\\nline"),
        (answer(404, b"<html>nginx</html>"), "is it a Casemate server"),
        (answer(502, b""), "is it a Casemate server"),
        (answer(200, b"<html>hello</html>"), "answered no JSON"),
        (answer(200, b"[1]"), "where an object belongs"),
        (answer(200, b'{"data": {"a": 1}}'), "where a list belongs"),
        (answer(200, b'{"data": [')[:-3], "went away in the middle"),
        (b"", "went away in the middle"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "went away in the middle"),
    ],
)
async def test_odd_answers_are_told_in_one_line_with_the_way_out(cli: Cli, said: bytes, words: str) -> None:
    async with answering(said) as url:
        assert words in (await cli("--url", url, "sandbox", "list")).refusal


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"1a\r\nevent: stdout\ndata:hello\n\n\r\n"


async def test_a_server_that_dies_in_the_middle_of_output_is_not_taken_for_an_end(cli: Cli) -> None:
    for ending, words in ((b"", "went away in the middle"), (b"0\r\n\r\n", "is not known")):
        async with answering(HEAD + EVENT + ending) as url:
            done: Done = await cli("--url", url, "sandbox", "exec", "box", "--", "true")
            assert (done.status, done.out) == (2, b"hello\n")
            assert words in done.err


async def test_a_server_that_dies_in_the_middle_of_a_file_leaves_nothing_of_it(cli: Cli, tmp_path: Path) -> None:
    done = await cli("sandbox", "exec", "box", "--shell", f"echo content > {tmp_path}/source")
    assert done.status == 0
    cut = answer(200, b"x" * 1000)[:-500]
    async with answering(cut) as url:
        done = await cli("--url", url, "cp", "box:/x", "-")
        assert done.status == 2
        assert done.out == b"x" * 500
        assert "went away in the middle" in done.err


async def test_a_server_that_has_had_enough_for_now_is_given_its_time(cli: Cli) -> None:
    full = answer(200, b"{}", ratelimit_remaining="0", ratelimit_reset="1")
    asked_at: list[float] = []
    async with answering(full, asked_at) as url:
        done = await cli("--url", url, "sandbox", "rm", "one", "two")
    assert asked_at[1] - asked_at[0] > 0.9
    assert done.status == 0
    assert done.err.splitlines() == [
        "The server takes no more requests with this key for 1 s; waiting.",
        "Ended 2 sandboxes.",
    ]


async def test_a_file_whose_name_is_no_text_is_refused_by_itself_and_goes_with_its_tree(cli: Cli, guest: Path) -> None:
    name = os.fsdecode(b"bad\xff")
    (cli.here / "tree").mkdir()
    (cli.here / "tree" / name).touch()
    assert "bytes that are no UTF-8" in (await cli("cp", f"tree/{name}", f"box:{guest}")).refusal
    assert (await cli("cp", "tree", f"box:{guest}/tree")).status == 0
    assert (guest / "tree" / name).exists()
