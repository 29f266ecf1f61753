"""The list of allowed commands: what it refuses, and that what it lets pass runs nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mcp_server.sandbox_api.allowed_commands import ALL_COMMANDS, AllowedCommands
from vmm.errors import InvalidInput

LISTED = ("ls", "cat", "echo", "env", "xargs", "sh", "find", "printf", "read", "export", "timeout", "nice")
POLICY = AllowedCommands(LISTED)


def reason(line: str) -> str:
    """Why a line is refused; empty if it may run."""
    try:
        POLICY.check(line)
    except InvalidInput as error:
        assert error.message == "Command not allowed by whitelist"
        return error.hint
    return ""


@pytest.mark.parametrize(
    "line",
    [
        "ls",
        "ls -la /tmp | cat && echo done || echo failed",
        "FOO=1 ls",
        "/bin/ls; /usr/bin/cat x",
        "'ls' -a; \"ls\"; l\\s",
        'echo $(cat x) `ls` "$(ls)" <(cat y) > out 2>&1',
        "for i in 1 2 3; do echo $i; done; while read line; do echo $line; done < x",
        "if [ -f x ]; then ls; else cat x; fi; [[ -d y ]] && ls",
        "case $x in a) ls;; *) cat;; esac",
        "env A=1 B=2 ls | xargs -n 1 -I {} cat {}",
        "sh -c 'ls | cat'",
        "env timeout 5 nice -n 10 ls",
        "find . -name '*.py' -exec cat {} ';'",
        "cat <<EOF\n$(ls) $x\nEOF",
        "cat <<'EOF'\n$(rm x)\nEOF",
        "echo '$(rm)' $'`rm`' \"a\" <(ls)",
        "time ls; command -v rm; command ls; cd /tmp; exit 1; true",
        "{ ls; (cat x); } & wait",
        "export FOO=1 BAR",
        "echo rm; echo 'rm x' \"rm\" # rm",
        "echo $PATH ${PATH} ${x:-1} $((1 + 2))",
        "printf '%s\\n' $x; printf -v answer '%s' 1",
        "",
        "# a comment",
    ],
)
def test_what_is_listed_may_be_combined(line: str) -> None:
    assert reason(line) == ""


@pytest.mark.parametrize(
    "line",
    [
        "rm x",
        "ls; rm x",
        "ls && rm x",
        "ls || rm x",
        "ls | rm x",
        "ls & rm x",
        "ls\nrm x",
        "echo $(rm x)",
        "echo `rm x`",
        'echo "$(rm x)"',
        "echo ${x:-$(rm x)}",
        "echo $((1 + $(rm x)))",
        "cat <(rm x)",
        "cat > $(rm x)",
        "cat <<< $(rm x)",
        "cat <<EOF\n$(rm x)\nEOF",
        "x=$(rm x)",
        "FOO=1 rm x",
        "export x=$(rm x)",
        "! rm x",
        "time rm x",
        "{ rm x; }",
        "(rm x)",
        "if rm x; then ls; fi",
        "while rm x; do ls; done",
        "for i in $(rm x); do ls; done",
        "case $(rm x) in a) ls;; esac",
        "f() { rm x; }; ls",
        "[[ $(rm x) ]]",
        "env rm x",
        "env -i A=1 rm x",
        "xargs rm",
        "ls | xargs -0 -n 1 rm",
        "sh -c 'rm x'",
        "sh -c 'ls; sh -c \"rm x\"'",
        "env sh -c 'rm x'",
        "timeout 5 rm x",
        "timeout -s 9 5 nice -n 5 rm x",
        "command rm x",
        "exec rm x",
        "find . -exec rm {} ';'",
        "find . -name x -execdir rm {} +",
        "/bin/rm x",
        "r\\m x",
        "'r'm x",
        '"rm" x',
        "< x rm",
        "> x rm",
    ],
)
def test_a_command_that_is_not_listed_is_named_wherever_it_stands(line: str) -> None:
    assert reason(line).startswith("rm is not one of the allowed commands: cat, echo, env")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("echo 'open", "the line cannot be parsed at byte"),
        ("ls )", "the line cannot be parsed"),
        ("if ls; then", "the line cannot be parsed"),
        ("$CMD x", "the name of a command must be written out"),
        ("l? x", "the name of a command must be written out"),
        ("{ls,rm} x", "the line cannot be parsed"),
        ("ls{,x} x", "the name of a command must be written out"),
        ("env A=$x ls", "the words of env up to its command must be written out"),
        ("$'rm' x", "the name of a command must be written out"),
        ("$(echo rm) x", "the name of a command must be written out"),
        ("./ls", "'./ls' must be a name"),
        ("/tmp/ls", "'/tmp/ls' must be a name"),
        ("/bin/../tmp/ls", "must be a name"),
        ("eval ls", "what eval runs cannot be checked"),
        (". ./x", "what . runs cannot be checked"),
        ("trap ls EXIT", "what trap runs cannot be checked"),
        ("PATH=. ls", "PATH must stay as it is"),
        ("export PATH=.", "PATH must stay as it is"),
        ("env PATH=. ls", "PATH must stay as it is"),
        ("LD_PRELOAD=x ls", "LD_PRELOAD must stay as it is"),
        ("read PATH", "PATH must stay as it is"),
        ("printf -v PATH .", "PATH must stay as it is"),
        ("printf -vPATH .", "PATH must stay as it is"),
        ('printf "$x" .', "the format of printf must be written out"),
        ("for PATH in .; do ls; done", "PATH must stay as it is"),
        ("(( PATH = 1 )); ls", "PATH must stay as it is"),
        ("echo $(( PATH = 1 ))", "PATH must stay as it is"),
        ("echo ${PATH:=.}", "PATH must stay as it is"),
        ("BASH_CMDS[ls]=./x; ls", "BASH_CMDS must stay as it is"),
        ("sh x", "sh must have -c and a line"),
        ("echo rm | sh", "sh must have -c and a line"),
        ('sh -c "$x"', "the line of sh -c must be written out"),
        ("xargs -I {} sh -c 'cat {}'", "the line of sh -c must have no {}"),
        ("xargs -I {} {}", "'{}' is not a name"),
        ("xargs -I ls ls", "xargs must have -I {}"),
        ("echo rm | xargs env", "what env runs comes from its input"),
        ("env -S 'rm x'", "env must have no option -S"),
        ("env $x ls", "the words of env up to its command must be written out"),
        ("find . $x", "the words of find must be written out"),
        ("echo `echo \\`rm x\\``", "substitution at byte 12 cannot be checked"),
        ("echo `ls \\$x`", "backquotes must have no backslash"),
        ('x="a[\\$(rm x)]"; echo $((x))', "substitution at byte 6 cannot be checked"),
        ('x="$(ls)[\\$(rm x)]"; echo $((x))', "substitution at byte 10 cannot be checked"),
        ("x=\"$(echo 'a[$(rm x)]')\"; echo $((x))", "substitution at byte 13 cannot be checked"),
        ("x='a[$(rm x)]'; echo $((x))", "texts must have no subscript"),
        ("echo ${x@P}", "expansions with @"),
        ('echo "${x:-`rm`}"', "substitution at byte 11 cannot be checked"),
        ("echo ${x%$(rm)}", "substitution at byte 9 cannot be checked"),
        ("echo \"${x:-'$(rm)'}\"", "substitution at byte 12 cannot be checked"),
        ("cat <<-EOF\n\t$(rm)\n\tEOF", "substitution at byte 12 cannot be checked"),
        ("ls {PATH}>x", "PATH must stay as it is"),
        ("echo ${x%${PATH:=.}}", "PATH must stay as it is"),
        ("((rm x) | ls)", "the line cannot be parsed"),
        ("echo $((rm x); ls)", "the line cannot be parsed"),
        ("ls\0", "NUL"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_reason(line: str, said: str) -> None:
    assert said in reason(line)


def test_without_a_list_everything_may_run() -> None:
    assert not ALL_COMMANDS
    ALL_COMMANDS.check("rm x; echo 'open")


def test_lines_in_lines_have_an_end() -> None:
    line = "ls"
    for _ in range(4):
        line = f"sh -c '{line}'" if "'" not in line else f'sh -c "{line}"' if '"' not in line else line
    assert reason(line) == ""


# What follows runs lines in a real bash, in which every program of these names only leaves a mark.

FORBIDDEN = ("rm", "curl")
TOKENS = r"""
x -c -n 1 {} -I -i -- -exec ';' + . A=1 PATH=./evil PATH $x $(rm) `rm` 'rm' "rm" "$(rm)" x=rm x='$(rm)' 'a[$(rm)]'
./evil/ls {rm,ls} r\m -v [ ] [[ ]] (( )) $(( ${x:-rm} ${x@P} eval command time f() f ! < > out <<< <<EOF EOF case in
esac *) for do done if then fi while read cd evil $'rm' { } ( ) \ ' " # -rm rm| ls|
${x%$(rm)} "${x:-`rm`}" {PATH}>x ((rm) $((rm) <<-EOF "${x:-'$(rm)'}"
"""
WORDS = st.sampled_from([*LISTED, *FORBIDDEN, "'ls; rm'", *TOKENS.split()])
GLUE = st.sampled_from([" ", " ", " ", " ", ";", "; ", " | ", " && ", " || ", "\n", "", " & "])
LINES = st.lists(st.tuples(WORDS, GLUE), min_size=1, max_size=9).map(
    lambda pairs: "".join(word + glue for word, glue in pairs)
)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory with the programs of the list, and with others that leave a mark."""
    made = Path(tempfile.mkdtemp())
    (made / "bin").mkdir()
    (made / "evil").mkdir()
    for name in LISTED:
        if found := shutil.which(name):
            (made / "bin" / name).symlink_to(found)
    for marker in (*(made / "bin" / name for name in FORBIDDEN), made / "evil/ls"):
        marker.write_text(f"#!/bin/bash\n: > {made}/mark\n")
        marker.chmod(0o755)
    yield made
    shutil.rmtree(made)


@given(LINES)
@settings(max_examples=600)
@example("x=rm; ls $x; echo $x | xargs echo")
@example("f() { ls; }; ls <<< rm")
def test_what_passes_runs_nothing_that_is_not_listed(place: Path, line: str) -> None:
    if reason(line):
        return
    mark = place / "mark"
    environment = {"PATH": f"{place}/bin", "HOME": str(place), "LC_ALL": "C"}
    with subprocess.Popen(
        ["/bin/bash", "-c", line],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        try:
            with suppress(subprocess.TimeoutExpired):
                running.wait(timeout=20)
        finally:
            _end(running.pid)
    assert not mark.exists(), line


def _end(group: int) -> None:
    """End whatever a line left in the background."""
    with suppress(ProcessLookupError):
        os.killpg(group, 9)


SIMPLE = (
    "{}",
    "FOO=1 {}",
    "env A=1 {}",
    "ls | xargs -0 {}",
    "timeout 5 {}",
    "nice -n 5 {}",
    "command {}",
    "time {}",
    "> out {}",
)
AROUND = (
    *("ls; {}", "ls && {}", "cat x | {}", "{} || ls", "({})", "{{ {}; }}", "echo $({})", 'echo "a $({}) b"'),
    *("echo ${{x:-$({})}}", "cat <({})", "x=$({})", "if {}; then ls; fi", "if ls; then {}; fi", "f() {{ {}; }}"),
    *("for i in 1 2; do {}; done", "while {}; do ls; done", "case x in x) {};; esac", "cat <<EOF\n$({})\nEOF"),
    *("[[ -n $({}) ]]", "echo $((1 + $({})))", "{} &", "ls\n{}", "ls > $({})"),
)


@given(st.sampled_from(SIMPLE), st.lists(st.sampled_from(AROUND), max_size=4), st.sampled_from(FORBIDDEN))
@example("{}", ["[[ -n $({}) ]]", 'echo "a $({}) b"'], "rm")
def test_however_a_command_is_wrapped_it_is_found(simple: str, around: list[str], forbidden: str) -> None:
    lines = {name: simple.format(f"{name} -x") for name in ("ls", forbidden)}
    for one in around:
        lines = {name: one.format(line) for name, line in lines.items()}
    # `((ls))` is arithmetic.
    assume("((ls" not in lines["ls"])
    assert reason(lines[forbidden]), lines
    # Some forms do not go together, such as `{ ls &; }`.
    assume(not reason(lines["ls"]).startswith("the line cannot be parsed"))
    assume("cannot be checked" not in reason(lines["ls"]))
    assert reason(lines["ls"]) == "", lines
    assert reason(lines[forbidden]).startswith(f"{forbidden} is not one of"), lines


@given(st.text(max_size=60))
def test_any_text_is_let_pass_or_refused_with_a_reason(line: str) -> None:
    reason(line)
