"""What the kernel writes when it ends a process for want of memory, and what is told of it."""

from __future__ import annotations

from vmm.agent.memory_kills import MemoryKills

SUMMARY = (
    "6,{},{}000000,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    "oom_memcg=/casemate-1/sandbox,task_memcg=/casemate-1/sandbox/{},task={},pid={},uid=0\n"
)
KILLED = (
    "3,{},{}000000,-;Memory cgroup out of memory: Killed process {} ({}) total-vm:163444kB, anon-rss:160768kB, "
    "file-rss:0kB, shmem-rss:1024kB, UID:0 pgtables:356kB oom_score_adj:0\n"
)


class Log(MemoryKills):
    """The kernel's log, with what a test writes into it."""

    def __init__(self) -> None:
        super().__init__(-1)

    def kill(self, second: int, group: str, name: str, pid: int, *, summary: bool = True) -> None:
        if summary:
            self._take(SUMMARY.format(1, second, group, name, pid).encode())
        self._take(KILLED.format(2, second, pid, name).encode())


def test_a_command_is_told_of_its_own_process_and_of_its_size() -> None:
    log = Log()
    log.kill(20, "1", "tail", 154)
    log.kill(21, "11/inner", "a (b) c", 155)
    assert log.of("1", 10.0) == "tail (158 MiB)"
    assert log.of("11", 10.0) == "a (b) c (158 MiB)"
    assert log.of("2", 10.0) == log.of("", 10.0) == ""


def test_what_happened_before_a_command_began_is_not_its_own() -> None:
    log = Log()
    log.kill(20, "1", "tail", 154)
    assert log.of("1", 21.0) == ""


def test_without_the_kernels_summary_the_command_that_ends_then_is_told() -> None:
    log = Log()
    log.kill(20, "", "tail", 154, summary=False)
    assert log.of("7", 10.0) == "tail (158 MiB)"
