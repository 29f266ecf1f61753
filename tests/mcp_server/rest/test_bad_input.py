"""Bad input for every field of every route, and whom a sandbox is hidden from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.mcp_server.host import SANDBOX
from tests.mcp_server.rest.conftest import BASE, Rest

pytestmark = pytest.mark.anyio

MEGABYTE = "x" * 1_000_000
HUGE = 10**400

Fields = Mapping[str, Sequence[tuple[object, str]]]

# Every route under a sandbox, with values that are right.
ROUTES: list[tuple[str, str, dict[str, str], dict[str, Any] | None]] = [
    ("GET", "", {}, None),
    ("PATCH", "", {}, {"autoSleep": True}),
    ("GET", "/metrics", {}, None),
    ("POST", "/sleep", {}, None),
    ("POST", "/wake", {}, None),
    ("POST", "/start", {}, None),
    ("POST", "/restart", {}, {"fromSnapshot": False}),
    ("GET", "/snapshots", {}, None),
    ("POST", "/snapshots", {}, {"name": "before"}),
    ("PATCH", "/publish-ports", {}, {"publishPorts": [80]}),
    ("GET", "/public-urls", {}, None),
    ("POST", "/stop", {}, None),
    ("POST", "/pause", {}, None),
    ("POST", "/snapshot", {}, None),
    ("POST", "/resume", {}, None),
    ("POST", "/restore", {}, {"snapshot": "before"}),
    ("POST", "/fork", {}, {"count": 1}),
    ("POST", "/exec", {}, {"command": "true"}),
    ("POST", "/exec-stream", {}, {"command": "true"}),
    ("POST", "/session-exec", {}, {"action": "exec", "sessionId": "none", "command": "true"}),
    ("POST", "/session-exec-stream", {}, {"sessionId": "none", "command": "true"}),
    ("POST", "/commands/run", {}, {"command": "true"}),
    ("GET", "/commands/list", {}, None),
    ("POST", "/commands/kill", {}, {"pid": 1}),
    ("POST", "/commands/stdin", {"pid": "1"}, None),
    ("POST", "/commands/attach", {}, {"pid": 1}),
    ("POST", "/commands/wait", {}, {"pid": 1}),
    ("GET", "/files", {}, None),
    ("GET", "/files/download", {"path": "/etc/hostname"}, None),
    ("POST", "/files/upload", {"path": "/tmp/x"}, None),
    ("GET", "/files/archive", {"path": "/tmp/none"}, None),
    ("PUT", "/files/archive", {"path": "/tmp/x"}, None),
    ("POST", "/files/compress", {"path": "/tmp/none", "format": "zip"}, None),
    ("POST", "/files/extract", {"archive": "/tmp/none.zip"}, None),
    ("DELETE", "/files", {"path": "/tmp/none"}, None),
    ("POST", "/files/mkdir", {"path": "/tmp"}, None),
    ("POST", "/files/create", {"path": "/tmp/x"}, None),
    ("POST", "/files/copy", {"from": "/a", "to": "/b"}, None),
    ("POST", "/files/move", {"from": "/a", "to": "/b"}, None),
    ("GET", "/files/head-tail", {"path": "/a"}, None),
    ("POST", "/files/chmod", {"path": "/a", "mode": "600"}, None),
    ("GET", "/files/du", {}, None),
    ("GET", "/files/search", {"pattern": "x"}, None),
    ("GET", "/files/stat", {"path": "/a"}, None),
    ("POST", "/pty/sessions", {}, {}),
    ("GET", "/pty/sessions", {}, None),
    ("DELETE", "/pty/sessions/0123456789ab", {}, None),
    ("POST", "/pty/sessions/0123456789ab/execute", {}, {"command": "x"}),
    ("GET", "/pty/sessions/0123456789ab/buffer", {}, None),
    ("POST", "/pty/sessions/0123456789ab/resize", {}, {"cols": 80, "rows": 24}),
    ("DELETE", "", {}, None),
]
READS = {"/commands/attach", "/commands/wait"}
SOCKET = "/pty/sessions/0123456789ab"
"""A path that is also a WebSocket's."""
OPENS = {"/public-urls"}
"""Reads that give the right to do more."""

