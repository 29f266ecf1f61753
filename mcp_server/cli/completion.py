"""`casemate completion`: scripts that complete commands, options and names of sandboxes and snapshots in a shell."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script

_PROGRAM = "casemate"
_VARIABLE = "_CASEMATE_COMPLETE"


class Shell(StrEnum):
    """Shells that are served."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")]) -> None:
    """Print the script that completes commands, options and names of sandboxes and snapshots.

    bash: eval "$(casemate completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc after compinit;
    fish: casemate completion fish > ~/.config/fish/completions/casemate.fish
    """
    typer.echo(get_completion_script(prog_name=_PROGRAM, complete_var=_VARIABLE, shell=shell))


def listen_to_shells() -> None:
    """Have the questions of these scripts answered; without it typer knows scripts of another form."""
    completion_init()
