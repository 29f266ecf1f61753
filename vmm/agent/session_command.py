"""A command of a session, and the lines that its shell is given to run it."""

from __future__ import annotations

from dataclasses import dataclass

from .output import OutputLog

REPORTS = 8
"""The shell's descriptor of the pipe for reports. POSIX shells accept only one digit in a redirection."""


@dataclass(slots=True, kw_only=True)
class SessionCommand:
    """A command that was given to the shell.

    Attributes:
        number: Its number in the session; the shell's own preparation is 0.
        log: Its output.
        exit_code: The status that the shell reported; None until then.
        timed_out: Whether it was interrupted because of its time limit.
    """

    number: int
    log: OutputLog
    exit_code: int | None = None
    timed_out: bool = False

    def report(self) -> bytes:
        """Return the line that lets the shell report the end of what it has run before."""
        return b"command printf '%d %%d\\n' \"$?\" >&%d\n" % (self.number, REPORTS)


def statement(line: bytes, status: int) -> bytes:
    """Return the shell's line that runs a command in the shell itself, with the status of the previous one as `$?`."""
    # With -e, the shell would end at the status; but then it has ended at the previous command already.
    before = b"case $- in *e*) ;; *) (exit %d) ;; esac; " % status if status else b""
    quoted = b"'" + line.replace(b"'", b"'\\''") + b"'"
    # As an argument of `command`, eval does not end the command's line at a syntax error in any shell.
    return b"%scommand eval %s <>/dev/tty 2>&0 %d>&-\n" % (before, quoted, REPORTS)
