"""The API's description as a page of HTML: one file, without scripts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
code, pre { font: .875rem/1.4 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; }
nav { columns: 12rem; }
nav a { display: block; }
details { border-top: 1px solid #8886; }
summary { cursor: pointer; padding: .4rem 0; }
summary b { display: inline-block; font: 700 .75rem/1 ui-monospace, monospace; width: 5.5rem; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid #8883; padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
h4 { margin: 1rem 0 .25rem; }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of the page, which allows its own style and nothing else."""

_CODE = re.compile(r"`([^`]+)`")


def docs_page(description: dict[str, Any]) -> str:
    """Render a description.

    Args:
        description: The OpenAPI document, as `openapi.describe` makes it.
    """
    info = description["info"]
    groups = _groups(description)
    contents = "".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag in groups)
    sections = "".join(
        f'<h2 id="{escape(tag)}">{escape(tag)}</h2>{"".join(operations)}' for tag, operations in groups.items()
    )
    schemas = "".join(
        f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary>{_json(schema)}</details>'
        for name, schema in sorted(description["components"]["schemas"].items())
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])} API {escape(info['version'])}</h1><p>{_text(info['description'])}</p>"
        '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
        f'<nav>{contents}<a href="#schemas">schemas</a></nav>{sections}'
        f'<h2 id="schemas">schemas</h2>{schemas}</body></html>'
    )


def _groups(description: dict[str, Any]) -> dict[str, list[str]]:
    """Render the operations, by their tag."""
    groups: dict[str, list[str]] = {}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(method.upper(), path, operation))
    for path, socket in description["x-websockets"].items():
        groups.setdefault(socket["tags"][0], []).append(_operation("WebSocket", path, socket))
    return dict(sorted(groups.items()))


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    scope = f"Needs the scope <code>{operation['x-scope']}</code>." if "x-scope" in operation else "Needs no scope."
    if not operation["security"]:
        scope = "Needs no credential."
    parts = [f"<p>{_text(operation.get('description', operation['summary']))} {scope}</p>"]
    if operation["parameters"]:
        rows = "".join(_parameter(one) for one in operation["parameters"])
        parts.append(f"<h4>Parameters</h4><table>{rows}</table>")
    if body := operation.get("requestBody"):
        parts.append(f"<h4>Body</h4>{_contents(body['content'])}")
    if messages := operation.get("x-messages"):
        parts.append(f"<h4>Messages</h4><p>{_text(messages['description'])}</p>")
    answers = [(status, answer) for status, answer in operation.get("responses", {}).items() if "$ref" not in answer]
    parts += [f"<h4>{status}</h4>{_contents(answer['content'])}" for status, answer in answers]
    refused = ", ".join(status for status, answer in operation.get("responses", {}).items() if "$ref" in answer)
    if refused:
        parts.append(f"<h4>Errors</h4><p>{refused}: {_reference('Problem')}</p>")
    return (
        f'<details id="{escape(operation["operationId"])}"><summary><b>{method}</b><code>{escape(path)}</code> '
        f"{_text(operation['summary'])}</summary>{''.join(parts)}</details>"
    )


def _parameter(one: dict[str, Any]) -> str:
    needed = "required" if one["required"] else ""
    about = _text(one.get("description", ""))
    schema = f"<code>{escape(json.dumps(one['schema']))}</code>"
    return f"<tr><td><code>{escape(one['name'])}</code><td>{one['in']} {needed}<td>{about} {schema}</tr>"


def _contents(contents: dict[str, Any]) -> str:
    return "".join(f"<p><code>{escape(kind)}</code></p>{_json(one['schema'])}" for kind, one in contents.items())


def _json(schema: dict[str, Any]) -> str:
    if reference := schema.get("$ref"):
        return f"<p>{_reference(reference.rpartition('/')[2])}</p>"
    return f"<pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"


def _reference(name: str) -> str:
    return f'<a href="#schema-{escape(name)}"><code>{escape(name)}</code></a>'


def _text(text: str) -> str:
    """Render prose, in which code is between backticks."""
    return _CODE.sub(r"<code>\1</code>", escape(text, quote=False))
