"""Commands of sessions: run as their user, with a time limit that ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from mcp_server.audit.entry import annotate_call
from vmm.errors import InvalidInput
from vmm.guest.values import KIB, Command

from ..rest.outcome import outcome_object
from .names import container_id, owner_of
from .scripts import limited

if TYPE_CHECKING:
    from auth.principal import Principal
    from vmm.fleet import Fleet

    from .rules import Home, Rules
    from .sessions import Sessions

LONGEST = 32_000
LONGEST_DIRECTORY = 512
DEFAULT_S = 30
_KEEP_HEAD, _KEEP_TAIL = 256 * KIB, 1024 * KIB
_GRACE_MS = 10_000
_TIMED_OUT = -1


class Executed(TypedDict):
    """The result of a command.

    `exit_code` is -1 if the time limit ended it, with everything that it had started; `timed_out` says so, too, and
    the output is what it had written until then. `truncated` says that the middle of a long output is left out.
    """

    stdout: str
    stderr: str
    exit_code: int
    execution_time: float
    container_id: str
    sandbox_id: str
    timed_out: bool
    truncated: bool


class Executor:
    """Runs commands in sessions.

    Args:
        fleet: The running fleet.
        sessions: The sessions.
        rules: Their limits.
        home: Whose the commands are.
    """

    def __init__(self, fleet: Fleet, sessions: Sessions, rules: Rules, home: Home) -> None:
        self._fleet = fleet
        self._sessions = sessions
        self._rules = rules
        self._home = home

    @property
    def longest_s(self) -> int:
        """The longest time limit of a command, in seconds."""
        return self._rules.exec_s

    async def execute(
        self, who: Principal, session_id: str, command: str, *, timeout_s: float, working_dir: str
    ) -> Executed:
        """Run a command line in a session, and wait for its end.

        Args:
            who: The caller.
            session_id: The session, which is created if there is none.
            command: The line, for a shell.
            timeout_s: Seconds after which everything that it started is killed.
            working_dir: An absolute directory, or one below the workspace.

        Raises:
            InvalidInput: A value is not allowed.
            CasemateError: See `Sessions.use`.
        """
        line = check_command(command)
        self._rules.commands.check(line)
        owner = owner_of(who)
        program = Command(
            argv=limited(line, self._rules.pids),
            cwd=self._directory(working_dir),
            user=self._home.user,
            timeout_ms=int(timeout_s * 1000),
        )
        async with self._sessions.use(owner, session_id) as sandbox:
            outcome = await self._fleet.guest.exec(
                owner,
                sandbox.id,
                program,
                wait_ms=program.timeout_ms + _GRACE_MS,
                keep_head=_KEEP_HEAD,
                keep_tail=_KEEP_TAIL,
            )
        said = outcome_object(outcome, timeout_s=timeout_s)
        code = _TIMED_OUT if outcome.timed_out else said["exitCode"]
        annotate_call(exit_code=said["exitCode"])
        return Executed(
            stdout=said["stdout"],
            stderr=said["stderr"],
            exit_code=code,
            execution_time=round(outcome.duration_ms / 1000, 3),
            container_id=container_id(sandbox),
            sandbox_id=sandbox.id,
            timed_out=outcome.timed_out,
            truncated=said.get("truncated", False),
        )

    def _directory(self, wanted: str) -> str:
        if len(wanted) > LONGEST_DIRECTORY:
            raise InvalidInput(f"working_dir must have at most {LONGEST_DIRECTORY} characters, got {len(wanted)}")
        if wanted in {"", "/workspace"}:
            return self._home.workspace
        return wanted if wanted.startswith("/") else f"{self._home.workspace}/{wanted}"


def check_command(command: str) -> str:
    """Check a command line and return it.

    Raises:
        InvalidInput: It is empty or too long.
    """
    if not command.strip():
        raise InvalidInput("command is empty", hint="Give a shell command line, such as ls -la")
    if len(command) > LONGEST:
        raise InvalidInput(
            f"command must have at most {LONGEST} characters, got {len(command)}",
            hint="Write a script into the workspace and run that",
        )
    return command
