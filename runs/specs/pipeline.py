"""`pipeline`: boxes, each a machine with an agent, in stages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .agent import Llm, Skill
from .model import GuestPath, Name, Seconds, SpecModel, Text
from .sandbox import BoxSandbox

MOST_BOXES = 100


class BoxOutput(SpecModel):
    """A directory that a box hands on."""

    name: Name
    guest: GuestPath = "/workspace/output"


class BoxInput(SpecModel):
    """What an earlier box handed on."""

    source: Annotated[Name, Field(alias="from")]
    guest: GuestPath = "/workspace/input"


class Box(SpecModel):
    """One agent in a machine of its own."""

    name: Name
    prompt: Text
    skills: list[Skill] = Field(default_factory=list[Skill])
    llm: Llm | None = None
    timeout_secs: Seconds | None = None
    sandbox: BoxSandbox | None = None
    outputs: list[BoxOutput] = Field(default_factory=list[BoxOutput])
    inputs: list[BoxInput] = Field(default_factory=list[BoxInput])


class BoxStage(SpecModel):
    """One box."""

    form: ClassVar[str] = "box"
    type: Literal["box"]
    name: Name


class FanOutStage(SpecModel):
    """Boxes side by side."""

    form: ClassVar[str] = "fan_out"
    type: Literal["fan_out"]
    boxes: Annotated[list[Name], Field(min_length=1)]


Stage = Annotated[BoxStage | FanOutStage, Field(discriminator="type")]


class PipelineSection(SpecModel):
    """Boxes, and the order in which they run: by default one after the other."""

    boxes: Annotated[list[Box], Field(min_length=1, max_length=MOST_BOXES)]
    stages: list[Stage] | None = None
