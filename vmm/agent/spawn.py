"""Starting a program: fork, and in the child only what must happen there before execve.

The fork happens in a process with threads, so the child may use nothing that another thread could have held: it makes system
calls on values that were prepared before. Signals need no reset: the agent handles with functions what it does not leave at
the default, and execve turns functions back into the default.
"""

from __future__ import annotations

import os
from typing import Protocol

from .programs import Program
from .refusals import INVALID, RefusalError, from_os_error, shown
from .trees import Tree

_FIRST_FREE = 3


class Prepare(Protocol):
    """Something more to do in the child, with its standard streams in place."""

    def __call__(self) -> None: ...


class Spawner:
    """Starts programs.

    Attributes:
        adjust: A descriptor of /proc if the agent is protected from the out-of-memory killer, so that its children must
            be made ordinary again.
    """

    def __init__(self, adjust: int | None) -> None:
        self.adjust = adjust

    def spawn(
        self, program: Program, tree: Tree, stdin: int, stdout: int, stderr: int, prepare: Prepare | None = None
    ) -> int:
        """Start a program in a session of its own and return its pid once execve has succeeded.

        Raises:
            RefusalError: The program, its directory or its user does not allow it.
        """
        told, tell = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(program, tree, (stdin, stdout, stderr), prepare, tell)
            os.close(tell)
            tell = -1
            report = os.read(told, 64)
        finally:
            os.close(told)
            if tell >= 0:
                os.close(tell)
        if report:
            os.waitpid(pid, 0)
            raise _failure(program, report)
        return pid

    def _become(
        self, program: Program, tree: Tree, streams: tuple[int, int, int], prepare: Prepare | None, tell: int
    ) -> None:
        stage = b"start"
        try:
            os.setsid()
            tree.join()
            if self.adjust is not None:
                score = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=self.adjust)
                os.write(score, b"0")
                os.close(score)
            for target, source in enumerate(streams):
                os.dup2(source, target)
            if prepare is not None:
                prepare()
            user = program.user
            if user.uid != os.getuid() or user.gid != os.getgid():
                stage = b"user"
                os.setgroups(user.groups)
                os.setgid(user.gid)
                os.setuid(user.uid)
            stage = b"cwd"
            try:
                os.chdir(program.cwd)
            except OSError:
                if program.cwd_given:
                    raise
                os.chdir(b"/")
            stage = b"exec"
            os.execve(program.path, program.argv, program.env)  # noqa: S606 (no shell is the point)
        except OSError as error:
            os.write(tell, b"%s %d" % (stage, error.errno or 0))
        finally:
            os._exit(127)


def _failure(program: Program, report: bytes) -> RefusalError:
    stage, _, number = report.partition(b" ")
    error = OSError(int(number), "")
    if stage == b"cwd":
        return RefusalError(INVALID, f"cwd: {from_os_error(error, program.cwd).message}")
    if stage == b"exec":
        return RefusalError(INVALID, f"command: {from_os_error(error, program.path).message}")
    if stage == b"user":
        return RefusalError(INVALID, f"user: {shown(program.user.name)}: {from_os_error(error).message}")
    return from_os_error(error)