# Field by field: the values that must be refused, with what the refusal says.
NO_TEXT: list[tuple[object, str]] = [(5, "=5"), (True, "=True"), ([], "=[]"), ({}, "={}")]
MISSING: list[tuple[object, str]] = [(..., "required"), (None, "required")]
NO_COMMAND: list[tuple[object, str]] = [
    *MISSING,
    ("", "required"),
    (" \n ", "required"),
    (MEGABYTE, "exceeds maximum length"),
    ("a\0b", "NUL"),
    *NO_TEXT,
]
NO_TIMEOUT: list[tuple[object, str]] = [
    ("1", "='1'"),
    (HUGE, "timeout"),
    (10**9, "out of range"),
    ([1], "=[1]"),
    (True, "=True"),
]
NO_CWD: list[tuple[object, str]] = [
    ("not/absolute", "cwd must be an absolute path, got 'not/absolute'"),
    ("/a\0b", "NUL"),
    ("/" + MEGABYTE, "bytes"),
    *NO_TEXT,
]
NO_ENV: list[tuple[object, str]] = [
    ([], "env"),
    ("A=b", "env"),
    ({"A": 1}, "env"),
    ({"": "x"}, "env"),
    ({"A=B": "x"}, "env"),
    ({"A": "a\0b"}, "NUL"),
    ({"A": MEGABYTE}, "env"),
]
NO_PID: list[tuple[object, str]] = [
    *MISSING,
    (0, "pid=0"),
    (-1, "pid=-1"),
    ("1", "pid='1'"),
    (1.5, "pid=1.5"),
    (True, "pid=True"),
    (HUGE, "pid="),
    (2**31, "pid=2147483648"),
]
NO_SIDE: list[tuple[object, str]] = [(0, "=0"), (-1, "=-1"), (1001, "=1001"), ("80", "='80'"), (HUGE, "=")]
COMMAND_FIELDS: Fields = {
    "command": NO_COMMAND,
    "timeout": NO_TIMEOUT,
    "cwd": NO_CWD,
    "env": NO_ENV,
    "stdin": [
        (5, "stdin: "),
        (["a"], "stdin: "),
        ({}, "stdin: "),
        ("x" * (8 * 1024 * 1024 + 1), "stdin must be at most 8388608 bytes, got 8388609"),
    ],
    "args": [("x", "args='x'"), ([1], "args.0=1"), (["a\0"], "NUL")],
}
SESSION_FIELDS: Fields = {
    "action": [*MISSING, ("", "action=''"), ("open", "action='open'"), *NO_TEXT],
    "sessionId": [
        *MISSING,
        ("", "sessionId"),
        ("a b", "sessionId='a b'"),
        ("x" * 101, "sessionId="),
        ("é", "sessionId="),
    ],
    "command": NO_COMMAND,
    "timeout": NO_TIMEOUT,
    "input": [("x" * 100_001, "input"), *((value, "input") for value, _ in NO_TEXT)],
    "cols": NO_SIDE,
    "rows": NO_SIDE,
    "shell": NO_TEXT,
    "cwd": NO_TEXT,
    "env": [([], "env"), ("A=b", "env"), ({"A": 1}, "env")],
}
BODIES: dict[tuple[str, str], Fields] = {
    ("POST", ""): {
        "name": [
            *MISSING,
            ("", "got ''"),
            ("A", "name must be a DNS name such as my-box-1, got 'A'"),
            ("a\0", "got 'a\\x00'"),
            ("a\nb", "got 'a\\nb'"),
            (MEGABYTE, "name must be at most 253 characters, got 1000000"),
            *NO_TEXT,
        ],
        "image": [("windows", "image must be code or minimal, got 'windows'"), (MEGABYTE, "image must be "), *NO_TEXT],
        "cpu": [
            (0, "cpu must be 1 to 8 virtual CPUs, got 0"),
            (9, "got 9"),
            ("2", "cpu='2'"),
            (1.5, "cpu=1.5"),
            (HUGE, "cpu"),
        ],
        "mem": [
            (255, "mem must be 256 to 16384 MiB, got 255"),
            (16385, "got 16385"),
            ("1024", "mem='1024'"),
            (HUGE, "mem"),
        ],
        "sync": [("yes", "sync='yes'"), (1, "sync=1")],
        "autoSleep": [("yes", "autoSleep='yes'"), (0, "autoSleep=0")],
        "envVars": [
            ([], "envVars"),
            ({"A": 1}, "envVars"),
            ({"1A": "x"}, "'1A'"),
            ({"A": "\0"}, "NUL"),
            ({"A": MEGABYTE}, "bytes"),
        ],
        "labels": [
            ("a=b", "labels='a=b'"),
            ({"A": "x"}, "got 'A'"),
            ({"a": "x,y"}, "got 'x,y' for a"),
            ({"a": MEGABYTE}, "labels"),
            ({f"l{number}": "x" for number in range(6)}, "labels must be at most 5, got 6"),
        ],
        "publishPorts": [
            ([0], "publishPorts must be from 1 to 65535, got 0"),
            ([65536], "publishPorts must be from 1 to 65535, got 65536"),
            ([-1], "got -1"),
            ([80, 80], "publishPorts must have each port once, got 80 more than once"),
            ([1, 2, 3, 4, 5], "publishPorts must be at most 4 ports, got 5"),
            (["80"], "publishPorts.0='80'"),
            ([80.0], "publishPorts.0=80.0"),
            ([True], "publishPorts.0=True"),
            ([HUGE], "publishPorts.0="),
            (5, "publishPorts=5"),
            ({}, "publishPorts"),
        ],
        "ports": [
            ([{"port": 0}], "ports must be from 1 to 65535, got 0"),
            ([{"port": 65536}], "ports must be from 1 to 65535, got 65536"),
            ([{"port": 80}, {"port": 80, "protocol": "tcp"}], "ports must have each port once"),
            ([{"port": port} for port in range(1, 6)], "ports must be at most 4 ports, got 5"),
            ([{"port": 80, "protocol": "udp"}], "ports.0.protocol='udp'"),
            ([{"protocol": "http"}], "ports.0.port is required"),
            ([80], "ports.0=80"),
            ("80", "ports='80'"),
        ],
        "ttl": [
            (-1, "ttl must be 0 to 2592000 seconds"),
            (31_536_000, "got 31536000"),
            ("60", "ttl='60'"),
            (1.5, "ttl=1.5"),
            (HUGE, "ttl"),
        ],
        "idle": [
            (-1, "idle must be 0 to 2592000 seconds"),
            (31_536_000, "got 31536000"),
            ([], "idle=[]"),
            (HUGE, "idle"),
        ],
        "snapshot": NO_TEXT,
        "region": [("x" * 101, "region must be at most 100 printable characters"), ("a\nb", "region"), *NO_TEXT],
        "orgId": NO_TEXT,
        "userId": NO_TEXT,
    },
    ("POST", f"/{SANDBOX}/snapshots"): {
        "name": [
            ("A", "got 'A'"),
            ("a\0", "got 'a\\x00'"),
            (MEGABYTE, "name must be at most 253 characters"),
            *NO_TEXT,
        ],
        "labels": [("a=b", "labels='a=b'"), ({"A": "x"}, "got 'A'"), ({"a": 1}, "labels.a=1")],
    },
    ("POST", f"/{SANDBOX}/restore"): {"snapshot": [(None, "required"), ("", "required"), (" ", "required"), *NO_TEXT]},
    ("PATCH", f"/{SANDBOX}/publish-ports"): {
        "publishPorts": [
            *MISSING,
            ([0], "publishPorts must be from 1 to 65535, got 0"),
            ([65536], "got 65536"),
            ([80, 80], "more than once"),
            ([1, 2, 3, 4, 5], "at most 4 ports"),
            (["80"], "publishPorts.0='80'"),
            (80, "publishPorts=80"),
            ({}, "publishPorts"),
        ]
    },
    ("POST", f"/{SANDBOX}/fork"): {
        "count": [
            (0, "count must be 1 to 100, got 0"),
            (101, "got 101"),
            (-1, "got -1"),
            ("2", "count='2'"),
            (HUGE, "count"),
        ]
    },
    ("POST", f"/{SANDBOX}/exec"): COMMAND_FIELDS,
    ("POST", f"/{SANDBOX}/exec-stream"): {
        **COMMAND_FIELDS,
        "binary": [("yes", "binary='yes'")],
        "openStdin": [("yes", "openStdin='yes'")],
    },
    ("POST", f"/{SANDBOX}/session-exec"): SESSION_FIELDS,
    ("POST", f"/{SANDBOX}/session-exec-stream"): {
        name: values for name, values in SESSION_FIELDS.items() if name in {"command", "sessionId", "timeout"}
    },
    ("POST", f"/{SANDBOX}/commands/run"): {**COMMAND_FIELDS, "timeout": [*NO_TIMEOUT, (-1, "timeout: -1")]},
    ("POST", f"/{SANDBOX}/commands/kill"): {"pid": NO_PID, "signal": [(0, "=0"), (65, "=65"), ("KILL", "='KILL'")]},
    ("POST", f"/{SANDBOX}/commands/attach"): {"pid": NO_PID, "follow": [("no", "follow='no'")]},
    ("POST", f"/{SANDBOX}/commands/wait"): {"pid": NO_PID},
    ("POST", f"/{SANDBOX}/pty/sessions"): {
        "cols": NO_SIDE,
        "rows": NO_SIDE,
        "command": [("a\0", "NUL"), (MEGABYTE, "bytes"), *NO_TEXT],
        "argv": [("ls", "argv='ls'"), ([1], "argv.0=1"), (["\0"], "NUL")],
        "cwd": NO_CWD,
        "env": NO_ENV,
    },
    ("POST", f"/{SANDBOX}/pty/sessions/0123456789ab/execute"): {
        "command": [*MISSING, ("", "required"), (MEGABYTE, "command="), *NO_TEXT]
    },
    ("POST", f"/{SANDBOX}/pty/sessions/0123456789ab/resize"): {
        "cols": [*MISSING, *NO_SIDE],
        "rows": [*MISSING, *NO_SIDE],
    },
}
RIGHT: dict[str, Any] = {
    "name": "a",
    "command": "true",
    "pid": 1,
    "cols": 80,
    "rows": 24,
    "action": "exec",
    "sessionId": "none",
}

