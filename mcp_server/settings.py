"""Everything that an operator may set, read once from the environment, with refusals that say the way out."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PREFIX = "CASEMATE_"
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_SHOWN = 80


def default_data() -> Path:
    """Where data lives unless somebody says otherwise: /var/lib for root, the user's own data directory else."""
    if os.geteuid() == 0:
        return Path("/var/lib/casemate")
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "casemate"


class SettingsRefused(Exception):
    """The environment holds values that cannot be used.

    Attributes:
        reasons: One line for each, with the variable, its value and the way out.
    """

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = reasons


class Settings(BaseSettings):
    """The settings, each from the variable of its name in upper case with `CASEMATE_` in front.

    Attributes:
        data: Directory of everything that lasts: the store, images, sandboxes, the local key.
        host, port: Where to listen; port 0 takes any free one.
        allowed_hosts: Names under which clients reach the server, besides the loopback ones.
        allowed_origins: Origins whose web pages may call it, besides the server's own.
        log_level, log_format: What to log, and how; `auto` is for people on a terminal and JSON elsewhere.
        max_sandboxes, max_vcpus, max_memory_mib: What one owner may have at once.
        max_sessions, sessions_per_owner, session_idle_seconds: Bounds on the sessions of clients of older protocols.
        max_body_mib: The largest request.
        default_image: Image of a sandbox whose creator names none.
        warm: Whether the default template is prepared at the start instead of at the first create.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    data: Path = Field(default_factory=default_data)
    host: str = "127.0.0.1"
    port: int = Field(default=33944, ge=0, le=65535)
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    max_sandboxes: int = Field(default=50, ge=1, le=100_000)
    max_vcpus: int = Field(default=100, ge=1, le=100_000)
    max_memory_mib: int = Field(default=64 * 1024, ge=256, le=2**30)
    max_sessions: int = Field(default=2000, ge=1, le=100_000)
    sessions_per_owner: int = Field(default=200, ge=1, le=100_000)
    session_idle_seconds: int = Field(default=1800, ge=1, le=7 * 86400)
    max_body_mib: int = Field(default=16, ge=1, le=1024)
    default_image: str = Field(default="code", min_length=1, max_length=100)
    warm: bool = True

    @classmethod
    def load(cls) -> Self:
        """Read the environment.

        Raises:
            SettingsRefused: With a line for each variable that cannot be used.
        """
        try:
            return cls()
        except ValidationError as error:
            raise SettingsRefused(tuple(_reason(entry) for entry in error.errors())) from None

    @field_validator("data")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        path = value.expanduser()
        if not path.is_absolute() or "\0" in str(path):
            raise ValueError(f"is not an absolute path: set for example {PREFIX}DATA={default_data()}")
        if path.exists() and not path.is_dir():
            raise ValueError("is not a directory: name another one, or move the file away")
        return path

    @field_validator("allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if any(letter in host for letter in "/*? ") and not host.endswith(":*"):
                raise ValueError(f"has {host[:_SHOWN]!r}, which is no host name: write names such as box.example.org")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not origin.startswith(("http://", "https://")):
                raise ValueError(f"has {origin[:_SHOWN]!r}, which is no origin: write such as https://box.example.org")
        return value

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        try:
            infos = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise ValueError(
                f"{PREFIX}HOST={self.host[:_SHOWN]!r} is no address of this machine: "
                f"set for example {PREFIX}HOST=127.0.0.1"
            ) from None
        if any(_is_wildcard(str(info[4][0])) for info in infos) and not self.allowed_hosts:
            raise ValueError(
                f"{PREFIX}HOST={self.host} listens on every address, so the names that clients use must be known: "
                f"set for example {PREFIX}ALLOWED_HOSTS={socket.gethostname()},192.0.2.7"
            )
        return self

    @property
    def hosts(self) -> list[str]:
        """Host headers to accept, in the notation of the SDK: exact, or `name:*` for any port."""
        own = () if _is_wildcard(self.host) else (_bracketed(self.host),)
        names = dict.fromkeys((*_LOOPBACK, *own, *self.allowed_hosts))
        return [entry for name in names for entry in ((name,) if _has_port(name) else (name, f"{name}:*"))]

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
        host = "127.0.0.1" if _is_wildcard(self.host) else _bracketed(self.host)
        return f"http://{host}:{self.port if port is None else port}"


def _reason(details: ErrorDetails) -> str:
    """One line about a value that was refused."""
    message = details["msg"].removeprefix("Value error, ")
    if not details["loc"]:
        return message
    field_name = str(details["loc"][0])
    name = PREFIX + field_name.upper()
    value = os.environ.get(name, "")
    shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
    if details["type"] == "value_error":
        return f"{name}={shown} {message}"
    default = Settings.model_fields[field_name].get_default(call_default_factory=True)
    return f"{name}={shown} is refused: {message[0].lower()}{message[1:]}. The default is {default}"


def _is_wildcard(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _has_port(name: str) -> bool:
    return ":" in name.rsplit("]", 1)[-1]
