"""VoidRun's generated Python client, operation by operation: what its friendlier classes hide, and what they lack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bench.server import Server
from tests.clients.conftest import base_url
from tests.clients.voidrun_package import VoidRun, calls, errors, raw

pytestmark = pytest.mark.vm

UPGRADE_REQUIRED = 426


@pytest.fixture(scope="module")
def transport(client: Any) -> Any:
    """What the operations of one client share: its address, its key, its connections."""
    return client._api_client


@pytest.fixture
def session(transport: Any, box: Any) -> Iterator[str]:
    """A terminal of the sandbox."""
    api = raw.ExecutionApi(transport)
    made = api.create_pty_session(box.id, raw.CreatePTYSessionRequest(cols=90, rows=30)).data
    yield made.session_id
    api.delete_pty_session(box.id, made.session_id)


@calls(
    raw.SandboxesApi.create_sandbox,
    raw.SandboxesApi.get_sandbox,
    raw.SandboxesApi.list_sandboxes,
    raw.SandboxesApi.update_sandbox,
    raw.SandboxesApi.sleep_sandbox,
    raw.SandboxesApi.wake_sandbox,
    raw.SandboxesApi.start_sandbox,
    raw.SandboxesApi.delete_sandbox,
)
def test_sandboxes(transport: Any) -> None:
    api = raw.SandboxesApi(transport)
    created = api.create_sandbox(raw.CreateSandboxRequest(name="plain", cpu=1, mem=1024, org_id="", user_id=""))
    plain = created.data.id
    assert api.get_sandbox(plain).message == "Sandbox details fetched"
    assert plain in [each.id for each in api.list_sandboxes(page=1, limit=100).data]
    patched = api.update_sandbox(plain, raw.models.update_sandbox_request.UpdateSandboxRequest(auto_sleep=False))
    assert (patched.message, patched.data.auto_sleep) == ("Sandbox updated", False)
    for change in (api.sleep_sandbox, api.wake_sandbox, api.sleep_sandbox, api.start_sandbox, api.delete_sandbox):
        assert change(plain).status == "success"
    for change in (api.sleep_sandbox, api.wake_sandbox, api.start_sandbox, api.delete_sandbox, api.get_sandbox):
        with pytest.raises(errors.NotFoundException):
            change(plain)


@calls(
    raw.ExecutionApi.exec_command,
    raw.ExecutionApi.exec_command_stream,
    raw.ExecutionApi.run_background_command,
    raw.ExecutionApi.list_background_processes,
    raw.ExecutionApi.attach_to_background_process,
    raw.ExecutionApi.wait_for_background_process,
    raw.ExecutionApi.kill_background_process,
)
def test_commands(transport: Any, box: Any) -> None:
    api = raw.ExecutionApi(transport)
    assert api.exec_command(box.id, raw.ExecRequest(command="echo hi")).data.stdout == "hi\n"
    streamed = api.exec_command_stream(box.id, raw.ExecRequest(command="echo hi; exit 2"))
    assert exit_code(streamed) == 2
    ran = api.run_background_command(box.id, raw.RunBackgroundCommandRequest(command="echo told; exit 3", timeout=0))
    which = raw.KillBackgroundProcessRequest(pid=ran.pid)
    assert api.wait_for_background_process(box.id, which).exit_code == 3
    heard = api.attach_to_background_process(box.id, which)
    assert "event: stdout\ndata:told\n" in heard
    assert exit_code(heard) == 3
    ran = api.run_background_command(box.id, raw.RunBackgroundCommandRequest(command="sleep 1000"))
    assert ran.pid in [each.pid for each in api.list_background_processes(box.id).processes]
    assert api.kill_background_process(box.id, raw.KillBackgroundProcessRequest(pid=ran.pid)).success


def exit_code(stream: str) -> int:
    """What the last event of a stream says."""
    name, _, data = stream.rstrip("\n").rpartition("event: ")[2].partition("\ndata:")
    assert name == "exit"
    return json.loads(data)["exitCode"]


@calls(
    raw.ExecutionApi.create_pty_session,
    raw.ExecutionApi.list_pty_sessions,
    raw.ExecutionApi.execute_in_pty_session,
    raw.ExecutionApi.get_pty_buffer,
    raw.ExecutionApi.resize_terminal,
    raw.ExecutionApi.delete_pty_session,
)
def test_terminals(transport: Any, box: Any, session: str) -> None:
    api = raw.ExecutionApi(transport)
    assert session in [each.id for each in api.list_pty_sessions(box.id).data.sessions]
    assert (
        api.resize_terminal(box.id, session, raw.ResizeTerminalRequest(cols=101, rows=31)).message == "Terminal resized"
    )
    sent = api.execute_in_pty_session(
        box.id, session, raw.ExecuteInSessionRequest(command="stty size; touch /tmp/typed")
    )
    assert sent.message == "Command sent"
    box.exec("until test -e /tmp/typed; do sleep 0.1; done")
    assert "31 101" in api.get_pty_buffer(box.id, session).data.output
    other = api.create_pty_session(box.id).data.session_id
    assert api.delete_pty_session(box.id, other).message == "Session deleted"


@calls(raw.ExecutionApi.session_exec, raw.ExecutionApi.session_exec_stream)
def test_a_session_keeps_its_state_between_commands(transport: Any, box: Any) -> None:
    api = raw.ExecutionApi(transport)
    made = api.session_exec(box.id, raw.SessionExecRequest(action="create", shell="/bin/bash"))
    assert made.success
    session = made.session_id
    assert session.startswith("sess-")

    def ran(command: str) -> str:
        return api.session_exec(
            box.id, raw.SessionExecRequest(action="exec", session_id=session, command=command)
        ).output

    ran("cd /tmp; word=kept")
    assert "kept in /tmp" in ran('echo "$word in $PWD"')
    stream = raw.SessionExecStreamRequest(session_id=session, command='echo "still $word"; false')
    # The client reads no answer as NDJSON, which VoidRun's server sends: only its plain form gives it.
    answer = api.session_exec_stream_without_preload_content(box.id, stream)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    told = [json.loads(line) for line in answer.data.splitlines()]
    assert "still kept" in "".join(each.get("data", "") for each in told if each["type"] == "stdout")
    assert told[-1] == {"type": "exit", "exitCode": 1}
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(ran, 'touch /tmp/asking; read word; echo "told $word"')
        box.exec("until test -e /tmp/asking; do sleep 0.1; done")
        api.session_exec(box.id, raw.SessionExecRequest(action="input", session_id=session, input="it\n"))
        assert "told it" in asking.result()
    api.session_exec(box.id, raw.SessionExecRequest(action="resize", session_id=session, cols=100, rows=30))
    assert "30 100" in ran("stty size </dev/tty")
    assert api.session_exec(box.id, raw.SessionExecRequest(action="close", session_id=session)).success
    with pytest.raises(errors.NotFoundException):
        ran("true")


@calls(raw.ExecutionApi.connect_pty, raw.ExecutionApi.connect_pty_session)
def test_a_plain_request_for_a_web_socket_is_told_to_upgrade(transport: Any, box: Any, session: str) -> None:
    api = raw.ExecutionApi(transport)
    for ask in (lambda: api.connect_pty(box.id), lambda: api.connect_pty_session(box.id, session)):
        with pytest.raises(errors.ApiException) as refused:
            ask()
        assert refused.value.status == UPGRADE_REQUIRED


@calls(
    raw.FileSystemApi.create_directory,
    raw.FileSystemApi.create_file,
    raw.FileSystemApi.upload_file,
    raw.FileSystemApi.download_file,
    raw.FileSystemApi.list_files,
    raw.FileSystemApi.stat_file,
    raw.FileSystemApi.head_tail,
    raw.FileSystemApi.disk_usage,
    raw.FileSystemApi.search_files,
    raw.FileSystemApi.change_permissions,
    raw.FileSystemApi.copy_file,
    raw.FileSystemApi.move_file,
    raw.FileSystemApi.compress_file,
    raw.FileSystemApi.extract_archive,
    raw.FileSystemApi.delete_file,
)
def test_files(transport: Any, box: Any) -> None:
    api, place = raw.FileSystemApi(transport), "/tmp/plain"
    outcomes = [
        api.create_directory(box.id, place),
        api.create_file(box.id, f"{place}/one", content="1\n"),
        api.copy_file(box.id, f"{place}/one", f"{place}/two"),
        api.move_file(box.id, f"{place}/two", f"{place}/three"),
        api.change_permissions(box.id, f"{place}/three", "600"),
        api.stat_file(box.id, f"{place}/three"),
        api.head_tail(box.id, f"{place}/three", lines=1),
        api.disk_usage(box.id, place),
        api.search_files(box.id, place, "thr*"),
        api.compress_file(box.id, f"{place}/three", "zip"),
        api.extract_archive(box.id, f"{place}/three.zip", f"{place}/out"),
    ]
    assert [(each.status, each.data.exit_code, each.data.stderr) for each in outcomes] == [("success", 0, "")] * 11
    assert api.upload_file(box.id, f"{place}/told", body=b"4\n")
    assert api.download_file(box.id, f"{place}/told") == b"4\n"
    assert api.download_file(box.id, f"{place}/out/three") == b"1\n"
    listed = api.list_files(box.id, place).data.files
    assert {each.name for each in listed} == {"one", "three", "three.zip", "out", "told"}
    assert api.delete_file(box.id, place).data.exit_code == 0


@calls(raw.FileSystemApi.start_watch, raw.FileSystemApi.stream_watch_events)
def test_a_watch_is_a_web_socket(transport: Any, box: Any) -> None:
    api = raw.FileSystemApi(transport)
    watch = api.start_watch(box.id, raw.StartWatchRequest(path="/tmp")).data.session_id
    with pytest.raises(errors.ApiException) as refused:
        api.stream_watch_events(box.id, str(watch))
    assert refused.value.status == UPGRADE_REQUIRED


@calls(raw.ImagesApi.list_images, raw.ImagesApi.get_image, raw.ImagesApi.get_image_by_name)
def test_images(transport: Any) -> None:
    api = raw.ImagesApi(transport)
    (code,) = [each for each in api.list_images() if each.name == "code"]
    assert (code.tag, code.system, code.active, code.created_at is not None) == ("latest", True, True, True)
    assert api.get_image(code.id) == api.get_image_by_name("code") == code
    with pytest.raises(errors.NotFoundException):
        api.get_image_by_name("no-such-image")


@calls(
    raw.OrganizationsApi.generate_api_key,
    raw.OrganizationsApi.list_api_keys,
    raw.OrganizationsApi.activate_api_key,
    raw.OrganizationsApi.touch_api_key,
    raw.OrganizationsApi.revoke_api_key,
    raw.OrganizationsApi.get_org_users,
    raw.UsersApi.get_current_user,
)
def test_a_key_works_while_it_is_active(transport: Any, server: Server) -> None:
    api = raw.OrganizationsApi(transport)
    made = api.generate_api_key(raw.GenerateAPIKeyRequest(key_name="laptop"))
    assert (made.key_name, made.expires_in) == ("laptop", "Never (until revoked)")
    laptop = VoidRun(api_key=made.plain_key, base_url=base_url(server))
    laptop.list_sandboxes()
    assert (
        api.activate_api_key(made.key_id, raw.ActivateAPIKeyRequest(is_active=False)).message == "API key deactivated"
    )
    with pytest.raises(errors.UnauthorizedException):
        laptop.list_sandboxes()
    api.activate_api_key(made.key_id, raw.ActivateAPIKeyRequest(is_active=True))
    laptop.list_sandboxes()
    assert api.touch_api_key(made.key_id).message == "API key touched"
    (listed,) = [each for each in api.list_api_keys() if each.id == made.key_id]
    assert (listed.name, listed.scopes, listed.is_active) == ("laptop", ["*"], True)
    assert None not in {listed.created_at, listed.updated_at, listed.last_used_at}
    me = raw.UsersApi(transport).get_current_user()
    assert listed.created_by == me.id
    assert made.org_id in [org.id for org in me.orgs]
    assert me.id in [user.id for user in api.get_org_users().data]
    assert api.revoke_api_key(made.key_id).message == "API key revoked"
    with pytest.raises(errors.UnauthorizedException):
        laptop.list_sandboxes()
    with pytest.raises(errors.BadRequestException):
        api.touch_api_key("not-an-id")


@calls(raw.SystemApi.get_version)
def test_the_version_is_told_to_everybody(server: Server) -> None:
    stranger = VoidRun(api_key="none", base_url=base_url(server))
    assert raw.SystemApi(stranger._api_client).get_version().version
