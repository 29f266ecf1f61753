"""The names of variables: ours, aliases from other systems, and known names without effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "CASEMATE_"
FILE = "_FILE"
"""The suffix of a variable that names a file with a secret."""

SECRETS = frozenset({"mongo_uri", "jwt_secret", "api_keys", "metrics_token"})
"""Settings whose values are never shown."""

VOIDRUN = "VoidRun"
SANDBOX_API = "sandbox-api"

ALIASES: dict[str, tuple[tuple[str, str], ...]] = {
    "host": (("SERVER_HOST", VOIDRUN),),
    "port": (("SERVER_PORT", VOIDRUN),),
    "images": (("BASE_IMAGES_DIR", VOIDRUN),),
    "instances": (("INSTANCES_DIR", VOIDRUN),),
    "mongo_uri": (("MONGO_URI", VOIDRUN),),
    "mongo_db": (("MONGO_DB", VOIDRUN),),
    "default_cpu": (("SANDBOX_DEFAULT_VCPUS", VOIDRUN),),
    "default_mem": (("SANDBOX_DEFAULT_MEMORY_MB", VOIDRUN),),
    "default_image": (("SANDBOX_DEFAULT_IMAGE", VOIDRUN),),
    "create_wait_seconds": (("SANDBOX_SYNC_TIMEOUT_SEC", VOIDRUN),),
    "local_mode": (("AUTH_LOCAL_MODE", VOIDRUN),),
    "metrics": (("METRICS_ENABLED", VOIDRUN),),
    "bridge_name": (("BRIDGE_NAME", VOIDRUN),),
    "gateway_ip": (("GATEWAY_IP", VOIDRUN),),
    "network_cidr": (("NETWORK_CIDR", VOIDRUN),),
    "subnet_prefix": (("SUBNET_PREFIX", VOIDRUN),),
    "tap_prefix": (("TAP_PREFIX", VOIDRUN),),
    "allowed_origins": (("CORS_ALLOW_ORIGINS", VOIDRUN),),
    "jwt_secret": (("JWT_SECRET", SANDBOX_API),),
    "api_keys": (("API_KEYS", SANDBOX_API),),
    "rate_limit_requests": (("RATE_LIMIT_REQUESTS", SANDBOX_API),),
    "rate_limit_window_seconds": (("RATE_LIMIT_WINDOW_SECONDS", SANDBOX_API),),
    "sandbox_api_ttl_seconds": (("SESSION_TTL_SECONDS", SANDBOX_API),),
    "sandbox_api_unused_seconds": (("CLEANUP_MAX_CONTAINER_AGE_SECONDS", SANDBOX_API),),
    "sandbox_api_cleanup_seconds": (("CLEANUP_INTERVAL_SECONDS", SANDBOX_API),),
    "sandbox_api_persist": (("WORKSPACE_PERSIST_VOLUMES", SANDBOX_API),),
    "sandbox_api_exec_seconds": (("MAX_EXEC_TIMEOUT_SECONDS", SANDBOX_API),),
    "sandbox_api_file_bytes": (("WORKSPACE_MAX_FILE_SIZE_BYTES", SANDBOX_API),),
    "sandbox_api_commands": (("ALLOWED_COMMANDS", SANDBOX_API),),
    "sandbox_api_mem": (("CONTAINER_MEM_LIMIT", SANDBOX_API),),
    "sandbox_api_pids": (("CONTAINER_PIDS_LIMIT", SANDBOX_API),),
}
"""The names of each setting in other systems, with the system."""

EVERYWHERE = {"SERVER_HOST": "0.0.0.0"}  # noqa: S104 -- what an empty value means to VoidRun; a warning tells
"""Aliases whose empty value has a meaning."""

NOT_SETTINGS = frozenset(
    {"API_KEY", "URL", "PUBLISH", "SECRETS", "TEST_DATA", "BENCH_IMAGES", "REQUIRE_KVM", "INSIDE_KVM_HOST"}
)
"""Names with our prefix that the server does not read, but clients, Compose, tests and benchmarks do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A known name that has no effect.

    Attributes:
        name: The variable, or a prefix of several if it ends in `*`.
        system: The system that it belongs to.
        reason: Why it has no effect, and what to use instead.
    """

    name: str
    system: str
    reason: str

    def covers(self, variable: str) -> bool:
        """Return whether this entry is about the variable."""
        return variable.startswith(self.name[:-1]) if self.name.endswith("*") else variable == self.name


_OWN_VMM = "machines are set up by Casemate itself; casemate doctor shows how"
_OWN_NAMES = "namespaces have no names of their own; TAP_PREFIX names the taps"
_OWN_RESOLVER = "the server answers the sandboxes' DNS lookups, and asks the name servers of this host"
_NO_CONTAINERS = "sandboxes are virtual machines, not containers"
_NO_REDIS = "Redis is not needed: limits, sessions and caches are in the server and its store"
_CLOCKS = "set CASEMATE_IDLE_SECONDS (0: sandboxes never sleep) and CASEMATE_SLEEP_RETENTION_DAYS (0: no deletion)"
_CLERK = "set CASEMATE_JWT_JWKS_URL, CASEMATE_JWT_ISSUER and CASEMATE_JWT_AUDIENCE for tokens of an identity provider"

IGNORED: tuple[Ignored, ...] = (
    *(
        Ignored(name=name, system=VOIDRUN, reason=_OWN_VMM)
        for name in (
            *("KERNEL_PATH", "INITRD_PATH", "CH_PATH", "SANDBOX_KERNEL_CMDLINE"),
            *("SANDBOX_DEFAULT_OVERLAY_IMAGE", "SANDBOX_DEFAULT_HOSTNAME", "SANDBOX_DISK_FORMAT", "SANDBOX_SECCOMP"),
            *("SANDBOX_LANDLOCK", "SANDBOX_BALLOON_ENABLED", "SANDBOX_MEMORY_*", "SANDBOX_DECOUPLED_SNAPSHOT"),
            *("SANDBOX_RAM_ALLOW_SWAP", "SANDBOX_DEBUG_BOOT_CONSOLE", "SANDBOX_CONSOLE_LOG_*"),
        )
    ),
    Ignored(name="SANDBOX_DEFAULT_DISK_MB", system=VOIDRUN, reason="every sandbox has a sparse disk of 10240 MiB"),
    Ignored(name="NET_PREFIX", system=VOIDRUN, reason=_OWN_NAMES),
    Ignored(name="DNS_NAMESERVERS", system=VOIDRUN, reason=_OWN_RESOLVER),
    Ignored(
        name="MONGO_LOG_QUERIES", system=VOIDRUN, reason="queries are not logged: they could contain data of users"
    ),
    Ignored(name="REDIS_*", system=f"{VOIDRUN}, {SANDBOX_API}", reason=_NO_REDIS),
    Ignored(name="CLERK_*", system=VOIDRUN, reason=_CLERK),
    Ignored(name="LOCAL_MODE", system=VOIDRUN, reason="set CASEMATE_LOCAL_MODE"),
    Ignored(name="SYSTEM_USER_*", system=VOIDRUN, reason="the first start creates the local user, with a key"),
    Ignored(
        name="API_KEY_CACHE_TTL_SECONDS",
        system=VOIDRUN,
        reason="keys are cached for 5 seconds, which is not configurable",
    ),
    Ignored(name="HEALTH_*", system=VOIDRUN, reason="machines report their exit themselves, so they are not polled"),
    Ignored(name="METRICS_PATH", system=VOIDRUN, reason="metrics are at /metrics"),
    Ignored(name="METRICS_*", system=VOIDRUN, reason="metrics are collected at each scrape"),
    Ignored(name="MONITOR_ENABLED", system=VOIDRUN, reason="the server always monitors its machines"),
    Ignored(name="AUTO_LIFECYCLE_*", system=VOIDRUN, reason=_CLOCKS),
    Ignored(name="CORS_ENABLED", system=VOIDRUN, reason="CORS is on when CASEMATE_ALLOWED_ORIGINS names origins"),
    Ignored(name="CORS_*", system=VOIDRUN, reason="methods and headers are fixed to those that clients need"),
    Ignored(name="NODE_ID", system=VOIDRUN, reason="a server is identified by its host name"),
    Ignored(name="HOST_ID", system=VOIDRUN, reason="a server is identified by its host name"),
    *(
        Ignored(name=f"CONTAINER_{name}", system=SANDBOX_API, reason=_NO_CONTAINERS)
        for name in ("IMAGE", "MEMSWAP_LIMIT", "CPU_*", "TMPFS_*", "ULIMIT_*")
    ),
    Ignored(name="JWT_ALGORITHM", system=SANDBOX_API, reason="tokens signed with a secret are always HS256"),
    Ignored(
        name="JWT_EXPIRE_MINUTES", system=SANDBOX_API, reason="the issuer of a token sets its exp, which is required"
    ),
    Ignored(name="API_KEY_HEADER", system=SANDBOX_API, reason="keys are sent in X-API-Key, or as bearer token"),
    Ignored(name="DEFAULT_EXEC_TIMEOUT_SECONDS", system=SANDBOX_API, reason="callers set the timeout of each command"),
)


def set_without_effect(environ: Mapping[str, str]) -> list[tuple[str, Ignored]]:
    """List the variables of an environment that are set for another system and have no effect here."""
    found = ((variable, without_effect(variable)) for variable in sorted(environ) if environ[variable])
    return [(variable, ignored) for variable, ignored in found if ignored is not None]


def without_effect(variable: str) -> Ignored | None:
    """Return the entry of a known name without effect; None for all others, including aliases."""
    if any(variable == name for names in ALIASES.values() for name, _ in names):
        return None
    return next((ignored for ignored in IGNORED if ignored.covers(variable)), None)
