"""Traces as a collector receives them: a real one, on loopback, that decodes what comes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_server.observability.tracing import Tracing, TracingRefused
from tests.mcp_server.edge import ERAS, Era, serving
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What the tests look at."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    attributes: Mapping[str, object]
    resource: Mapping[str, object]


@dataclass(slots=True)
class Collector:
    """Takes spans over OTLP/HTTP."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list[Span])
    raw: bytes = b""

    async def take(self, request: Request) -> Response:
        assert request.headers["content-type"] == "application/x-protobuf"
        body = await request.body()
        self.raw += body
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _attributes(part.resource.attributes)
            for scope in part.scope_spans:
                self.spans += [_span(item, resource) for item in scope.spans]
        return Response(status_code=200)

    def named(self, name: str) -> Span:
        (span,) = [span for span in self.spans if span.name == name]
        return span


def _attributes(pairs: Any) -> dict[str, object]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in pairs}


def _span(item: Any, resource: Mapping[str, object]) -> Span:
    return Span(
        name=item.name,
        trace=item.trace_id.hex(),
        id=item.span_id.hex(),
        parent=item.parent_span_id.hex(),
        kind=item.kind,
        failed=item.status.code == 2,
        attributes=_attributes(item.attributes),
        resource=resource,
    )


@pytest.fixture
async def collector() -> AsyncGenerator[Collector]:
    made = Collector()
    async with serving(Starlette(routes=[Route("/v1/traces", made.take, methods=["POST"])])) as edge:
        made.endpoint = edge.url
        yield made


@asynccontextmanager
async def traced(directory: Path, endpoint: str, **variables: str) -> AsyncGenerator[str]:
    """A server in a process of its own; when the block is over, it has sent what it had."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **variables}
    command = [sys.executable, "-m", "tests.mcp_server.observability.traced", str(directory)]
    async with await anyio.open_process(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        lines = BufferedByteReceiveStream(process.stdout)
        try:
            with anyio.fail_after(PATIENCE_S):
                while not (url := (await lines.receive_until(b"\n", 4096)).decode()).startswith("http"):
                    pass
            yield url
            await process.stdin.aclose()
            with anyio.fail_after(PATIENCE_S):
                await process.wait()
            assert process.returncode == 0
        finally:
            if process.returncode is None:
                process.kill()


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_call_is_one_trace_from_the_request_to_the_sandbox(
    tmp_path: Path, collector: Collector, era: Era
) -> None:
    async with (
        traced(tmp_path, collector.endpoint) as url,
        Client(streamable_http_client(f"{url}/api/mcp"), mode=era) as client,
    ):
        result = await client.call_tool("touch", {"secret": "hunter2"})
        assert not result.is_error
    call = collector.named("tools/call touch")
    assert call.attributes["gen_ai.tool.name"] == "touch"
    assert call.attributes["casemate.sandbox"] == "d" * 24
    assert call.attributes["casemate.outcome"] == "allowed"
    (request,) = [span for span in collector.spans if span.id == call.parent]
    assert (request.trace, request.name, request.kind) == (call.trace, "POST mcp", 2)
    assert request.attributes["http.response.status_code"] == 200
    assert request.resource["service.name"] == "casemate"
    assert request.resource["service.version"] == "1.2.3"
    assert b"hunter2" not in collector.raw


async def test_a_request_continues_the_callers_trace_and_keeps_its_query_to_itself(
    tmp_path: Path, collector: Collector
) -> None:
    async with (
        traced(tmp_path, collector.endpoint, OTEL_SERVICE_NAME="box-7") as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "find-me", "x-api-key": "cm_hunter2"}
        assert (await http.get("/api/hello/box?apiKey=hunter2", headers=headers)).status_code == 200
        assert (await http.get("/nothing", headers={"traceparent": "nonsense"})).status_code == 404
        await http.get("/health")
    span = collector.named("GET hello.get")
    assert (span.trace, span.parent, span.kind) == (TRACE, PARENT, 2)
    assert span.resource["service.name"] == "box-7"
    assert span.attributes == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/api/hello/box",
        "http.response.status_code": 200,
        "casemate.request_id": "find-me",
        "casemate.outcome": "allowed",
    }
    assert collector.named("GET").parent == ""
    assert len(collector.spans) == 2
    assert b"hunter2" not in collector.raw


async def test_a_collector_that_is_away_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    # It takes every call and answers none, for longer than the block waits for the server's end.
    with socket.create_server(("127.0.0.1", 0)) as collector:
        endpoint = f"http://127.0.0.1:{collector.getsockname()[1]}"
        async with (
            traced(tmp_path, endpoint, OTEL_BSP_SCHEDULE_DELAY="100", OTEL_EXPORTER_OTLP_TIMEOUT="3600") as url,
            httpx.AsyncClient(base_url=url) as http,
        ):
            for _ in range(5):
                assert (await http.get("/api/hello/box")).status_code == 200
            (await anyio.to_thread.run_sync(collector.accept))[0].detach()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
async def test_without_a_collector_there_is_no_layer(environment: dict[str, str]) -> None:
    tracing = Tracing.of_environment(version="1", environment=environment)
    assert tracing.layers() == []
    await tracing.aclose()


def test_another_protocol_than_http_is_refused() -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    with pytest.raises(TracingRefused, match=r"OTEL_EXPORTER_OTLP_PROTOCOL=grpc.* set it to http/protobuf"):
        Tracing.of_environment(version="1", environment=environment)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    environment = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}
    with pytest.raises(TracingRefused, match=r"pip install 'casemate\[otel\]'"):
        Tracing.of_environment(version="1", environment=environment)
