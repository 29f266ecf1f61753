"""Which program runs a piece of code, and with which extension."""

from __future__ import annotations

import pytest

from mcp_server.tools.languages import language_of
from vmm.errors import InvalidInput

pytestmark = pytest.mark.anyio


def ways(code: str, language: str = "typescript") -> list[str]:
    return [f"{attempt.program[0]} {attempt.suffix}" for attempt in language_of(language).attempts(code)]


@pytest.mark.parametrize("name", ["TypeScript", " ts ", "tsx"])
def test_languages_have_aliases(name: str) -> None:
    assert language_of(name).name == "typescript"


def test_an_unknown_language_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="'cobol' is unknown") as refused:
        language_of("cobol")
    assert "python, javascript, typescript, bash" in refused.value.hint


@pytest.mark.parametrize(
    "code",
    [
        "const a: number = 1; console.log(a)",
        "const fs = require('fs'); console.log(fs.constants)",
        'const { join } = require("node:path")\nconsole.log(join(__dirname, "x"))',
        "const important = 'requirements'; console.log(important)",
    ],
)
def test_node_itself_runs_plain_scripts(code: str) -> None:
    assert ways(code) == ["node .cts", "tsx .ts", "tsx .mts"]


@pytest.mark.parametrize(
    ("code", "then"),
    [
        ("import { readFile } from 'fs/promises'\nreadFile", ["tsx .ts", "tsx .mts"]),
        ('import "node:fs"\n', ["tsx .ts", "tsx .mts"]),
        ("console.log(import.meta.url)", ["tsx .ts", "tsx .mts"]),
        ("const a: number = await Promise.resolve(1)", ["tsx .mts"]),
        ("export const a = 1", ["tsx .ts", "tsx .mts"]),
    ],
)
def test_node_itself_runs_modules_that_need_nothing_else(code: str, then: list[str]) -> None:
    assert ways(code) == ["node .mts", *then]


@pytest.mark.parametrize(
    "code",
    [
        "import { near } from './near'",
        "import _ from 'lodash'",
        "import _ from\n  'lodash'",
        "export * from './near'",
        "const near = require('./near')",
        "const near = require(name)",
        "const load = require; load('./near')",
        "const near = import('./near')",
        "const near = import(name)",
        "const near = import(/* near */ './near')",
        "import { createRequire } from 'node:module'\nconst near = createRequire(import.meta.url)('./near')",
        "import fs from 'fs'\nconst os = require('os')",
        "import fs from 'fs'\nconsole.log(__dirname)",
        "import fs = require('fs')\nexport = fs",
        "class A {\n  @logged\n  run() {}\n}",
    ],
)
def test_tsx_runs_what_may_need_more(code: str) -> None:
    assert ways(code) == ["tsx .ts", "tsx .mts"]


def test_a_refusal_names_the_file_and_a_reason_that_is_known() -> None:
    node, tsx, last = language_of("ts").attempts("enum A { B }")
    refused = b"/root/.run-1.cts:1\nSyntaxError [ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX]: TypeScript enum is not supported"
    assert node.refuses("/root/.run-1.cts", refused)
    assert not node.refuses("/root/.run-2.cts", refused)
    assert not node.refuses("/root/.run-1.cts", b"/root/.run-1.cts:1\nTypeError: x is not a function")
    assert not tsx.refuses("/root/.run-1.cts", refused)
    assert not last.refusals