NO_PATH = [("a\0b", "NUL"), ("/" + "x" * 5000, "bytes"), ("é" * 2048, "bytes")]
MUST = [(None, "required"), ("", "required")]
QUERIES: dict[tuple[str, str], Mapping[str, Sequence[tuple[str | None, str]]]] = {
    ("GET", "/files"): {"path": [*NO_PATH]},
    ("GET", "/files/download"): {"path": [*MUST, *NO_PATH]},
    ("POST", "/files/upload"): {
        "path": [*MUST, *NO_PATH],
        "mode": [("888", "mode='888'"), ("12345", "mode='12345'"), ("rw", "mode='rw'")],
    },
    ("GET", "/files/archive"): {"path": [*MUST, *NO_PATH]},
    ("PUT", "/files/archive"): {"path": [*MUST, *NO_PATH], "owners": [("maybe", "owners='maybe'")]},
    ("POST", "/files/compress"): {
        "path": [*MUST, *NO_PATH, ("/", "path='/': Must end in the name"), ("/tmp/..", "path='/tmp/..'")],
        "format": [("rar", "format='rar'"), ("TAR", "format='TAR'"), ("tar.xz", "'tar', 'tar.gz', 'tar.bz2' or 'zip'")],
    },
    ("POST", "/files/extract"): {
        "archive": [
            *MUST,
            *NO_PATH[:1],
            ("/tmp/x.rar", "Must end in one of .tar, .tar.gz, .tgz"),
            ("/tmp/tar", "'/tmp/tar'"),
        ],
        "dest": [*NO_PATH],
    },
    ("POST", "/commands/stdin"): {
        "pid": [*MUST[:1], ("0", "pid='0'"), ("x", "pid='x'"), ("9" * 500, "pid=")],
        "eof": [("maybe", "eof='maybe'")],
    },
    ("DELETE", "/files"): {"path": [*MUST, *NO_PATH]},
    ("POST", "/files/mkdir"): {"path": [*MUST, *NO_PATH]},
    ("POST", "/files/create"): {"path": [*MUST, *NO_PATH]},
    ("POST", "/files/copy"): {"from": [*MUST, *NO_PATH], "to": [*MUST, *NO_PATH]},
    ("POST", "/files/move"): {"from": [*MUST, *NO_PATH], "to": [*MUST, *NO_PATH]},
    ("GET", "/files/head-tail"): {
        "path": [*MUST, *NO_PATH],
        "lines": [("-1", "lines='-1'"), ("x", "lines='x'"), ("1.5", "lines='1.5'"), ("9" * 5000, "lines=")],
    },
    ("POST", "/files/chmod"): {
        "path": [*MUST, *NO_PATH],
        "mode": [*MUST, ("u+rwxu+rwxu", "mode='u+rwxu+rwxu'"), ("6\0", "NUL")],
    },
    ("GET", "/files/du"): {"path": [*NO_PATH]},
    ("GET", "/files/search"): {"path": [*NO_PATH], "pattern": [*MUST, ("x" * 1025, "pattern="), ("a\0", "NUL")]},
    ("GET", "/files/stat"): {"path": [*MUST, *NO_PATH]},
}
QUERY_RIGHT = {
    "pid": "1",
    "archive": "/tmp/none.zip",
    "path": "/tmp/none",
    "from": "/tmp/none",
    "to": "/tmp/none2",
    "mode": "600",
    "pattern": "x",
}


