"""The Prometheus metrics of an application, in a separate registry, with VoidRun's names where they mean the same.

Every label is bounded: methods, actions, names of tools, statuses. No label is an id, a name or a path from a caller.
"""

from __future__ import annotations

from http import HTTPMethod
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from vmm.hypervisor.base import Memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmm.sandboxes.sandbox import State
    from vmm.sandboxes.usage import Usage

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_METHODS = frozenset(HTTPMethod)
_REASONS = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "not_json",
    421: "wrong_host",
    429: "rate_limited",
}
_MEMORIES = tuple(memory.value for memory in Memory)
_MIB = 1024 * 1024


class Meters:
    """The metrics of one application.

    Args:
        version: Version of this release.
        commit: Commit that it was built from; may be empty.
    """

    def __init__(self, *, version: str, commit: str = "") -> None:
        registry = CollectorRegistry(auto_describe=True)
        self._registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._requests = Counter(
            "voidrun_http_requests", "Answered requests", ["method", "route", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "voidrun_http_request_duration_seconds",
            "Time from a request to the end of its answer",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        operation = ["category", "operation", "status"]
        self._operations = Counter(
            "voidrun_sbx_operation_requests", "Calls on sandboxes over MCP and REST", operation, registry=registry
        )
        self._operation_seconds = Histogram(
            "voidrun_sbx_operation_duration_seconds",
            "Duration of calls on sandboxes",
            operation,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._tools = Counter("casemate_tool_calls", "MCP calls by tool", ["tool", "outcome"], registry=registry)
        self._refusals = Counter("casemate_refusals", "Requests refused with a 4xx", ["reason"], registry=registry)
        self._limited = Counter("casemate_rate_limited", "Requests answered with 429", registry=registry)
        self._streams = Gauge("casemate_open_streams", "Event streams and WebSockets", ["kind"], registry=registry)
        self._waiting = Gauge("casemate_audit_queue", "Audit records waiting to be written", registry=registry)
        self._written = Counter("casemate_audit_written", "Audit records written to the store", registry=registry)
        self._dropped = Counter("casemate_audit_dropped", "Audit records lost", registry=registry)
        self._failures = Counter(
            "casemate_audit_failures", "Times that writing audit records began to fail", registry=registry
        )
        self._sandboxes = Gauge("casemate_sandboxes", "Sandboxes by state", ["state"], registry=registry)
        self._started = Counter(
            "casemate_machines_started",
            "Started machines by the source of their memory",
            ["memory"],
            registry=registry,
        )
        for memory in _MEMORIES:
            self._started.labels(memory)
        self._network = Counter(
            "casemate_network_connections",
            "Connections and lookups of sandboxes that were allowed or refused",
            ["decision"],
            registry=registry,
        )
        self._network_seen = {"allowed": 0, "refused": 0}
        for decision in self._network_seen:
            self._network.labels(decision)
        self._store_up = Gauge("casemate_store_up", "Whether the store answers", registry=registry)
        self._fleet_up = Gauge(
            "casemate_fleet_up", "Whether the usage of the sandboxes could be read", registry=registry
        )
        self._vcpus = Gauge("voidrun_host_allocated_vcpus", "vCPUs of running machines", registry=registry)
        self._memory = Gauge("voidrun_host_allocated_mem_bytes", "Memory of running machines", registry=registry)
        self._disk = Gauge("voidrun_host_allocated_disk_bytes", "Disks of all sandboxes", registry=registry)
        build = Gauge("casemate_build_info", "Always 1", ["version", "commit"], registry=registry)
        build.labels(version, commit).set(1)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is its action, status 0 means no answer."""
        known = method if method in _METHODS or method == "WEBSOCKET" else "OTHER"
        self._requests.labels(known, route, str(status)).inc()
        self._request_seconds.labels(known, route).observe(seconds)
        if 400 <= status < 500:
            self._refusals.labels(_REASONS.get(status, "other")).inc()
        if status == 429:
            self._limited.inc()

    def call(self, surface: str, action: str, decision: str, seconds: float) -> None:
        """Count a call that ended. A REST action is `category.operation`, an MCP action the name of a tool."""
        category, dot, operation = action.partition(".")
        labels = (category, operation, decision) if dot else (surface, action, decision)
        self._operations.labels(*labels).inc()
        self._operation_seconds.labels(*labels).observe(seconds)
        if surface == "mcp":
            self._tools.labels(action, decision).inc()

    def stream(self, kind: str, change: int) -> None:
        """Count a stream of a kind (`events` or `websocket`) that was opened (1) or ended (-1)."""
        self._streams.labels(kind).inc(change)

    def audit_waiting(self, count: int) -> None:
        """Set the number of waiting audit records."""
        self._waiting.set(count)

    def audit_written(self, count: int) -> None:
        """Count audit records that were written to the store."""
        self._written.inc(count)

    def audit_dropped(self, count: int) -> None:
        """Count lost audit records."""
        self._dropped.inc(count)

    def audit_failed(self) -> None:
        """Count a failure of the store to write audit records."""
        self._failures.inc()

    def store(self, *, up: bool) -> None:
        """Set whether the store answers."""
        self._store_up.set(up)

    def fleet(self, survey: Mapping[State, Usage]) -> None:
        """Set the resources of the host that sandboxes use, by state."""
        for state, usage in survey.items():
            self._sandboxes.labels(state.value).set(usage.sandboxes)
        self._fleet_up.set(1)
        self._vcpus.set(sum(usage.cpus for usage in survey.values()))
        self._memory.set(sum(usage.mem for usage in survey.values()) * _MIB)
        self._disk.set(sum(usage.disk for usage in survey.values()) * _MIB)

    def started(self, memory: str) -> None:
        """Count a started machine; `memory` is a value of `Memory`, and anything else counts as `other`."""
        self._started.labels(memory if memory in _MEMORIES else "other").inc()

    def network(self, allowed: int, refused: int) -> None:
        """Set how many connections were allowed and refused since the server's start."""
        for decision, count in (("allowed", allowed), ("refused", refused)):
            self._network.labels(decision).inc(max(0, count - self._network_seen[decision]))
            self._network_seen[decision] = count

    def no_fleet(self) -> None:
        """Clear the fleet's metrics because they could not be read; stale ones would mislead."""
        self._fleet_up.set(0)
        self._sandboxes.clear()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
