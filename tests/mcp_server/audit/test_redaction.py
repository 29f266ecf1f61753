"""What of a call's arguments is kept, and what never is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_server.audit.redaction import MOST_BYTES, redact_arguments, redact_text

KEY = "cm_" + "Ab3-_" * 8 + "xyz"
PRIVATE = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----"


def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.text(max_size=12)
    return st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(names, inner, max_size=4),
        # As a name it must not appear either.
        st.dictionaries(st.sampled_from([KEY, f"x{KEY}"]), inner, max_size=1),
    )


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=300),
    st.tuples(st.text(max_size=400), st.text(max_size=400)).map(KEY.join),
)


@settings(max_examples=300)
@given(st.dictionaries(st.text(max_size=12), st.recursive(leaves, around, max_leaves=12), max_size=6))
@example({"command": "x" * 180 + KEY})
@example({"command": "x" * 500 + KEY * 30})
@example({KEY: KEY})
@example({"env": {KEY: KEY}})
def test_a_key_anywhere_in_the_arguments_never_appears(arguments: dict[str, Any]) -> None:
    text = redact_arguments(arguments)
    assert KEY not in text
    assert KEY[:16] not in text
    assert len(text.encode()) <= MOST_BYTES


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"curl -H 'X-API-Key: {KEY}' http://h", KEY),
        ("curl -H 'Authorization: Bearer abcdefgh12345678'", "abcdefgh12345678"),
        ("curl -H 'authorization: basic dXNlcjpwYXNz'", "dXNlcjpwYXNz"),
        ("OPENAI=sk-proj-abcdefghijklmnop run", "abcdefghijklmnop"),
        ("git clone https://ghp_abcdefghijklmnop1234@github.com/a/b", "abcdefghijklmnop1234"),
        ("aws AKIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
        ("psql postgres://me:hunter2@db/x", "hunter2"),
        ("redis-cli -u redis://:hunter2@db", "hunter2"),
        (f"echo '{PRIVATE}' > key", "MIIEow"),
        ("echo '-----BEGIN PRIVATE KEY-----\nMIIEow" + "A" * 3000, "MIIEow"),
        ("DB_PASSWORD=hunter2 ./run", "hunter2"),
        ("mysql --password hunter2", "hunter2"),
        ("login --token='two words' now", "two words"),
        ("vault --client-token hunter2", "hunter2"),
        ('{"api_key": "hunter2-abc"}', "hunter2-abc"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def", "eyJzdWIiOiIxIn0"),
        ("ci_" + "a" * 43, "aaaaaaaa"),
    ],
)
def test_what_looks_like_a_credential_is_hidden_inside_a_command(text: str, secret: str) -> None:
    shown = redact_text(text)
    assert secret not in shown
    assert "[hidden]" in shown


@pytest.mark.parametrize(
    "text",
    [
        "ls -la /root",
        "python3 -m http.server 8080",
        "the credential has run",
        "wc --words token.txt",
        "keyboard --layout de",
    ],
)
def test_an_ordinary_command_is_kept_as_it_is(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "name",
    ["password", "API_KEY", "apiKey", "secret", "clientSecret", "token", "authorization", "key", "sshKey", "auth"],
)
def test_what_is_named_like_a_secret_is_hidden_whatever_it_looks_like(name: str) -> None:
    assert json.loads(redact_arguments({name: "hunter2"})) == {name: "[hidden]"}
    assert json.loads(redact_arguments({"deep": [{name: {"a": "hunter2"}}]})) == {"deep": [{name: "[hidden]"}]}


def test_of_an_environment_only_the_names_are_kept() -> None:
    kept = json.loads(redact_arguments({"envVars": {"PORT": "8080", "PASSWORD": "hunter2"}, "env": ["A=b", "C=d"]}))
    assert kept == {"envVars": ["PORT", "PASSWORD"], "env": ["A", "C"]}
    assert json.loads(redact_arguments({"env": "A=b"})) == {"env": "[hidden]"}


def test_of_a_files_content_only_the_length_is_kept() -> None:
    kept = json.loads(redact_arguments({"path": "/x", "content": "hunter2" * 1000}))
    assert kept == {"path": "/x", "content": "[7000 characters]"}


def test_what_was_typed_into_a_terminal_and_its_keys_are_kept() -> None:
    given = {"id": "box", "text": "make test", "keys": ["enter"]}
    assert json.loads(redact_arguments(given)) == given


def test_long_texts_are_cut() -> None:
    kept = json.loads(redact_arguments({"command": "x" * 5000}))["command"]
    assert len(kept) == 200
    assert kept.endswith("…")


def test_many_arguments_are_cut_to_two_kilobytes_even_in_other_alphabets() -> None:
    text = redact_arguments({f"name{number}": "é" * 150 for number in range(100)})
    assert 1900 < len(text.encode()) <= MOST_BYTES
    assert text.endswith("…")


def test_what_no_store_takes_is_replaced() -> None:
    kept = redact_arguments({"a": "\ud800", "b": "\0", "c": float("nan"), "d": 10**400, "e": object()})
    assert kept.encode().decode() == kept
    assert "\0" not in kept
    assert json.loads(kept)["d"] == "[a huge number]"
