"""`casemate completion`: shell completion of commands, options, and names of sandboxes and snapshots."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script

_PROGRAM = "casemate"
_VARIABLE = "_CASEMATE_COMPLETE"


class Shell(StrEnum):
    """Supported shells."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")]) -> None:
    """Print the completion script for a shell.

    bash: eval "$(casemate completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc after compinit;
    fish: casemate completion fish > ~/.config/fish/completions/casemate.fish
    """
    typer.echo(get_completion_script(prog_name=_PROGRAM, complete_var=_VARIABLE, shell=shell))


def enable_completion() -> None:
    """Answer the requests of these completion scripts; typer's default handles another script format."""
    completion_init()
