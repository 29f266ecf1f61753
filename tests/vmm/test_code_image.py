"""The default image as an agent finds it: its programs run, and its settings let common work succeed at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.conftest import Opener
from vmm.fleet import Fleet
from vmm.guest.values import Command, Outcome
from vmm.hypervisor.process import orphans
from vmm.sandboxes.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALICE = "a" * 24
WAIT_MS = 600_000

VERSIONS = (
    "bash --version", "curl --version", "dig -v", "fd --version", "file --version", "g++ --version", "gcc --version",
    "git --version", "ip -V", "jq --version", "lsof -v", "make --version", "node --version", "npm --version",
    "ping -V", "pip --version", "pkg-config --version", "pytest --version", "python3 --version",
    "python3 -m pytest --version", "python3-config --includes", "rg --version", "rsync --version", "sqlite3 --version",
    "ss -V", "ssh -V", "strace --version", "sudo --version", "tar --version", "tmux -V", "tree --version",
    "tsx --version", "unzip -v", "uv --version", "uvx --version", "vi --version", "vim --version", "xz --version",
    "zip -v", "zstd --version", "python3 -c 'import requests, yaml; print(requests.get, yaml.safe_load)'",
)  # fmt: skip

C_PROGRAM = """\
cat > hello.c <<'EOF'
#include <math.h>
#include <stdio.h>
int main(int argc, char **argv) { printf("%.0f\\n", sqrt(argc + 143)); return 0; }
EOF
cat > hello.cc <<'EOF'
#include <iostream>
#include <string>
int main() { std::cout << std::string(3, '+') << std::endl; }
EOF
printf 'all: hello plus\\nhello: hello.c\\n\\tcc -Wall -Werror -o $@ $< -lm\\n' > Makefile
printf 'plus: hello.cc\\n\\tc++ -o $@ $<\\n' >> Makefile
make -s
./hello
./plus
"""

EXTENSION = """\
mkdir triple
cd triple
cat > triple.c <<'EOF'
#include <Python.h>
static PyObject *triple(PyObject *self, PyObject *value) { return PyNumber_Multiply(value, PyLong_FromLong(3)); }
static PyMethodDef methods[] = {{"triple", triple, METH_O, 0}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "triple", 0, -1, methods};
PyMODINIT_FUNC PyInit_triple(void) { return PyModule_Create(&module); }
EOF
cat > setup.py <<'EOF'
from setuptools import Extension, setup
setup(name="triple", version="1", ext_modules=[Extension("triple", ["triple.c"])])
EOF
pip install --no-index --no-build-isolation .
cd /
python3 -c 'import triple; print(triple.triple(14))'
"""


@pytest.fixture
async def box(open_fleet: Opener, data: Path) -> AsyncGenerator[Fleet]:
    """A fleet with one sandbox, `box`, of the default image."""
    async with open_fleet() as fleet:
        await fleet.sandboxes.create(ALICE, SandboxSpec(name="box", network="none"))
        yield fleet
        await fleet.sandboxes.delete(ALICE, "box")
    assert orphans(data / "instances") == {}


async def sh(fleet: Fleet, line: str, *, user: str = "") -> Outcome:
    return await fleet.guest.exec(ALICE, "box", Command(shell=line, user=user), wait_ms=WAIT_MS)


async def said(fleet: Fleet, line: str, *, user: str = "") -> list[str]:
    outcome = await sh(fleet, line, user=user)
    assert outcome.exit_code == 0, (outcome.stdout.data() + outcome.stderr.data()).decode()
    return outcome.stdout.data().decode().splitlines()


async def test_every_program_runs(box: Fleet) -> None:
    tried = "\n".join(f'{{ {command}; }} </dev/null >/tmp/out 2>&1 || echo "{command}"' for command in VERSIONS)
    assert await said(box, tried) == []
    # Without manuals, but Java's and PostgreSQL's packages put links there.
    assert await said(box, "ls -d /usr/share/man/man1; find /usr/share/man -type f") == ["/usr/share/man/man1"]


async def test_c_and_cpp_programs_and_a_python_extension_compile(box: Fleet) -> None:
    assert await said(box, f"set -e; mkdir /root/c; cd /root/c\n{C_PROGRAM}") == ["12", "+++"]
    outcome = await sh(box, f"set -e; cd /root\n{EXTENSION}")
    assert outcome.exit_code == 0, outcome.stderr.data()
    # pip as root says nothing that frightens: no warning, and no error about whose environment this is.
    assert outcome.stderr.data() == b""
    assert outcome.stdout.data().splitlines()[-2:] == [b"Successfully installed triple-1", b"42"]


async def test_a_commit_needs_no_configuration_and_a_users_own_wins(box: Fleet) -> None:
    commit = "git commit -q --allow-empty -m first && git log -1 --format='%an <%ae>' && git branch --show-current"
    assert await said(box, f"git init -q /root/work && cd /root/work && {commit}") == [
        "Sandbox <sandbox@example.com>",
        "main",
    ]
    own = "git config --global user.name Ada && git config --global user.email ada@example.org"
    assert (await said(box, f"{own} && cd /root/work && {commit}"))[0] == "Ada <ada@example.org>"


async def test_sudo_asks_for_no_password(box: Fleet) -> None:
    assert await said(box, "sudo -n id -u") == ["0"]
    await said(box, "useradd -m -s /bin/bash -G sudo ada && useradd -m bob")
    assert await said(box, "id -un; sudo -n id -u; sudo -n -u bob id -un", user="ada") == ["ada", "0", "bob"]
    assert (await sh(box, "sudo -n true", user="bob")).exit_code == 1
    # Where the host's certificate authorities are, among others.
    assert await said(box, "echo PLACE=here >> /etc/environment; sudo -n printenv PLACE", user="root") == ["here"]


async def test_locales_and_editors_take_english_in_utf_8(box: Fleet) -> None:
    locales = await said(box, "locale -a")
    assert {"C.utf8", "en_US.utf8"} <= set(locales)
    assert await said(box, "LC_ALL=en_US.UTF-8 locale charmap; LC_ALL=en_US.UTF-8 bash -c : 2>&1") == ["UTF-8"]
