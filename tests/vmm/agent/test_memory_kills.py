"""The kernel's log of out-of-memory kills, and the process that a command reports from it."""

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
    """A kernel log that a test writes."""

    def __init__(self) -> None:
        super().__init__(-1)

    def kill(self, second: int, group: str, name: str, pid: int, *, summary: bool = True) -> None:
        if summary:
            self._take(SUMMARY.format(1, second, group, name, pid).encode())
        self._take(KILLED.format(2, second, pid, name).encode())


def test_a_command_reports_its_own_killed_process_with_its_size() -> None:
    log = Log()
    log.kill(20, "1", "tail", 154)
    log.kill(21, "11/inner", "a (b) c", 155)
    assert log.of("1", 10.0) == "tail (158 MiB)"
    assert log.of("11", 10.0) == "a (b) c (158 MiB)"
    assert log.of("2", 10.0) == log.of("", 10.0) == ""


def test_kills_before_a_command_started_are_not_reported_for_it() -> None:
    log = Log()
    log.kill(20, "1", "tail", 154)
    assert log.of("1", 21.0) == ""


def test_a_kill_without_the_kernels_summary_line_is_reported_for_any_command() -> None:
    log = Log()
    log.kill(20, "", "tail", 154, summary=False)
    assert log.of("7", 10.0) == "tail (158 MiB)"