def refused(answer: httpx.Response, says: str) -> None:
    assert answer.status_code == 400, (answer.status_code, answer.text[:300])
    body = answer.json()
    assert says in f"{body['error']}. {body.get('details', '')}", body
    assert len(body["error"]) < 400
    assert set(body) <= {"error", "details", "requestId"}


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_a_bad_field_is_refused_with_its_name(rest: Rest, method: str, path: str) -> None:
    fields = BODIES[method, path]
    right = {name: value for name, value in RIGHT.items() if name in fields and "argv" not in fields}
    async with rest.http() as http:
        for field, values in fields.items():
            for value, says in values:
                body = {name: given for name, given in {**right, field: value}.items() if given is not ...}
                refused(await http.request(method, f"/api/sandboxes{path}", json=body), says)


@pytest.mark.parametrize(("method", "path"), QUERIES)
async def test_a_bad_parameter_is_refused_with_its_name(rest: Rest, method: str, path: str) -> None:
    fields = QUERIES[method, path]
    right = {name: value for name, value in QUERY_RIGHT.items() if name in fields}
    async with rest.http() as http:
        for field, values in fields.items():
            for value, says in values:
                query = {name: given for name, given in {**right, field: value}.items() if given is not None}
                refused(await http.request(method, f"{BASE}{path}", params=query), says)


