"""Starting a program in its own session, in its tree and in the sandbox's namespaces.

There are two ways. Most programs run as the agent's own user without a terminal: posix_spawn starts them without
copying the agent's memory map, at a third of fork's cost. What posix_spawn cannot set in the child (tree, namespaces,
directory, out-of-memory score) the agent sets for itself during the call, since children inherit it; nothing else in
the agent depends on these. All other programs need fork. As the agent has threads, the forked child only makes system
calls on values that were prepared before.

Signals need no reset: the agent handles signals with functions or leaves them at the default, and execve resets
handlers to the default.
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

_OOM_PROTECTED = b"-1000"
_OOM_DEFAULT = b"0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A program that was started and may have ended since.

    Attributes:
        pid: The pid in the sandbox's PID namespace.
        own_pid: The pid in the agent's PID namespace, for waiting and signals.
        pidfd: A pidfd of the process.
    """

    pid: int
    own_pid: int
    pidfd: int


class Spawner:
    """Starts programs.

    Args:
        trees: Moves the agent back to its own cgroup after it has joined a tree.
        proc: A descriptor of the agent's own /proc.
        score: A descriptor of the agent's oom_score_adj if it is protected from the out-of-memory killer, to give its
            children the default score; None otherwise.
        namespaces: The sandbox's namespaces; None if its programs run in the agent's.
    """

    def __init__(self, trees: Trees, proc: int, score: int | None, namespaces: Namespaces | None = None) -> None:
        self._trees = trees
        self._proc = proc
        self._score = score
        self._namespaces = namespaces
        self._lock = _thread.allocate_lock()
        self._paused = False
        self._own = (os.geteuid(), os.getegid())
        self._root = os.geteuid() == 0

    def spawn(
        self,
        program: Program,
        tree: Tree,
        streams: tuple[int, int, int],
        prepare: Callable[[], None] | None = None,
    ) -> Child:
        """Start a program, and return once execve has succeeded.

        Args:
            program: The program to start.
            tree: The tree that it and its children will belong to.
            streams: Its standard input, output and error.
            prepare: Called in the child once its standard streams are in place.

        Raises:
            RefusalError: The program, its directory or its user is invalid, or the sandbox has no room for it.
        """
        if prepare is None and self._is_own(program.user):
            with self._lock:
                pid = self._spawn(program, tree, streams)
        else:
            pid = self._fork(program, tree, streams, prepare)
        pidfd = os.pidfd_open(pid)
        return Child(pid=pid if self._namespaces is None else self._inner_pid(pidfd, pid), own_pid=pid, pidfd=pidfd)

    def pause(self) -> None:
        """Stop all programs where they are, and start none, until `resume`."""
        if not self._paused:
            # The agent itself joins a program's group for a moment, where it must not be stopped.
            self._lock.acquire()
            self._paused = True
            self._trees.freeze()

    def resume(self) -> None:
        """Let the programs go on."""
        self._trees.thaw()
        if self._paused:
            self._paused = False
            self._lock.release()

    def _spawn(self, program: Program, tree: Tree, streams: tuple[int, int, int]) -> int:
        try:
            _change_directory(program)
            self._set_oom_score(_OOM_DEFAULT)
            tree.join()
            # All descriptors from 3 on are close-on-exec.
            actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(streams)]
            with self._in_namespaces():
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
            self._set_oom_score(_OOM_PROTECTED)
            os.chdir(b"/")

    def _fork(
        self, program: Program, tree: Tree, streams: tuple[int, int, int], prepare: Callable[[], None] | None
    ) -> int:
        report_end, child_end = os.pipe2(os.O_CLOEXEC)
        try:
            with self._in_namespaces():
                pid = os.fork()
                if pid == 0:
                    self._exec(program, tree, streams, prepare, child_end)
        except BaseException:
            os.close(report_end)
            raise
        finally:
            os.close(child_end)
        try:
            report = os.read(report_end, 64)
        finally:
            os.close(report_end)
        if report:
            os.waitpid(pid, 0)
            stage, _, number = report.partition(b" ")
            raise _failure(program, stage, OSError(int(number), ""))
        return pid

    def _exec(
        self,
        program: Program,
        tree: Tree,
        streams: tuple[int, int, int],
        prepare: Callable[[], None] | None,
        child_end: int,
    ) -> None:
        """Run in the forked child: set it up and call execve, or report the error and exit."""
        stage = b"start"
        try:
            os.setsid()
            tree.join()
            self._set_oom_score(_OOM_DEFAULT)
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
            os.write(child_end, b"cwd %d" % (refusal.__cause__.errno or 0))
        except OSError as error:
            os.write(child_end, b"%s %d" % (stage, error.errno or 0))
        finally:
            os._exit(127)

    @contextmanager
    def _in_namespaces(self) -> Generator[None]:
        """Create this thread's children in the sandbox's namespaces while the context is open."""
        if self._namespaces is None:
            yield
            return
        try:
            self._namespaces.enter()
        except OSError as error:
            message = "the sandbox is restarting because its first process (pid 1) has ended; try again later"
            raise RefusalError(GUEST, message) from error
        try:
            yield
        finally:
            self._namespaces.leave()

    def _inner_pid(self, pidfd: int, pid: int) -> int:
        """Return the pid in the innermost namespace: the last number in the NSpid line of the pidfd."""
        for line in read(self._proc, f"self/fdinfo/{pidfd}").splitlines():
            if line.startswith(b"NSpid:"):
                return int(line.split()[-1])
        return pid

    def _is_own(self, user: User) -> bool:
        # Root needs no groups for its rights. As another user, the agent has the groups of the process that started it.
        return (user.uid, user.gid) == self._own and (not self._root or len(user.groups) == 1)

    def _set_oom_score(self, score: bytes) -> None:
        if self._score is not None:
            os.pwrite(self._score, score, 0)


def _change_directory(program: Program) -> None:
    try:
        os.chdir(program.cwd)
    except OSError as error:
        if program.cwd_given:
            raise _failure(program, b"cwd", error) from error
        os.chdir(b"/")  # As after a login, a user without a home directory starts in /.


def _failure(program: Program, stage: bytes, error: OSError) -> RefusalError:
    if stage == b"cwd":
        return RefusalError(INVALID, f"cwd: {from_os_error(error, program.cwd).message}")
    if error.errno == errno.EAGAIN:
        return RefusalError(GUEST, "command: the sandbox has reached its limit of processes; end some")
    if stage == b"exec":
        return RefusalError(INVALID, f"command: {from_os_error(error, program.path).message}")
    if stage == b"user":
        return RefusalError(INVALID, f"user: {shown(program.user.name)}: {from_os_error(error).message}")
    return from_os_error(error)
