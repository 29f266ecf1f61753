"""Runs a part of the test-suite in an emulated KVM host: `python -m tests.kvm_host [options] [pytest arguments]`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import NoReturn

import anyio

from .emulator import host_emulator
from .host import NoHost, check, run
from .kernel import host_kernel

PROJECT = Path(__file__).parents[2]
_UNUSED = (
    "hypothesispytest",
    "xdist",
    "xdist.looponfail",
    "tests.beside",
    "tests.examples",
    "tests.mongo_server.fixtures",
)
"""Plugins that the tests marked `kvm` have no use of."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.kvm_host", description=__doc__)
    parser.add_argument("--memory", type=int, default=6144, help="MiB of the host (%(default)s)")
    parser.add_argument(
        "--limit", type=float, default=3600, help="seconds after which the host is stopped (%(default)s)"
    )
    parser.add_argument("--kernel", type=Path, help="file of a kernel package (default: this Debian's cloud kernel)")
    parser.add_argument("--junit", type=Path, help="file for the report")
    parser.add_argument("--run", metavar="COMMAND", help="a shell command to run instead of tests")
    options, arguments = parser.parse_known_args()
    # Clean up as on Ctrl-C; otherwise the host would keep running.
    signal.signal(signal.SIGTERM, _end)
    try:
        check()
    except NoHost as reason:
        sys.exit(f"no KVM host can be emulated: {reason}")
    emulator = anyio.run(host_emulator, cache_directory())
    kernel = anyio.run(host_kernel, cache_directory(), options.kernel)
    with tempfile.TemporaryDirectory() as results:
        job = ["bash", "-c", options.run] if options.run else pytest_job(arguments or short_set())
        done = run(
            emulator,
            kernel,
            job,
            directory=PROJECT,
            environment=job_environment(),
            results=Path(results),
            memory_mib=options.memory,
            limit_s=options.limit,
        )
        report = Path(results, "junit.xml")
        if options.junit and report.exists():
            shutil.copy(report, options.junit)
    print(done.output, end="")
    if done.status is None:
        print(f"The host ended before the job. Its console:\n{done.console}", file=sys.stderr)
    elif done.status:
        print(f"The host's console:\n{done.console}", file=sys.stderr)
    sys.exit(1 if done.status is None else done.status)


def short_set() -> list[str]:
    """Return the arguments that select the tests marked `kvm`.

    They name the files that have some, and leave out plugins, because the host takes minutes to import all the others.
    """
    files = sorted(PROJECT.glob("tests/vmm/**/test_*.py"))
    marked = [str(file.relative_to(PROJECT)) for file in files if "pytest.mark.kvm" in file.read_text()]
    return [*(f"-pno:{name}" for name in _UNUSED), "-m", "kvm", *marked]


def pytest_job(arguments: list[str]) -> list[str]:
    """Return the command that runs tests inside the host; its report is one of the results."""
    python = PROJECT / ".venv/bin/python"
    # Everything takes thirty times as long in the host.
    fixed = ["-p", "no:cacheprovider", "--timeout=900", "--junitxml=/run/share/results/junit.xml"]
    return [str(python), "-m", "pytest", *fixed, *arguments]


def job_environment() -> dict[str, str]:
    """Return the environment of a job."""
    names = ("HOME", "CLOUD_HYPERVISOR_BIN", "CASEMATE_TEST_DATA", "XDG_CACHE_HOME", "CI")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "CASEMATE_INSIDE_KVM_HOST": "1", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}


def cache_directory() -> Path:
    """Return the directory that keeps the host's kernel between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or f"{Path.home()}/.cache"
    return Path(os.environ.get("CASEMATE_TEST_DATA") or f"{cache}/casemate-test")


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit("ended by SIGTERM")


if __name__ == "__main__":
    main()
