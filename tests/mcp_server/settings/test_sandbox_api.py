"""Sandbox-api's environment: what turns its API on, what is not used, and its file of variables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_server.settings import Settings, SettingsRefused
from mcp_server.settings.env_file import read_env_file, with_env_file
from mcp_server.settings.names import without_effect

from .conftest import Read

DEFAULT_COMMANDS = (
    "ls,cat,echo,pwd,id,whoami,sh,bash,python,python3,pip,pip3,git,curl,wget,mkdir,cp,mv,rm,grep,find,head,tail,sort,"
    "uniq,xargs,env,basename,dirname,test,diff,patch,tar"
)
PUBLISHED = f"""\
# Redis
REDIS_HOST=redis
REDIS_PORT=6379

JWT_SECRET=change-me-in-production
API_KEYS={"a" * 24},{"b" * 24}
RATE_LIMIT_REQUESTS=100
SESSION_TTL_SECONDS=600     # sliding
CONTAINER_IMAGE=python:3.12-slim
CONTAINER_MEM_LIMIT=256m
CONTAINER_PIDS_LIMIT="50"
export MAX_EXEC_TIMEOUT_SECONDS='120'
WORKSPACE_PERSIST_VOLUMES=false
"""


@pytest.mark.parametrize("variable", ["SESSION_TTL_SECONDS", "CONTAINER_PIDS_LIMIT", "CLEANUP_INTERVAL_SECONDS"])
def test_its_own_variables_turn_its_api_on(read: Read, variable: str) -> None:
    reading = read(**{variable: "60"})
    assert reading.settings.sandbox_api
    assert str(reading.origins["sandbox_api"]) == f"{variable} (sandbox-api)"
    assert not read(**{variable: "60", "CASEMATE_SANDBOX_API": "false"}).settings.sandbox_api


@pytest.mark.parametrize("variable", ["JWT_SECRET", "RATE_LIMIT_REQUESTS", "REDIS_HOST", "SERVER_PORT"])
def test_variables_that_others_have_too_do_not(read: Read, variable: str) -> None:
    assert not read(**{variable: "1" * 32 if variable == "JWT_SECRET" else "100"}).settings.sandbox_api


def test_its_published_environment_is_taken_as_it_stands(tmp_path: Path, read: Read) -> None:
    file = tmp_path / ".env"
    file.write_text(PUBLISHED)
    variables = read_env_file(file)
    settings = read(**variables).settings
    assert settings.sandbox_api
    assert (settings.sandbox_api_mem, settings.sandbox_api_pids, settings.sandbox_api_ttl_seconds) == (256, 50, 600)
    assert (len(settings.api_keys), settings.jwt_secret, settings.sandbox_api_persist) == (2, None, False)
    told = {name: without_effect(name) for name in variables}
    assert {name for name, ignored in told.items() if ignored} == {"REDIS_HOST", "REDIS_PORT", "CONTAINER_IMAGE"}
    redis = told["REDIS_HOST"]
    assert redis is not None
    assert redis.reason.startswith("Redis is not needed")


def test_a_list_of_commands_with_interpreters_is_not_used_and_says_why(read: Read) -> None:
    reading = read(ALLOWED_COMMANDS=DEFAULT_COMMANDS)
    assert reading.settings.sandbox_api_commands == ()
    (warning,) = reading.warnings
    assert "bash, find, git, pip" in warning
    assert "set CASEMATE_SANDBOX_API_COMMANDS" in warning
    assert read(ALLOWED_COMMANDS="ls, cat").settings.sandbox_api_commands == ("ls", "cat")
    assert read(CASEMATE_SANDBOX_API_COMMANDS="ls,bash").settings.sandbox_api_commands == ("ls", "bash")


@pytest.mark.parametrize(
    ("text", "mib"), [("256m", 256), ("1g", 1024), ("1G", 1024), ("512", 512), ("536870912", 512), ("524288k", 512)]
)
def test_memory_is_written_as_for_docker_or_in_mib(read: Read, text: str, mib: int) -> None:
    assert read(CONTAINER_MEM_LIMIT=text).settings.sandbox_api_mem == mib


@pytest.mark.parametrize("text", ["lots", "-1", "64m", "1t", "m"])
def test_memory_that_is_no_size_or_too_little_is_refused(refusal: Callable[..., str], text: str) -> None:
    assert refusal(CONTAINER_MEM_LIMIT=text).startswith(f"CONTAINER_MEM_LIMIT={text} ")


def test_a_second_port_must_be_another_one(read: Read, refusal: Callable[..., str]) -> None:
    assert read(CASEMATE_SANDBOX_API="true", CASEMATE_SANDBOX_API_PORT="8000").settings.listening == (33944, 8000)
    assert read(CASEMATE_SANDBOX_API="true", SERVER_PORT="8000").settings.listening == (8000,)
    assert refusal(SERVER_PORT="8000", CASEMATE_SANDBOX_API_PORT="8000").startswith("CASEMATE_SANDBOX_API_PORT=8000")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text('A=file\nB="two\\nlines" # a comment\nC=a#b # another\nD=\n')
    assert with_env_file({"A": "environment"}, file) == {"A": "environment", "B": "two\nlines", "C": "a#b", "D": ""}
    assert with_env_file({"A": "environment"}, None) == {"A": "environment"}


@pytest.mark.parametrize("line", ["no equals sign", "1A=x", "A='open", 'A="x" y', "=x"])
def test_a_line_that_is_no_variable_is_named_by_its_number_and_not_repeated(tmp_path: Path, line: str) -> None:
    file = tmp_path / ".env"
    file.write_text(f"GOOD=1\n{line}\n")
    with pytest.raises(SettingsRefused) as refused:
        read_env_file(file)
    (reason,) = refused.value.reasons
    assert reason == f"{file}, line 2: write NAME=value, with both quotes or none"


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="cannot be read: No such file"):
        Settings.load(tmp_path / "none")
    (tmp_path / ".env").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsRefused, match="is not UTF-8"):
        read_env_file(tmp_path / ".env")
