"""Files over REST: listed, uploaded, downloaded."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest

from tests.mcp_server.rest.conftest import BASE, Rest, data_of
from tests.waiting import PATIENCE_S, until
from vmm.guest import files

pytestmark = pytest.mark.anyio

FILES = f"{BASE}/files"


async def test_a_directory_is_listed_with_everything_that_clients_read(http: httpx.AsyncClient, place: Path) -> None:
    (place / "file.txt").write_text("hello")
    (place / "dir").mkdir()
    (place / "link").symlink_to("file.txt")
    answer = data_of(await http.get(FILES, params={"path": str(place)}))
    assert (answer["success"], answer["truncated"]) == (True, False)
    files = {entry["name"]: entry for entry in answer["files"]}
    assert set(files) == {"file.txt", "dir", "link"}
    assert (files["file.txt"]["size"], files["file.txt"]["mode"]) == (5, "-rw-r--r--")
    assert files["file.txt"]["path"] == f"{place}/file.txt"
    assert files["file.txt"]["modTime"].endswith("Z")
    assert (files["dir"]["isDir"], files["file.txt"]["isDir"]) == (True, False)
    assert files["link"]["target"] == "file.txt"


async def test_a_directory_of_any_size_is_listed_whole(http: httpx.AsyncClient, place: Path) -> None:
    empty = data_of(await http.get(FILES, params={"path": str(place)}))
    assert empty == {"success": True, "files": [], "truncated": False}
    for number in range(12_000):
        (place / f"{number:05}").touch()
    answer = data_of(await http.get(FILES, params={"path": str(place)}))
    assert [entry["name"] for entry in answer["files"]] == [f"{number:05}" for number in range(12_000)]
    assert answer["truncated"] is False


async def test_a_listing_that_is_cut_says_so(
    http: httpx.AsyncClient, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (place / name).touch()
    monkeypatch.setattr(files, "MAX_ENTRIES", 2)
    answer = data_of(await http.get(FILES, params={"path": str(place)}))
    assert ([entry["name"] for entry in answer["files"]], answer["truncated"]) == (["a", "b"], True)


async def test_a_head_request_finds_out_whether_there_is_a_directory(http: httpx.AsyncClient, place: Path) -> None:
    (place / "file").touch()
    for path, status in ((place, 200), (place / "none", 404), (place / "file", 409)):
        answer = await http.head(FILES, params={"path": str(path)})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")


async def test_what_is_uploaded_raw_comes_down_the_same(http: httpx.AsyncClient, place: Path) -> None:
    content = os.urandom(3_000_000)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 70_000):
            yield content[start : start + 70_000]

    for body in (content, pieces()):
        path = f"{place}/new/ä b.bin"
        up = await http.post(f"{FILES}/upload", params={"path": path}, content=body)
        assert up.json() == {"success": True, "path": path, "size": len(content)}
        down = await http.get(f"{FILES}/download", params={"path": path})
        assert down.content == content
        assert down.headers["content-type"] == "application/octet-stream"
        assert down.headers["content-length"] == str(len(content))
        assert down.headers["content-disposition"] == (
            "attachment; filename=\"_ b.bin\"; filename*=UTF-8''%C3%A4%20b.bin"
        )


@pytest.mark.parametrize("content", [b"", b"\r\n", b"--not-the-end\r\n\r\n", os.urandom(1_000_000)])
async def test_a_form_brings_its_file(http: httpx.AsyncClient, place: Path, content: bytes) -> None:
    answer = await http.post(
        f"{FILES}/upload",
        params={"path": f"{place}/form"},
        files={"other": ("o", b"no"), "file": ('na"me;.bin', content)},
    )
    assert answer.status_code == 200, answer.text
    assert (place / "form").read_bytes() == content


async def test_a_form_is_written_while_it_arrives(http: httpx.AsyncClient, place: Path) -> None:
    content = os.urandom(8_000_000)

    async def form() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n'
        yield content
        with anyio.fail_after(PATIENCE_S):
            while sum(path.stat().st_size for path in place.iterdir()) < len(content) // 2:
                await anyio.sleep(0.02)
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = await http.post(f"{FILES}/upload", params={"path": f"{place}/big"}, content=form(), headers=headers)
    assert answer.json() == {"success": True, "path": f"{place}/big", "size": len(content)}
    assert (place / "big").read_bytes() == content


async def test_a_form_in_small_chunks_brings_its_first_file_alone(http: httpx.AsyncClient, place: Path) -> None:
    async def form() -> AsyncIterator[bytes]:
        parts = [("no", "other"), ("file", "\r\n--\r\n--bound\r\n--boundar"), ("file", "second")]
        text = "".join(
            f'--boundary\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in parts
        )
        for letter in f"{text}--boundary--\r\n":
            yield letter.encode()

    headers = {"content-type": "multipart/form-data; boundary=boundary"}
    answer = await http.post(f"{FILES}/upload", params={"path": f"{place}/form"}, content=form(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert (place / "form").read_bytes() == b"\r\n--\r\n--bound\r\n--boundar"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        (f"multipart/form-data; boundary={'b' * 300}", b"x"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"no form"),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx'),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: " + b"x" * 10_000),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"X: y\r\n" * 1000),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="no"\r\n\r\nx\r\n--b--\r\n'),
    ],
)
async def test_a_broken_form_is_refused(http: httpx.AsyncClient, place: Path, content_type: str, body: bytes) -> None:
    answer = await http.post(
        f"{FILES}/upload", params={"path": f"{place}/f"}, content=body, headers={"content-type": content_type}
    )
    assert answer.status_code == 400
    assert "'file'" in answer.json()["details"]
    await until(lambda: not list(place.iterdir()))  # the guest removes its draft once it has noticed


async def test_a_form_without_a_boundary_is_refused_before_a_sandbox_is_woken(
    http: httpx.AsyncClient, place: Path
) -> None:
    assert (await http.post(f"{BASE}/sleep")).status_code == 200
    answer = await http.post(
        f"{FILES}/upload", params={"path": f"{place}/f"}, content=b"x", headers={"content-type": "multipart/form-data"}
    )
    assert answer.status_code == 400
    assert (await http.get(BASE)).json()["data"]["status"] == "snapshotted"


async def test_an_upload_keeps_or_sets_the_permissions(http: httpx.AsyncClient, place: Path) -> None:
    target = place / "script"
    target.write_text("old")
    target.chmod(0o750)
    await http.post(f"{FILES}/upload", params={"path": str(target)}, content=b"new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    await http.post(f"{FILES}/upload", params={"path": str(target), "mode": "600"}, content=b"newer")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


async def test_an_upload_that_breaks_off_leaves_the_old_content(rest: Rest, place: Path) -> None:
    target = place / "kept"
    target.write_text("old")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * 100_000
        raise OSError("cable cut")

    async with rest.http() as http:
        with pytest.raises(OSError, match="cable cut"):
            await http.post(f"{FILES}/upload", params={"path": str(target)}, content=endless())
    with anyio.fail_after(PATIENCE_S):
        while not any(state.get("action") == "file.upload" for state in rest.states):
            await anyio.sleep(0.02)
    assert target.read_text() == "old"
    assert [path.name for path in place.iterdir()] == ["kept"]


async def test_an_upload_over_a_directory_is_refused_by_its_status(http: httpx.AsyncClient, place: Path) -> None:
    answer = await http.post(f"{FILES}/upload", params={"path": str(place)}, content=b"x")
    assert answer.status_code == 409
    assert "directory" in answer.json()["error"]


async def test_a_part_of_a_file_comes_down_where_a_range_is_asked_for(http: httpx.AsyncClient, place: Path) -> None:
    content = os.urandom(600_000)
    (place / "f").write_bytes(content)
    for header, part in (
        ("bytes=10-19", content[10:20]),
        ("bytes=-5", content[-5:]),
        ("bytes=500000-", content[500000:]),
    ):
        answer = await http.get(f"{FILES}/download", params={"path": f"{place}/f"}, headers={"range": header})
        assert (answer.status_code, answer.content) == (206, part)
        start = content.index(part)
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/600000"
        assert answer.headers["content-length"] == str(len(part))
    beyond = await http.get(f"{FILES}/download", params={"path": f"{place}/f"}, headers={"range": "bytes=600000-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */600000")
    conditional = {"range": "bytes=0-1", "if-range": '"v1"'}
    whole = await http.get(f"{FILES}/download", params={"path": f"{place}/f"}, headers=conditional)
    assert (whole.status_code, whole.content) == (200, content)


async def test_a_head_request_tells_the_size_and_sends_nothing(http: httpx.AsyncClient, place: Path) -> None:
    (place / "f").write_bytes(b"12345")
    answer = await http.head(f"{FILES}/download", params={"path": f"{place}/f"})
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "5", b"")
    assert (await http.head(f"{FILES}/download", params={"path": f"{place}/no"})).status_code == 404


async def test_empty_files_and_those_that_the_kernel_makes_up_come_down_whole(
    http: httpx.AsyncClient, place: Path
) -> None:
    (place / "empty").touch()
    assert (await http.get(f"{FILES}/download", params={"path": f"{place}/empty"})).content == b""
    version = await http.get(f"{FILES}/download", params={"path": "/proc/version"})
    assert version.content == Path("/proc/version").read_bytes()


async def test_a_file_whose_stated_size_is_wrong_comes_down_as_it_is(http: httpx.AsyncClient) -> None:
    thp = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    path = thp if thp.exists() else next(Path("/sys/class/net").glob("*/mtu"))
    value = path.read_bytes()
    assert path.stat().st_size > len(value)
    whole = await http.get(f"{FILES}/download", params={"path": str(path)})
    assert (whole.content, whole.headers["content-length"]) == (value, str(len(value)))
    head = await http.head(f"{FILES}/download", params={"path": str(path)})
    assert (head.content, head.headers["content-length"]) == (b"", str(len(value)))
    part = await http.get(f"{FILES}/download", params={"path": str(path)}, headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, value[1:4])
    assert part.headers["content-range"] == f"bytes 1-3/{len(value)}"
    beyond = await http.get(f"{FILES}/download", params={"path": str(path)}, headers={"range": "bytes=4000-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(value)}")


async def test_a_long_file_whose_size_nobody_states_comes_down_to_its_end(http: httpx.AsyncClient) -> None:
    path = Path("/proc/kallsyms")
    if len(path.read_bytes()) < 300_000:
        pytest.skip("this kernel has no long file without a size")
    answer = await http.get(f"{FILES}/download", params={"path": str(path)}, headers={"range": "bytes=0-9"})
    assert (answer.status_code, answer.content) == (200, path.read_bytes())
    assert "content-length" not in answer.headers


async def test_what_the_kernel_says_against_a_read_is_the_answer(http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{FILES}/download", params={"path": "/proc/self/mem"})
    assert (answer.status_code, answer.json()["error"]) == (409, "/proc/self/mem: Input/output error")


async def test_a_file_that_is_not_there_is_a_404_in_json(http: httpx.AsyncClient, place: Path) -> None:
    for path, query in (("/download", f"{place}/no"), ("", f"{place}/no")):
        answer = await http.get(FILES + path, params={"path": query})
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/json"
        assert "no" in answer.json()["error"]


async def test_a_large_file_passes_through_without_being_held(rest: Rest, place: Path) -> None:
    digest = hashlib.sha256()
    async with rest.http() as http:
        with (place / "large").open("wb") as file:
            file.truncate(200_000_000)
        async with http.stream("GET", f"{FILES}/download", params={"path": f"{place}/large"}) as answer:
            received = 0
            async for piece in answer.aiter_raw():
                digest.update(piece)
                received += len(piece)
        assert received == 200_000_000


async def test_a_download_that_nobody_reads_to_its_end_is_given_up(rest: Rest, place: Path) -> None:
    with (place / "large").open("wb") as file:
        file.truncate(50_000_000_000)
    async with rest.http() as http, http.stream("GET", f"{FILES}/download?path={place}/large") as answer:
        await anext(answer.aiter_raw())
    with anyio.fail_after(PATIENCE_S):
        while not any(state.get("action") == "file.download" for state in rest.states):
            await anyio.sleep(0.02)
