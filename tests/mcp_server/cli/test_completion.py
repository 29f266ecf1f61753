"""Shell completion."""

from __future__ import annotations

import shutil

import anyio
import pytest

from tests.mcp_server.cli.rig import CASEMATE, Cli
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

TRY = """
eval "$(casemate completion bash)"
complete -p casemate > /dev/null || exit 1
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_casemate_completion casemate
printf '%s\\n' "${COMPREPLY[@]}"
"""


async def completed(cli: Cli, *words: str) -> list[str]:
    """Return the completions that bash offers for the last word."""
    with anyio.fail_after(PATIENCE_S):
        done = await anyio.run_process(
            ["bash", "-c", TRY, "bash", "casemate", *words],
            env=cli.env | {"PATH": f"{CASEMATE.parent}:{cli.env['PATH']}"},
        )
    assert done.stderr == b""
    return done.stdout.decode().split()


async def test_bash_completes_commands_options_and_names_of_sandboxes(cli: Cli) -> None:
    await cli("sandbox", "create", "bark")
    assert await completed(cli, "sand") == ["sandbox"]
    assert await completed(cli, "sandbox", "create", "x", "--im") == ["--image"]
    assert await completed(cli, "key", "create", "x", "--scope", "") == ["read", "run", "admin"]
    assert await completed(cli, "sandbox", "get", "b") == ["bark", "box"]
    assert await completed(cli, "sandbox", "rm", "box", "ba") == ["bark"]
    assert await completed(cli, "shell", "bo") == ["box"]
    await cli("snapshot", "create", "box", "before")
    assert await completed(cli, "snapshot", "restore", "box", "be") == ["before"]
    assert await completed(cli, "sandbox", "create", "x", "--snapshot", "b") == ["before"]
    assert await completed(cli, "fork", "bo") == ["box"]


async def test_completion_without_a_server_or_a_key_offers_and_prints_nothing(cli: Cli) -> None:
    nowhere = "http://127.0.0.1:1"
    assert await completed(cli.using(url=nowhere), "shell", "b") == []
    assert await completed(cli, "--url", nowhere, "shell", "b") == []
    assert await completed(cli.using(key="cm_" + "x" * 43), "shell", "b") == []
    alone = Cli(url="", key="", keys={}, cwd=cli.cwd)
    assert await completed(alone, "shell", "b") == []


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("zsh", 'autoload -U compinit; compinit -u -D; eval "$(casemate completion zsh)"; print ${_comps[casemate]}'),
        ("fish", "casemate completion fish | source; complete -C 'casemate sandbox get b'"),
    ],
)
async def test_other_shells_accept_their_scripts(cli: Cli, shell: str, words: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    flags = ["-f"] if shell == "zsh" else ["--no-config"]
    with anyio.fail_after(PATIENCE_S):
        done = await anyio.run_process(
            [program, *flags, "-c", words],
            env=cli.env | {"PATH": f"{CASEMATE.parent}:{cli.env['PATH']}", "HOME": str(cli.cwd)},
        )
    assert done.stderr == b""
    assert done.stdout.split() == [b"_casemate_completion" if shell == "zsh" else b"box"]
