"""`llm`, `observe`, skills and `agent`: what a spec says about a coding agent in the machine."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import AfterValidator, Discriminator, Field, Tag

from .model import GuestPath, Name, Seconds, SpecModel, Text

OUTPUT_FILE = "/workspace/output.json"
SOURCES = ("agent", "file", "remote", "cli", "mcp")
"""Prefixes of skills that are written as one text."""


class Llm(SpecModel):
    """The model's provider."""

    provider: Literal["claude", "claude-personal", "codex", "ollama", "lm-studio", "custom"]
    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    credential_proxy: bool = False


class Observe(SpecModel):
    """Telemetry."""

    traces: bool = False
    metrics: bool = False
    logs: bool = False
    otlp_endpoint: str | None = None
    service_name: str | None = None
    telemetry_buffer_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class ImageSkill(SpecModel):
    """An image with programs, mounted in the machine."""

    form: ClassVar[str] = "image skill"
    image: Text
    mount: GuestPath
    readonly: bool = True


class ServerSkill(SpecModel):
    """An MCP server that the agent starts."""

    form: ClassVar[str] = "server skill"
    command: Text
    args: list[str] = Field(default_factory=list[str])
    env: dict[str, str] = Field(default_factory=dict[str, str])


class InlineSkill(SpecModel):
    """A skill whose text is in the spec."""

    form: ClassVar[str] = "inline skill"
    name: Name
    content: Text


_TEXT = "text skill"
_Forms = ImageSkill | ServerSkill | InlineSkill
_FORMS = (InlineSkill, ImageSkill, ServerSkill)


def _source(value: str) -> str:
    prefix, separator, rest = value.partition(":")
    if prefix not in SOURCES or not separator or not rest:
        raise ValueError(
            f"must be one of {', '.join(f'{source}:…' for source in SOURCES)}, or a mapping, got {value[:80]!r}"
        )
    return value


def _form(value: Any) -> str:
    """Return the form of a skill: of a mapping, the one with most of its fields."""
    if isinstance(value, _Forms):
        return value.form
    if not isinstance(value, dict):
        return _TEXT
    given = cast("dict[str, object]", value)
    return max(_FORMS, key=lambda form: len(given.keys() & form.model_fields.keys())).form


Skill = Annotated[
    Annotated[str, AfterValidator(_source), Tag(_TEXT)]
    | Annotated[ImageSkill, Tag(ImageSkill.form)]
    | Annotated[ServerSkill, Tag(ServerSkill.form)]
    | Annotated[InlineSkill, Tag(InlineSkill.form)],
    Discriminator(_form),
]


def skill_text(skill: Skill) -> str:
    """Return how a skill is listed: as it was written, or by what is most telling in it."""
    match skill:
        case str():
            return skill
        case ImageSkill():
            return f"image:{skill.image}"
        case ServerSkill():
            return " ".join([skill.command, *skill.args])
        case InlineSkill():
            return f"inline:{skill.name}"


class Messaging(SpecModel):
    """Messages between agents."""

    enabled: bool = False
    provider_bridge: str | bool | None = None


class AgentSection(SpecModel):
    """One agent.

    Attributes:
        prompt: Its task; may be empty if it is interactive.
        skills: What it is given.
        timeout_secs: Seconds until it is ended.
        output_file: Where it leaves its result.
        messaging: Messages between agents.
        mode: Whether it ends by itself (`task`), never (`service`), or is used by a person (`interactive`).
    """

    prompt: str = ""
    skills: list[Skill] = Field(default_factory=list[Skill])
    timeout_secs: Seconds | None = None
    output_file: GuestPath | None = None
    messaging: Messaging | None = None
    mode: Literal["task", "service", "interactive"] = "task"
