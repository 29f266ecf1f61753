"""A spec as a whole."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .agent import AgentSection, Llm, Observe, skill_text
from .model import Name, SpecModel
from .pipeline import PipelineSection
from .sandbox import SandboxSection
from .workflow import WorkflowSection

Kind = Literal["agent", "pipeline", "workflow", "sandbox"]
SECTIONS = ("agent", "pipeline", "workflow")
"""Kinds with a section of their own, of the same name."""


class Spec(SpecModel):
    """A spec: a machine and, except for the kind `sandbox`, what runs in it."""

    api_version: Literal["v1"] = "v1"
    kind: Kind
    name: Name
    sandbox: SandboxSection = Field(default_factory=SandboxSection)
    llm: Llm | None = None
    observe: Observe | None = None
    agent: AgentSection | None = None
    pipeline: PipelineSection | None = None
    workflow: WorkflowSection | None = None

    def skills(self) -> list[tuple[str, str]]:
        """List the skills: whose each is (`agent`, or `pipeline:` and the box), and what it is."""
        found = [("agent", skill_text(skill)) for skill in self.agent.skills] if self.agent else []
        for box in self.pipeline.boxes if self.pipeline else ():
            found += [(f"pipeline:{box.name}", skill_text(skill)) for skill in box.skills]
        return found
