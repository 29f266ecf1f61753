"""OpenTelemetry tracing, if the standard variables name a collector: a span for each request and each tool call.

The MCP SDK creates a span for each message, with the tracer provider of the process; this module creates one for each
request, and both join into one trace. No span has an argument, a header or a query.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Self

import anyio
import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.middleware import Middleware

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_SHUTDOWN_S = 3.0
_LOOK_S = 0.02
_LONGEST = 256
_PROBES = frozenset({"/health", "/ready", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_log = structlog.stdlib.get_logger("casemate.tracing")


class TracingRefused(Exception):
    """Tracing is configured but cannot work; the message says the way out."""


class Tracing:
    """The tracing of a process.

    Args:
        provider: The tracer provider of the OpenTelemetry SDK; None if tracing is off.
    """

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider

    @classmethod
    def of_environment(cls, *, version: str, environment: Mapping[str, str] = os.environ) -> Self:
        """Set up tracing as the OTEL_ variables say. The provider becomes the process's one, which the MCP SDK uses.

        Args:
            version: Version of this release, for the spans' resource.
            environment: The variables; OpenTelemetry itself reads those that this module does not name.

        Raises:
            TracingRefused: The extra is not installed, or the protocol is not HTTP.
        """
        if not _wanted(environment):
            return cls(None)
        provider = _provider(version, named="OTEL_SERVICE_NAME" in environment)
        trace.set_tracer_provider(provider)
        return cls(provider)

    def layers(self) -> list[Middleware]:
        """Return the middleware that traces requests; empty if tracing is off."""
        if self._provider is None:
            return []
        return [Middleware(TracedRequests, tracer=self._provider.get_tracer("casemate"))]

    async def aclose(self) -> None:
        """Export waiting spans, for a few seconds at most."""
        if self._provider is None:
            return
        # A thread of the pool would delay the end of the process for as long as the exporter retries.
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        with anyio.move_on_after(_SHUTDOWN_S, shield=True):
            while sending.is_alive():
                await anyio.sleep(_LOOK_S)
        if sending.is_alive():
            _log.warning("traces not sent", reason=f"the collector did not accept them within {_SHUTDOWN_S:g} s")


class TracedRequests:
    """Creates a span around each request and WebSocket, as a child of the caller's span if it sent `traceparent`."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection; probes have no spans."""
        if scope["type"] not in {"http", "websocket"} or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        given: str = scope.get("method", "GET")
        method = given if given in _METHODS else "_OTHER"
        headers = Headers(scope=scope)
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        with self._tracer.start_as_current_span(
            method,
            context=self._propagator.extract(carrier) if carrier else None,
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": method,
                "url.scheme": scope.get("scheme", "http"),
                "url.path": scope["path"][:_LONGEST],
            },
            # Messages of exceptions may repeat arguments.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            async def watch(message: Message) -> None:
                status = _status(message)
                if status:
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            try:
                await self._app(scope, receive, watch)
            except Exception as error:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(StatusCode.ERROR)
                raise
            finally:
                _name(span, method, scope)


def describe_call(*, sandbox: str, outcome: str) -> None:
    """Set the outcome of a call on the current span; without effect if tracing is off."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute("casemate.outcome", outcome)
        if sandbox:
            span.set_attribute("casemate.sandbox", sandbox)


def _name(span: Span, method: str, scope: Scope) -> None:
    state = scope.get("state", {})
    action = state.get("action")
    if action:
        span.update_name(f"{method} {action}")
    if "request_id" in state:
        span.set_attribute("casemate.request_id", state["request_id"])


def _status(message: Message) -> int:
    if message["type"] == "websocket.accept":
        return 101
    return message["status"] if message["type"].endswith("http.response.start") else 0


def _wanted(environment: Mapping[str, str]) -> bool:
    """Return whether the variables turn tracing on.

    Raises:
        TracingRefused: They do, but with another protocol than HTTP.
    """
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    elsewhere = environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none"
    if disabled or elsewhere or not any(environment.get(name, "").strip() for name in _ENDPOINTS):
        return False
    for name in _PROTOCOLS:
        protocol = environment.get(name, "").strip()
        if protocol not in {"", _PROTOCOL}:
            raise TracingRefused(f"{name}={protocol[:80]} is not supported: set it to {_PROTOCOL}, or remove it")
    return True


def _provider(version: str, *, named: bool) -> TracerProvider:
    try:
        # Part of an optional extra, and their import takes a third of a second.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise TracingRefused(
            f"{_ENDPOINTS[1]} turns tracing on, but {error.name} is not installed: pip install 'casemate[otel]'"
        ) from None
    attributes = {"service.version": version} | ({} if named else {"service.name": "casemate"})
    provider = TracerProvider(
        resource=Resource.create(attributes),
        span_limits=SpanLimits(max_attribute_length=_LONGEST),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