async def test_a_body_that_is_no_json_object_is_refused(rest: Rest) -> None:
    bodies = [b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b'{"a":' * 500, b"{'a': 1}"]
    async with rest.http() as http:
        for path in ("/exec", "/exec-stream", "/commands/run", "/commands/kill", "/pty/sessions"):
            for body in bodies:
                refused(await http.post(f"{BASE}{path}", content=body), "The body is")


async def test_a_body_beyond_the_limit_is_refused_without_being_read(rest: Rest) -> None:
    async with rest.http() as http:
        for path, size in (("/exec", 16 * 1024 * 1024 + 1), ("/commands/kill", 3_000_000)):
            answer = await http.post(f"{BASE}{path}", content=b" " * size)
            assert answer.status_code == 413, path


async def test_a_sandbox_of_somebody_else_is_the_same_as_none(rest: Rest) -> None:
    unknown = "f" * 24
    async with rest.http("bob") as bob:
        for method, path, query, body in ROUTES:
            foreign, missing = [
                await bob.request(method, f"/api/sandboxes/{ref}{path}", params=query, json=body)
                for ref in (SANDBOX, unknown)
            ]
            assert foreign.status_code == missing.status_code == 404, (method, path, foreign.text)
            assert foreign.text.replace(SANDBOX, unknown) == missing.text
    async with rest.http("alice") as alice:
        assert (await alice.get(BASE)).status_code == 200


