"""The settings: names, types, defaults and bounds, and how they are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import structlog
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from vmm.sandboxes.lease import MAX_IDLE_S
from vmm.sandboxes.spec import CPU_RANGE, IDLE_S, MEM_RANGE

from . import checks
from .coherence import clashes, doubts
from .refusals import SettingsRefused, reasons
from .sources import gather

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .sources import Origin

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_log = structlog.stdlib.get_logger("casemate.settings")

Policy = Literal["open", "invite", "closed"]
Directory = Annotated[Path, AfterValidator(checks.directory)]
List = BeforeValidator(checks.split)


def default_data() -> Path:
    """Where data lives unless somebody says otherwise: /var/lib for root, the user's own data directory else."""
    if os.geteuid() == 0:
        return Path("/var/lib/casemate")
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "casemate"


def _below(name: str) -> Any:
    return Field(default_factory=lambda known: known["data"] / name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What an environment says.

    Attributes:
        settings: The values.
        origins: By the name of the setting the variable that it came from; what is not there is the default.
        warnings: One line for each variable that is set and not used, and for each doubtful choice.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...]


class Settings(BaseModel):
    """The settings, each from the variable of its name in upper case with `CASEMATE_` in front.

    Attributes:
        data: Directory of everything that lasts: the store, images, sandboxes, the local key.
        images, instances: Directories of the images and of the sandboxes; below `data` unless set.
        host, port: Where to listen; port 0 takes any free one.
        allowed_hosts: Names under which clients reach the server, besides the loopback ones.
        allowed_origins: Origins whose web pages may call it, besides the server's own; naming one turns CORS on.
        trusted_proxies: Addresses and networks whose word about a client's address counts.
        log_level, log_format: What to log, and how; `auto` is for people on a terminal and JSON elsewhere.
        mongo_uri, mongo_db: A MongoDB that keeps accounts and everything else; without it a file in `data` does.
        registration: Who may register; empty means `registration_policy` decides.
        local_mode: Whether callers without a key are the local user; only where this machine alone can call.
        jwt_secret: What HS256 tokens are signed with.
        jwt_jwks_url: Where the public keys of other tokens are.
        jwt_issuer, jwt_audience: What tokens must say, where set.
        api_keys: Keys that speak for the local user, besides those in the store.
        rate_limit_requests, rate_limit_window_seconds: Requests of one key in a window; 0 requests is no limit.
        refusals_per_minute: Refused credentials of one address before it is turned away unread.
        registrations_per_hour: Registrations from one address.
        max_sandboxes, max_vcpus, max_memory_mib, max_disk_mib: What one organisation may have at once, unless a quota
            of its own says otherwise.
        max_sessions, sessions_per_owner, session_idle_seconds: Bounds on the sessions of clients of older protocols.
        max_body_mib, max_upload_mib: The largest request, and the largest file that is streamed into a sandbox.
        default_image, default_cpu, default_mem: Image, vCPUs and MiB of a sandbox whose creator names none.
        idle_seconds: After how long without use a sandbox whose creator does not say may fall asleep; 0 is never.
        sleep_retention_days: After how long asleep a sandbox is deleted; 0 is never.
        max_snapshots: How many snapshots one organisation may keep.
        on_stop: What the server's end does to machines, whichever signal ends it; empty is sleep for an interrupt at
            the terminal, and keep for every other.
        warm: Whether the default template is prepared at the start instead of at the first create.
        warm_pool: How many machines of the default image and size are kept ready for who asks next.
        audit_days: How long records of calls are kept.
        metrics, metrics_token: Whether /metrics is there, and the bearer token that callers from elsewhere need.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    data: Directory = Field(default_factory=default_data)
    images: Directory = _below("images")
    instances: Directory = _below("instances")
    host: str = "127.0.0.1"
    port: int = Field(default=33944, ge=0, le=65535)
    allowed_hosts: Annotated[tuple[str, ...], List, AfterValidator(checks.host_names)] = ()
    allowed_origins: Annotated[tuple[str, ...], List, AfterValidator(checks.web_origins)] = ()
    trusted_proxies: Annotated[tuple[str, ...], List, AfterValidator(checks.proxies)] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    mongo_uri: Annotated[SecretStr, AfterValidator(checks.database_uri)] | None = None
    mongo_db: Annotated[str, AfterValidator(checks.database_name)] = "casemate"
    registration: Literal["open", "invite", "closed", ""] = ""
    local_mode: bool = False
    jwt_secret: Annotated[SecretStr, AfterValidator(checks.signing_secret)] | None = None
    jwt_jwks_url: Annotated[str, AfterValidator(checks.key_set)] = ""
    jwt_issuer: str = Field(default="", max_length=1000)
    jwt_audience: str = Field(default="", max_length=1000)
    api_keys: Annotated[
        tuple[SecretStr, ...], BeforeValidator(checks.split_secrets), AfterValidator(checks.static_keys)
    ] = ()
    rate_limit_requests: int = Field(default=3000, ge=0, le=10_000_000)
    rate_limit_window_seconds: int = Field(default=60, ge=1, le=86400)
    refusals_per_minute: int = Field(default=60, ge=1, le=100_000)
    registrations_per_hour: int = Field(default=10, ge=1, le=100_000)
    max_sandboxes: int = Field(default=50, ge=1, le=100_000)
    max_vcpus: int = Field(default=100, ge=1, le=100_000)
    max_memory_mib: int = Field(default=64 * 1024, ge=256, le=2**30)
    max_disk_mib: int = Field(default=1024 * 1024, ge=1024, le=2**40)
    max_sessions: int = Field(default=2000, ge=1, le=100_000)
    sessions_per_owner: int = Field(default=200, ge=1, le=100_000)
    session_idle_seconds: int = Field(default=1800, ge=1, le=7 * 86400)
    max_body_mib: int = Field(default=16, ge=1, le=1024)
    max_upload_mib: int = Field(default=10 * 1024, ge=1, le=1024 * 1024)
    default_image: str = Field(default="code", min_length=1, max_length=100)
    default_cpu: int = Field(default=1, ge=CPU_RANGE[0], le=CPU_RANGE[1])
    default_mem: int = Field(default=1024, ge=MEM_RANGE[0], le=MEM_RANGE[1])
    idle_seconds: int = Field(default=IDLE_S, ge=0, le=MAX_IDLE_S)
    sleep_retention_days: int = Field(default=0, ge=0, le=3650)
    max_snapshots: int = Field(default=200, ge=1, le=100_000)
    on_stop: Literal["keep", "sleep", ""] = ""
    warm: bool = True
    warm_pool: int = Field(default=0, ge=0, le=100)
    audit_days: int = Field(default=30, ge=1, le=3650)
    metrics: bool = True
    metrics_token: Annotated[SecretStr, AfterValidator(checks.scrape_token)] | None = None

    @classmethod
    def load(cls) -> Settings:
        """Read the environment of this process, and log what is set without being used.

        Raises:
            SettingsRefused: With a line for each variable that cannot be used.
        """
        reading = cls.read(os.environ)
        for warning in reading.warnings:
            _log.warning(warning)
        return reading.settings

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Reading:
        """Read an environment, and remember where each value came from.

        Raises:
            SettingsRefused: With a line for each variable that cannot be used.
        """
        gathered = gather(environ, cls.model_fields)
        try:
            settings = cls.model_validate(gathered.values)
        except ValidationError as error:
            defaults = {name: field.default for name, field in cls.model_fields.items()}
            raise SettingsRefused((*gathered.refusals, *reasons(error, gathered, defaults))) from None
        if gathered.refusals:
            raise SettingsRefused(gathered.refusals)
        return Reading(settings=settings, origins=gathered.origins, warnings=(*gathered.warnings, *doubts(settings)))

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if lines := clashes(self):
            raise ValueError("\n".join(lines))
        return self

    @property
    def local_only(self) -> bool:
        """Whether only this machine can call: the host is a loopback one, and nothing speaks of a proxy before it."""
        own = checks.addresses(self.host)
        return (
            bool(own)
            and all(address.is_loopback for address in own)
            and all(checks.is_loopback(name) for name in self.allowed_hosts)
            and not self.trusted_proxies
        )

    @property
    def registration_policy(self) -> Policy:
        """Who may register: what was set, else everybody where only this machine can call, and nobody elsewhere."""
        return self.registration or ("open" if self.local_only else "closed")

    @property
    def hosts(self) -> list[str]:
        """Host headers to accept, in the notation of the SDK: exact, or `name:*` for any port."""
        own = () if checks.is_wildcard(self.host) else (checks.bracketed(self.host),)
        names = dict.fromkeys((*_LOOPBACK, *own, *self.allowed_hosts))
        return [entry for name in names for entry in ((name,) if checks.has_port(name) else (name, f"{name}:*"))]

    @property
    def origins(self) -> list[str]:
        """Origin headers to accept: those of the server's own names, and the configured ones."""
        own = [f"{scheme}://{host}" for host in self.hosts for scheme in ("http", "https")]
        return [*own, *self.allowed_origins]

    @property
    def key_file(self) -> Path:
        """Where the local key lies, readable by its user alone."""
        return self.data / "key"

    def url(self, port: int | None = None) -> str:
        """The address under which clients on this machine reach the server.

        Args:
            port: The port that was bound, if it is not the configured one.
        """
        host = "127.0.0.1" if checks.is_wildcard(self.host) else checks.bracketed(self.host)
        return f"http://{host}:{self.port if port is None else port}"
