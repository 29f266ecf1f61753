"""Starting a program, in a session of its own, in its tree and in the sandbox's namespaces.

There are two ways. Most programs run as the agent's own user without a terminal: posix_spawn starts them without
copying the agent's memory map, a third of fork's cost. What posix_spawn cannot set in the child (tree, namespaces,
directory, out-of-memory score) the agent takes on itself for that moment, since children inherit it; nothing else in
the agent depends on these. The others need fork, and in the child only system calls on values that were prepared
before, since the fork happens in a process with threads.

Signals need no reset: the agent handles with functions what it does not leave at the default, and execve turns
functions back into the default.
"""

from __future__ import annotations

import _thread
import errno
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from .namespaces import Namespaces
from .procfs import read
from .programs import Program
from .refusals import GUEST, INVALID, RefusalError, from_os_error, shown
from .trees import Tree, Trees
from .users import User

_PROTECTED = b"-1000"
_ORDINARY = b"0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A program that was started, and may have ended.

    Attributes:
        pid: As the sandbox's programs know it.
        own_pid: As the agent knows it, by which it waits and sends signals.
        pidfd: A descriptor of it.
    """

    pid: int
    own_pid: int
    pidfd: int


class Spawner:
    """Starts programs.

    Args:
        trees: Where the agent's own place is to return to.
        proc: A descriptor of the agent's own /proc.
        score: A descriptor of the agent's oom_score_adj if it is protected from the out-of-memory killer, so that its
            children must be made ordinary again.
        namespaces: The sandbox's; None if its programs live in the agent's.
    """

    def __init__(self, trees: Trees, proc: int, score: int | None, namespaces: Namespaces | None = None) -> None:
        self._trees = trees
        self._proc = proc
        self._score = score
        self._namespaces = namespaces
        self._lock = _thread.allocate_lock()
        self._own = (os.geteuid(), os.getegid())
        self._root = os.geteuid() == 0

    def spawn(
        self,
        program: Program,
        tree: Tree,
        streams: tuple[int, int, int],
        prepare: Callable[[], None] | None = None,
    ) -> Child:
        """Start a program; it is returned once execve has succeeded.

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
                pid = self._spawn(program, tree, streams)
        else:
            pid = self._fork(program, tree, streams, prepare)
        pidfd = os.pidfd_open(pid)
        return Child(pid=pid if self._namespaces is None else self._inner(pidfd, pid), own_pid=pid, pidfd=pidfd)

    def _spawn(self, program: Program, tree: Tree, streams: tuple[int, int, int]) -> int:
        try:
            _change_directory(program)
            self._be(_ORDINARY)
            tree.join()
            # Descriptors from 3 on close by themselves.
            actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(streams)]
            with self._inside():
                try:
                    return os.posix_spawn(
                        program.path,
                        program.argv,
                        program.env,
                        file_actions=actions,
                        setsid=True,
                    )
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
            with self._inside():
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

    @contextmanager
    def _inside(self) -> Generator[None]:
        """Let children of this thread be born in the sandbox's namespaces."""
        if self._namespaces is None:
            yield
            return
        try:
            self._namespaces.enter()
        except OSError as error:
            raise RefusalError(GUEST, "the sandbox is starting anew, for its first process has ended") from error
        try:
            yield
        finally:
            self._namespaces.leave()

    def _inner(self, pidfd: int, pid: int) -> int:
        """The pid in the innermost namespace: the last one in the line of its descriptor."""
        for line in read(self._proc, f"self/fdinfo/{pidfd}").splitlines():
            if line.startswith(b"NSpid:"):
                return int(line.split()[-1])
        return pid

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
    if error.errno == errno.EAGAIN:
        return RefusalError(GUEST, "command: the sandbox has as many processes as it may; end some")
    if stage == b"exec":
        return RefusalError(INVALID, f"command: {from_os_error(error, program.path).message}")
    if stage == b"user":
        return RefusalError(INVALID, f"user: {shown(program.user.name)}: {from_os_error(error).message}")
    return from_os_error(error)
