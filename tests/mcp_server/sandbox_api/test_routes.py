"""Sandbox-api's REST routes: their shapes, their statuses, their words."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mcp_server.sandbox_api.routes import upload_name
from mcp_server.sandbox_api.rules import Home
from tests.mcp_server.edge import Edge

pytestmark = pytest.mark.anyio

WORKSPACE = "/sessions/s/workspace"
CONTENT, UPLOAD = f"{WORKSPACE}/content", f"{WORKSPACE}/upload"


@pytest.fixture
async def alice(edge: Edge) -> AsyncGenerator[httpx.AsyncClient]:
    async with edge.http("alice") as client:
        yield client


async def run(client: httpx.AsyncClient, command: str, **more: object) -> dict[str, Any]:
    answer = await client.post("/execute", json={"command": command, "session_id": "s", **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def detail_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    return detail if isinstance(detail, str) else detail[0]["msg"]


async def test_a_command_is_answered_as_its_clients_know_it(alice: httpx.AsyncClient, home: Home) -> None:
    done = await run(alice, "echo out; echo err >&2; exit 3")
    assert (done["stdout"], done["stderr"], done["exit_code"]) == ("out\n", "err\n", 3)
    assert len(done["container_id"]) == 12
    assert round(done["execution_time"], 3) == done["execution_time"] >= 0
    assert (await run(alice, "pwd"))["stdout"] == f"{home.workspace}\n"
    assert (await run(alice, "pwd", working_dir="/"))["stdout"] == "/\n"
    assert (await run(alice, "echo -n é; printf '\\377'"))["stdout"] == "é\ufffd"


async def test_a_command_over_its_time_limit_is_killed_with_all_it_started_and_its_output_kept(
    alice: httpx.AsyncClient,
) -> None:
    done = await run(alice, "echo before; (trap '' TERM; echo $BASHPID > pid; sleep 1000; :) & wait", timeout=1)
    assert (done["exit_code"], done["timed_out"]) == (-1, True)
    assert done["stdout"] == "before\n"
    assert "killed" in done["stderr"]
    # Whoever adopted it may not have reaped it yet.
    look = "[ -s pid ] && ! grep -s '^State:.[^ZX]' /proc/$(cat pid)/status"
    assert (await run(alice, look))["exit_code"] == 0


async def test_an_output_has_a_limit_and_says_so(alice: httpx.AsyncClient) -> None:
    done = await run(alice, "head -c 3000000 /dev/zero | tr '\\0' x")
    assert done["truncated"] is True
    assert len(done["stdout"]) < 2_000_000
    assert "bytes of stdout left out" in done["stderr"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"session_id": "s"}, "command is required"),
        ({"command": "ls"}, "session_id is required"),
        ({"command": "", "session_id": "s"}, "command='': String should have at least 1 character"),
        ({"command": "x" * 32_001, "session_id": "s"}, "at most 32000 characters"),
        ({"command": "ls", "session_id": ""}, "session_id=''"),
        ({"command": "ls", "session_id": "s" * 257}, "at most 256 characters"),
        ({"command": "ls", "session_id": 7}, "session_id=7"),
        ({"command": "ls", "session_id": "s", "timeout": 0}, "timeout=0"),
        ({"command": "ls", "session_id": "s", "timeout": 121}, "less than or equal to 120"),
        ({"command": "ls", "session_id": "s", "timeout": "30"}, "timeout='30'"),
        ({"command": "ls", "session_id": "s", "working_dir": "/" * 513}, "at most 512 characters"),
        (["ls"], "not a JSON object"),
        ("ls", "not a JSON object"),
    ],
)
async def test_a_body_that_does_not_fit_is_422_and_creates_nothing(
    alice: httpx.AsyncClient, body: object, said: str
) -> None:
    assert said in detail_of(await alice.post("/execute", json=body), 422)
    assert (await alice.get("/sessions")).json() == {"sessions": []}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"command": "  ", "session_id": "s"}, "command is empty"),
        ({"command": "ls", "session_id": "a\0b"}, "without NUL"),
        ({"command": "ls", "session_id": "s", "working_dir": "/nowhere"}, "/nowhere"),
    ],
)
async def test_a_value_that_is_not_allowed_is_400(alice: httpx.AsyncClient, body: object, said: str) -> None:
    assert said in detail_of(await alice.post("/execute", json=body), 400)


async def test_an_unbalanced_quote_is_the_shells_error_and_no_failure_of_the_server(alice: httpx.AsyncClient) -> None:
    done = await run(alice, "echo 'open")
    assert done["exit_code"] != 0
    assert "unexpected EOF" in done["stderr"]


async def test_a_session_is_created_found_shown_listed_and_deleted(alice: httpx.AsyncClient) -> None:
    first = await alice.post("/sessions", json={"session_id": "my/session .1"})
    assert first.status_code == 200, first.text
    made = first.json()
    assert (await alice.post("/sessions", json={"session_id": "my/session .1"})).json() == made
    assert set(made) == {"session_id", "container_id", "sandbox_id"}
    await alice.post("/sessions", json={"session_id": "other"})
    shown = (await alice.get("/sessions/other")).json()
    assert (shown["session_id"], shown["status"]) == ("other", "running")
    listed = (await alice.get("/sessions")).json()["sessions"]
    assert [one["session_id"] for one in listed] == ["other", "my/session .1"]
    for _ in range(2):
        deleted = await alice.delete("/sessions/other")
        assert (deleted.status_code, deleted.json()) == (200, {"status": "deleted", "session_id": "other"})
    assert detail_of(await alice.get("/sessions/other"), 404) == "Session not found. Any use of its name creates it"


async def test_names_that_look_alike_are_different_sessions(alice: httpx.AsyncClient) -> None:
    names = ["a b", "a-b", "A-B", "a_b", ".", "..", "a/b", "é", "x" * 256]
    made = [(await alice.post("/sessions", json={"session_id": name})).json()["sandbox_id"] for name in names]
    assert len(set(made)) == len(names)


async def test_a_file_is_written_read_listed_and_deleted(alice: httpx.AsyncClient, home: Home) -> None:
    written = await alice.put(CONTENT, params={"path": "a/b.txt"}, content=b"one\n")
    assert (written.status_code, written.content) == (204, b"")
    assert (await alice.put(CONTENT, params={"path": "j.txt"}, json={"content": "é"})).status_code == 204
    assert (await alice.put(CONTENT, params={"path": "raw"}, content=b"\xff\0")).status_code == 204
    read = [(await alice.get(CONTENT, params={"path": path})).json() for path in ("a/b.txt", "/workspace/j.txt", "raw")]
    assert read == [
        {"content": "one\n", "encoding": "utf8"},
        {"content": "é", "encoding": "utf8"},
        {"content": base64.b64encode(b"\xff\0").decode(), "encoding": "base64"},
    ]
    listed = (await alice.get(WORKSPACE)).json()
    assert listed == {
        "entries": [
            {"name": "a", "type": "dir"},
            {"name": "j.txt", "type": "file"},
            {"name": "raw", "type": "file"},
        ]
    }
    assert (await alice.get(WORKSPACE, params={"path": "a"})).json() == {"entries": [{"name": "b.txt", "type": "file"}]}
    assert (await alice.delete(WORKSPACE, params={"path": "a"})).status_code == 204
    assert not (Path(home.workspace) / "a").exists()
    assert detail_of(await alice.delete(WORKSPACE, params={"path": "a"}), 404) == "Path not found"


async def test_an_upload_keeps_its_name_or_goes_where_it_is_told(alice: httpx.AsyncClient, home: Home) -> None:
    answer = await alice.post(UPLOAD, files={"file": ("my report.txt", b"text")})
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"path": f"{home.workspace}/my_report.txt", "session_id": "s", "size": 4}
    await alice.post(UPLOAD, params={"path": "in/here"}, files={"file": ("x", b"other")})
    assert (Path(home.workspace) / "in/here").read_bytes() == b"other"
    for refused in (await alice.post(UPLOAD), await alice.post(UPLOAD, files={"other": ("x", b"x")})):
        assert "file is required" in detail_of(refused, 422)


@pytest.mark.parametrize(
    ("filename", "kept"),
    [("a b.txt", "a_b.txt"), ("../../etc/x", "x"), ("C:\\x\\y.txt", "y.txt"), ("..", "upload"), ("", "upload")],
)
def test_an_uploads_name_is_its_base_name_without_odd_characters(filename: str, kept: str) -> None:
    assert upload_name(filename) == kept


async def test_paths_that_are_refused_have_the_words_of_the_contract(alice: httpx.AsyncClient) -> None:
    await alice.put(CONTENT, params={"path": "d/f"}, content=b"x")
    for path in ("../x", "/etc/passwd", "d/../../x", "/workspacex"):
        assert detail_of(await alice.get(CONTENT, params={"path": path}), 400).startswith("Path escapes workspace")
        assert detail_of(await alice.put(CONTENT, params={"path": path}), 400).startswith("Path escapes workspace")
        assert detail_of(await alice.delete(WORKSPACE, params={"path": path}), 400).startswith("Path escapes workspace")
        assert detail_of(await alice.get(WORKSPACE, params={"path": path}), 400).startswith("Path escapes workspace")
    assert detail_of(await alice.get(CONTENT, params={"path": "none"}), 404) == "Path not found"
    assert detail_of(await alice.get(WORKSPACE, params={"path": "none"}), 404) == "Path not found"
    assert detail_of(await alice.get(CONTENT, params={"path": "d"}), 400) == "Path is a directory"
    assert detail_of(await alice.put(CONTENT, params={"path": "d"}, content=b"x"), 400) == "Path is a directory"
    assert detail_of(await alice.get(WORKSPACE, params={"path": "d/f"}), 400) == "Path is not a directory"
    assert detail_of(await alice.delete(WORKSPACE, params={"path": "."}), 400) == "Cannot delete workspace root"
    assert detail_of(await alice.get(CONTENT), 400) == "path is required for read"
    assert detail_of(await alice.put(CONTENT), 400) == "path is required for write"
    assert detail_of(await alice.delete(WORKSPACE), 400) == "path is required for delete"
    assert detail_of(await alice.put(CONTENT, params={"path": "j"}, json=["x"]), 422).endswith("Send a JSON object")


async def test_links_out_of_the_workspace_are_not_followed(
    alice: httpx.AsyncClient, tmp_path: Path, home: Home
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    await run(alice, f"ln -s {outside}/secret link; ln -s {outside} dir; echo in > in; ln -s in inner")
    for path in ("link", "dir/secret"):
        assert detail_of(await alice.get(CONTENT, params={"path": path}), 400).startswith("Path escapes workspace")
    assert detail_of(await alice.get(WORKSPACE, params={"path": "dir"}), 400).startswith("Path escapes workspace")
    for path in ("dir/secret", "dir/new"):
        written = await alice.put(CONTENT, params={"path": path}, content=b"x")
        assert detail_of(written, 400).startswith("Path escapes workspace")
        deleted = await alice.delete(WORKSPACE, params={"path": path})
        assert detail_of(deleted, 400).startswith("Path escapes workspace")
    assert (await alice.put(CONTENT, params={"path": "link"}, content=b"mine")).status_code == 204
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    assert (Path(home.workspace) / "link").read_text() == "mine"
    assert (await alice.get(CONTENT, params={"path": "inner"})).json()["content"] == "in\n"
    assert (await alice.delete(WORKSPACE, params={"path": "dir"})).status_code == 204
    assert outside.exists()


async def test_a_name_is_only_ever_a_name(alice: httpx.AsyncClient, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for name in (f"a'; touch {mark}; '", f"$(touch {mark})", f"`touch {mark}`", "-rf", "new\nline", "a\\b", '"', "*"):
        assert (await alice.put(CONTENT, params={"path": name}, content=name.encode())).status_code == 204, name
        assert (await alice.get(CONTENT, params={"path": name})).json()["content"] == name
        listed = (await alice.get(WORKSPACE)).json()["entries"]
        assert listed[0]["name"] in {name, name.partition("/")[0]}
        assert (await alice.delete(WORKSPACE, params={"path": name.partition("/")[0]})).status_code == 204
    assert not mark.exists()


async def test_sizes_have_a_limit_that_is_checked_before_anything_is_read(alice: httpx.AsyncClient) -> None:
    most = 1024 * 1024
    assert (await alice.put(CONTENT, params={"path": "big"}, content=b"x" * most)).status_code == 204
    assert len((await alice.get(CONTENT, params={"path": "big"})).json()["content"]) == most
    written = await alice.put(CONTENT, params={"path": "big"}, content=b"x" * (most + 1))
    assert detail_of(written, 400) == f"Content exceeds max size ({most} bytes)"
    uploaded = await alice.post(UPLOAD, files={"file": ("big", b"x" * (most + 1))})
    assert detail_of(uploaded, 400) == f"Content exceeds max size ({most} bytes)"
    await run(alice, "truncate -s 1T sparse")
    assert (
        detail_of(await alice.get(CONTENT, params={"path": "sparse"}), 400) == f"File exceeds max size ({most} bytes)"
    )
    await run(alice, "mkfifo pipe")
    assert "status 46" in detail_of(await alice.get(CONTENT, params={"path": "pipe"}), 409)


async def test_a_write_keeps_the_files_mode_and_leaves_no_draft(alice: httpx.AsyncClient, home: Home) -> None:
    await run(alice, "echo old > run.sh; chmod 755 run.sh")
    await alice.put(CONTENT, params={"path": "run.sh"}, content=b"new")
    (only,) = Path(home.workspace).iterdir()
    assert (only.name, only.stat().st_mode & 0o777, only.read_text()) == ("run.sh", 0o755, "new")


async def test_a_read_of_a_session_that_is_none_finds_nothing_and_creates_nothing(alice: httpx.AsyncClient) -> None:
    assert (await alice.get(WORKSPACE)).json() == {"entries": []}
    assert detail_of(await alice.get(WORKSPACE, params={"path": "a"}), 404) == "Path not found"
    assert detail_of(await alice.get(CONTENT, params={"path": "a"}), 404) == "Path not found"
    assert detail_of(await alice.delete(WORKSPACE, params={"path": "a"}), 404) == "Path not found"
    assert (await alice.get("/sessions")).json() == {"sessions": []}


async def test_without_a_key_there_is_nothing(edge: Edge) -> None:
    async with edge.http() as nobody, edge.http("cm_" + "x" * 43) as stranger:
        for client in (nobody, stranger):
            for answer in (
                await client.post("/execute", json={"command": "ls", "session_id": "s"}),
                await client.get("/sessions"),
                await client.get(WORKSPACE),
            ):
                said = detail_of(answer, 401)
                assert said == "Missing or invalid authentication (API key or Bearer token)"
                assert answer.json()["error"]
        health = await nobody.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "ok")


async def test_ready_tries_what_a_session_needs(edge: Edge) -> None:
    async with edge.http() as nobody:
        ready = await nobody.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["parts"]["hypervisor"] == "ok"