async def test_a_malformed_id_is_not_found(rest: Rest) -> None:
    refs = ["%00", "a%0Ab", "A" * 5000, "..", "x%2Fy", "%F0%9F%98%80", "0" * 23, "*", "%20"]
    async with rest.http() as http:
        for ref, (method, path, query, body) in itertools.product(refs, ROUTES):
            answer = await http.request(method, f"/api/sandboxes/{ref}{path}", params=query, json=body)
            if answer.request.url.path != "/api/snapshots":  # what a client makes of ../snapshots
                assert answer.status_code == 404, (method, path, answer.text[:200])


async def test_a_key_that_may_only_look_changes_nothing(rest: Rest) -> None:
    async with rest.http("reader") as reader, rest.http("runner") as runner:
        for method, path, query, body in ROUTES:
            answer = await reader.request(method, f"{BASE}{path}", params=query, json=body)
            looks = (method == "GET" or path in READS) and path not in OPENS
            assert (answer.status_code == 403) != looks, (method, path, answer.text)
        assert (await reader.post("/api/sandboxes", json={"name": "a"})).status_code == 403
        assert (await runner.get(BASE)).status_code == 200


async def test_a_request_without_a_credential_reaches_nothing(rest: Rest) -> None:
    async with rest.http("") as nobody:
        for method, path, query, body in ROUTES:
            answer = await nobody.request(method, f"{BASE}{path}", params=query, json=body)
            assert answer.status_code == 401, (method, path)


async def test_other_methods_are_answered_with_those_that_a_path_has(rest: Rest) -> None:
    methods: dict[str, set[str]] = {}
    for method, path, _, _ in ROUTES:
        methods.setdefault(path, set()).add(method)
    async with rest.http() as http:
        for path, known in methods.items():
            answer = await http.request("POST" if "PUT" in known else "PUT", f"{BASE}{path}")
            assert answer.status_code == 405, path
            allowed = known | {"OPTIONS"} | ({"HEAD"} if "GET" in known else set[str]())
            if path == SOCKET:
                allowed |= {"GET"}
            assert set(answer.headers["allow"].split(", ")) == allowed


async def test_every_answer_is_json_that_strict_clients_take(rest: Rest) -> None:
    """VoidRun's Python client refuses a body whose type is not JSON or text."""
    odd = ("", "//", quote("/ü"))
    async with rest.http() as http:
        for (method, path, query, body), tail in itertools.product(ROUTES[:-1], odd):
            answer = await http.request(method, f"{BASE}{path}{tail}", params=query, json=body)
            if answer.status_code < 400 and path in {"/files/download", "/exec-stream"}:
                continue
            assert answer.headers["content-type"].startswith(("application/json", "text/")), (path, answer.headers)
