"""The settings: names, types, defaults and bounds, and reading them from the environment."""

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

from vmm.network.taps.settings import (
    BRIDGE_NAME,
    GATEWAY_IP,
    NETWORK_CIDR,
    SUBNET_PREFIX,
    TAP_PREFIX,
    TapSettings,
)
from vmm.sandboxes.lease import MAX_IDLE_S
from vmm.sandboxes.spec import CPU_RANGE, IDLE_S, MEM_RANGE
from vmm.volumes.volume import SIZE, SIZE_RANGE

from ..defaults import CREATE_WAIT_S
from . import checks
from .combinations import combination_errors, combination_warnings
from .env_file import with_env_file
from .refusals import SettingsRefused, reasons
from .sandbox_api import memory
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
    """Return the default data directory: in /var/lib for root, otherwise in the user's data directory."""
    if os.geteuid() == 0:
        return Path("/var/lib/casemate")
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "casemate"


def _below(name: str) -> Any:
    return Field(default_factory=lambda known: known["data"] / name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The settings of an environment.

    Attributes:
        settings: The values.
        origins: The variable that each setting came from, by the setting's name; defaults are missing.
        warnings: One line for each variable that is set but not used, and for each doubtful combination.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...]


class Settings(BaseModel):
    """The settings. Each is read from the variable of its name in upper case with the prefix `CASEMATE_`.

    Attributes:
        data: Directory of persistent data: the store, images, sandboxes, the local key.
        images, instances: Directories of the images and of the sandboxes; below `data` by default.
        host, port: Address to listen on; port 0 takes any free port.
        allowed_hosts: Host names that clients use for the server, besides the loopback ones.
        allowed_origins: Origins whose web pages may call the server, besides its own; setting one turns CORS on.
        ports_domain: Domain of published ports; every name below it leads to this server.
        trusted_proxies: Addresses and networks whose forwarded client addresses are trusted.
        log_level, log_format: Level and format of the log; `auto` is console on a terminal and JSON elsewhere.
        mongo_uri, mongo_db: The MongoDB that stores everything; without it, a file in `data` does.
        registration: Who may register; if empty, `registration_policy` decides.
        local_mode: Whether callers without a key are the local user; only if the server is reachable from this machine
            alone.
        jwt_secret: The secret of HS256 tokens.
        jwt_jwks_url: The URL of the public keys of other tokens.
        jwt_issuer, jwt_audience: The required issuer and audience of tokens; empty for any.
        query_keys: Whether a key in the URL (`?apiKey=`) counts for all requests, and not for WebSockets alone.
        api_keys: Keys that stand for the local user, besides those in the store.
        rate_limit_requests, rate_limit_window_seconds: Requests per key in a window; 0 requests means no limit.
        refusals_per_minute: Refused credentials per address before unknown ones are refused without a check.
        registrations_per_hour: Registrations per address.
        max_sandboxes, max_vcpus, max_memory_mib, max_disk_mib: Limits of an organisation without its own quota.
        max_sessions, sessions_per_owner, session_idle_seconds: Limits on the sessions of clients of older protocols.
        max_body_mib, max_upload_mib: The largest request, and the largest file that is streamed into a sandbox.
        default_image, default_cpu, default_mem: Image, vCPUs and MiB of a sandbox whose creator names none.
        create_wait_seconds: Seconds that a create over REST waits until the sandbox runs; the creation then goes on.
        idle_seconds: Idle time after which a sandbox goes to sleep unless its creator sets another; 0 means never.
        sleep_retention_days: Days asleep after which a sandbox is deleted; 0 means never.
        max_snapshots: Snapshots of an organisation.
        max_volumes, max_volume_disk_mib: Volumes of an organisation, and their sizes together.
        network: Where sandboxes may connect to unless their creator says so.
        network_way: How they reach it; `auto` is taps where the server may make them, else user mode.
        network_open: Private networks that they may reach, if their policy allows it.
        network_own: Addresses of this host that no interface has, such as the public one of a NAT.
        network_packages: Names and addresses of package registries, besides those that the host's own tools use.
        bridge_name, gateway_ip, network_cidr, subnet_prefix, tap_prefix: The bridge of the taps, its network, and the
            beginning of their names; see `TapSettings`.
        guest_ca_file: Certificates in PEM that sandboxes trust besides Debian's; by default those of
            /usr/local/share/ca-certificates.
        on_stop: What happens to machines when a signal stops the server; empty means sleep after an interrupt at the
            terminal, and keep after any other signal.
        warm: Whether the default template is prepared at the start instead of by the first create.
        warm_pool: The number of machines of the default image and size that are kept ready.
        audit_days: Retention of audit records in days.
        sandbox_api: Whether sandbox-api's REST API and MCP endpoint are served; its own variables turn it on.
        sandbox_api_port: A second port to listen on, for clients of sandbox-api; 0 for none.
        sandbox_api_ttl_seconds: Time without use after which a session goes to sleep; 0 means never.
        sandbox_api_unused_seconds: Time without use after which a session is deleted; 0 means never.
        sandbox_api_max_seconds: The age at which a session is deleted, in use or not; 0 means never.
        sandbox_api_cleanup_seconds: How often that is checked.
        sandbox_api_persist: Whether files of sessions are on volumes, which stay until the session is deleted by name.
        sandbox_api_volume_mib: MiB of such a volume.
        sandbox_api_exec_seconds: The longest time limit of a command.
        sandbox_api_file_bytes: The largest file that is read or written; 0 means as large as one call carries.
        sandbox_api_commands: The only commands that may be run; empty for all.
        sandbox_api_mem: MiB of a session's machine.
        sandbox_api_pids: Processes and threads of a session; 0 means no limit.
        sandbox_api_network: Where sessions may connect to.
        metrics, metrics_token: Whether /metrics is served, and the bearer token that callers from other machines need.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    data: Directory = Field(default_factory=default_data)
    images: Directory = _below("images")
    instances: Directory = _below("instances")
    host: str = "127.0.0.1"
    port: int = Field(default=33944, ge=0, le=65535)
    allowed_hosts: Annotated[tuple[str, ...], List, AfterValidator(checks.host_names)] = ()
    allowed_origins: Annotated[tuple[str, ...], List, AfterValidator(checks.web_origins)] = ()
    ports_domain: Annotated[str, AfterValidator(checks.ports_domain)] = "localhost"
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
    query_keys: bool = False
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
    create_wait_seconds: int = Field(default=CREATE_WAIT_S, ge=0, le=3600)
    idle_seconds: int = Field(default=IDLE_S, ge=0, le=MAX_IDLE_S)
    sleep_retention_days: int = Field(default=0, ge=0, le=3650)
    max_snapshots: int = Field(default=200, ge=1, le=100_000)
    max_volumes: int = Field(default=100, ge=0, le=100_000)
    max_volume_disk_mib: int = Field(default=1024 * 1024, ge=0)
    network: Annotated[str, AfterValidator(checks.network_policy)] = "internet"
    network_way: Literal["auto", "taps", "user"] = "auto"
    network_open: Annotated[tuple[str, ...], List, AfterValidator(checks.private_networks)] = ()
    network_own: Annotated[tuple[str, ...], List, AfterValidator(checks.own_addresses)] = ()
    network_packages: Annotated[tuple[str, ...], List, AfterValidator(checks.registries)] = ()
    bridge_name: str = ""
    gateway_ip: str = ""
    network_cidr: str = ""
    subnet_prefix: str = ""
    tap_prefix: str = ""
    guest_ca_file: Path | None = None
    on_stop: Literal["keep", "sleep", ""] = ""
    warm: bool = True
    warm_pool: int = Field(default=0, ge=0, le=100)
    audit_days: int = Field(default=30, ge=1, le=3650)
    sandbox_api: bool = False
    sandbox_api_port: int = Field(default=0, ge=0, le=65535)
    sandbox_api_ttl_seconds: int = Field(default=600, ge=0, le=MAX_IDLE_S)
    sandbox_api_unused_seconds: int = Field(default=900, ge=0, le=3650 * 86400)
    sandbox_api_max_seconds: int = Field(default=0, ge=0, le=3650 * 86400)
    sandbox_api_cleanup_seconds: int = Field(default=60, ge=1, le=86400)
    sandbox_api_persist: bool = False
    sandbox_api_volume_mib: int = Field(default=SIZE, ge=SIZE_RANGE[0], le=SIZE_RANGE[1])
    sandbox_api_exec_seconds: int = Field(default=120, ge=1, le=86400)
    sandbox_api_file_bytes: int = Field(default=1024 * 1024, ge=0, le=8 * 1024 * 1024)
    sandbox_api_commands: Annotated[tuple[str, ...], List] = ()
    sandbox_api_mem: Annotated[int, BeforeValidator(memory)] = Field(default=512, ge=MEM_RANGE[0], le=MEM_RANGE[1])
    sandbox_api_pids: int = Field(default=50, ge=0, le=100_000)
    sandbox_api_network: Annotated[str, AfterValidator(checks.network_policy)] = "none"
    metrics: bool = True
    metrics_token: Annotated[SecretStr, AfterValidator(checks.scrape_token)] | None = None

    @classmethod
    def load(cls, env_file: Path | None = None) -> Settings:
        """Read the environment of this process, and log the warnings.

        Args:
            env_file: A file of further variables, which the environment overrides; None for none.

        Raises:
            SettingsRefused: Variables are invalid, or the file is; it has one line for each.
        """
        reading = cls.read(with_env_file(os.environ, env_file))
        for warning in reading.warnings:
            _log.warning(warning)
        return reading.settings

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Reading:
        """Read an environment, and record where each value came from.

        Raises:
            SettingsRefused: Variables are invalid; it has one line for each.
        """
        gathered = gather(environ, cls.model_fields)
        try:
            settings = cls.model_validate(gathered.values)
        except ValidationError as error:
            defaults = {name: field.default for name, field in cls.model_fields.items()}
            raise SettingsRefused((*gathered.refusals, *reasons(error, gathered, defaults))) from None
        if gathered.refusals:
            raise SettingsRefused(gathered.refusals)
        return Reading(
            settings=settings, origins=gathered.origins, warnings=(*gathered.warnings, *combination_warnings(settings))
        )

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if lines := combination_errors(self):
            raise ValueError("\n".join(lines))
        return self

    @property
    def listening(self) -> tuple[int, ...]:
        """The ports to listen on: the server's own, and the second one if there is one."""
        return (self.port, self.sandbox_api_port) if self.sandbox_api and self.sandbox_api_port else (self.port,)

    @property
    def taps(self) -> TapSettings:
        """Where taps are.

        Raises:
            InvalidInput: The settings contradict each other; those that were read do not.
        """
        return TapSettings.read(
            {
                BRIDGE_NAME: self.bridge_name,
                GATEWAY_IP: self.gateway_ip,
                NETWORK_CIDR: self.network_cidr,
                SUBNET_PREFIX: self.subnet_prefix,
                TAP_PREFIX: self.tap_prefix,
            }
        )

    @property
    def local_only(self) -> bool:
        """Whether only this machine can call: the host is a loopback address, and no setting hints at a proxy."""
        own = checks.addresses(self.host)
        return (
            bool(own)
            and all(address.is_loopback for address in own)
            and all(checks.is_loopback(name) for name in self.allowed_hosts)
            and not self.trusted_proxies
        )

    @property
    def registration_policy(self) -> Policy:
        """Who may register: as set, otherwise everybody if only this machine can call, and nobody if others can."""
        return self.registration or ("open" if self.local_only else "closed")

    @property
    def hosts(self) -> list[str]:
        """Accepted Host headers, in the notation of the SDK: exact, or `name:*` for any port."""
        own = () if checks.is_wildcard(self.host) else (checks.bracketed(self.host),)
        names = dict.fromkeys((*_LOOPBACK, *own, *self.allowed_hosts))
        return [entry for name in names for entry in ((name,) if checks.has_port(name) else (name, f"{name}:*"))]

    @property
    def origins(self) -> list[str]:
        """Accepted Origin headers, in the notation of the SDK: those of its own host names, and the configured ones."""
        if self.allowed_origins == checks.ANY_ORIGIN:
            return ["http:*", "https:*", "null"]
        own = [f"{scheme}://{host}" for host in self.hosts for scheme in ("http", "https")]
        return [*own, *self.allowed_origins]

    @property
    def key_file(self) -> Path:
        """The file of the local key, readable by its owner alone."""
        return self.data / "key"

    def url(self, port: int | None = None) -> str:
        """Return the URL of the server for clients on this machine.

        Args:
            port: The bound port, if it differs from the configured one.
        """
        host = "127.0.0.1" if checks.is_wildcard(self.host) else checks.bracketed(self.host)
        return f"http://{host}:{self.port if port is None else port}"
