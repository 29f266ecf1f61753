"""Starting a program, in a session of its own and in its tree.

There are two ways. Most programs run as the agent's own user without a terminal: posix_spawn starts them without
copying the agent's memory map, a third of fork's cost. What posix_spawn cannot set in the child (tree, directory,
out-of-memory score) the agent takes on itself for that moment, since children inherit it; nothing else in the agent
depends on these. The others need fork, and in the child only system calls on values that were prepared before, since
the fork happens in a process with threads.

Signals need no reset: the agent handles with functions what it does not leave at the default, and execve turns
functions back into the default.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable

from .programs import Program
from .refusals import INVALID, RefusalError, from_os_error, shown
from .trees import Tree, Trees
from .users import User

_PROTECTED = b"-1000"
_ORDINARY = b"0"


class Spawner:
    """Starts programs.

    Args:
        trees: Where the agent's own place is to return to.
        score: A descriptor of the agent's oom_score_adj if it is protected from the out-of-memory killer, so that its
            children must be made ordinary again.
    """

    def __init__(self, trees: Trees, score: int | None) -> None:
        self._trees = trees
        self._score = score
        self._lock = _thread.allocate_lock()
        self._own = (os.geteuid(), os.getegid())
        self._root = os.geteuid() == 0

    def spawn(
        self,
        program: Program,
        tree: Tree,
        streams: tuple[int, int, int],
        prepare: Callable[[], None] | None = None,
    ) -> int:
        """Start a program and return its pid once execve has succeeded.

        Args:
            program: What to start.
            tree: What it and its children will belong to.
            streams: Its standard input, output and error.
            prepare: Something more to do in the child, with its standard streams in place.

        Raises:
            RefusalError: The program, its directory or its user does not allow it.
        """
        if prepare is None and self._is_own(program.user):
            with self._lock:
                return self._spawn(program, tree, streams)
        return self._fork(program, tree, streams, prepare)

    def _spawn(self, program: Program, tree: Tree, streams: tuple[int, int, int]) -> int:
        try:
            _change_directory(program)
            self._be(_ORDINARY)
            tree.join()
            # Descriptors from 3 on close by themselves.
            actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(streams)]
            try:
                return os.posix_spawn(program.path, program.argv, program.env, file_actions=actions, setsid=True)
            except OSError as error:
                raise _failure(program, b"exec", error) from error
        finally:
            self._trees.return_home()
            self._be(_PROTECTED)
            os.chdir(b"/")

    def _fork(
        self, program: Program, tree: Tree, streams: tuple[int, int, int], prepare: Callable[[], None] | None
    ) -> int:
        told, tell = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(program, tree, streams, prepare, tell)
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(tell)
        try:
            report = os.read(told, 64)
        finally:
            os.close(told)
        if report:
            os.waitpid(pid, 0)
            stage, _, number = report.partition(b" ")
            raise _failure(program, stage, OSError(int(number), ""))
        return pid

    def _become(
        self,
        program: Program,
        tree: Tree,
        streams: tuple[int, int, int],
        prepare: Callable[[], None] | None,
        tell: int,
    ) -> None:
        """Be the child: ends in execve or _exit."""
        stage = b"start"
        try:
            os.setsid()
            tree.join()
            self._be(_ORDINARY)
            for target, source in enumerate(streams):
                os.dup2(source, target)
            if prepare is not None:
                prepare()
            user = program.user
            if not self._is_own(user):
                stage = b"user"
                os.setgroups(user.groups)
                os.setgid(user.gid)
                os.setuid(user.uid)
            stage = b"cwd"
            _change_directory(program)
            stage = b"exec"
            os.execve(program.path, program.argv, program.env)  # noqa: S606 (no shell is the point)
        except RefusalError as refusal:
            assert isinstance(refusal.__cause__, OSError)
            os.write(tell, b"cwd %d" % (refusal.__cause__.errno or 0))
        except OSError as error:
            os.write(tell, b"%s %d" % (stage, error.errno or 0))
        finally:
            os._exit(127)

    def _is_own(self, user: User) -> bool:
        # Root has all rights without its groups; others' groups the agent has from whoever started it.
        return (user.uid, user.gid) == self._own and (not self._root or len(user.groups) == 1)

    def _be(self, score: bytes) -> None:
        if self._score is not None:
            os.pwrite(self._score, score, 0)


def _change_directory(program: Program) -> None:
    try:
        os.chdir(program.cwd)
    except OSError as error:
        if program.cwd_given:
            raise _failure(program, b"cwd", error) from error
        os.chdir(b"/")  # A user without a home starts at the root, as after a login.


def _failure(program: Program, stage: bytes, error: OSError) -> RefusalError:
    if stage == b"cwd":
        return RefusalError(INVALID, f"cwd: {from_os_error(error, program.cwd).message}")
    if stage == b"exec":
        return RefusalError(INVALID, f"command: {from_os_error(error, program.path).message}")
    if stage == b"user":
        return RefusalError(INVALID, f"user: {shown(program.user.name)}: {from_os_error(error).message}")
    return from_os_error(error)
