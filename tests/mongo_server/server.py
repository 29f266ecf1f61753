"""Starts the Java server of pom.xml, whose jars Maven fetches once into the cache of tests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_HERE = Path(__file__).parent
_MAVEN = ("mvn", "--quiet", "--batch-mode", "--strict-checksums", "dependency:copy-dependencies")
_FETCH_S = 600
_STOP_S = 60


def missing() -> str:
    """What this machine lacks for the server; empty if nothing."""
    lacking = [program for program in ("java", "mvn") if shutil.which(program) is None]
    return f"{' and '.join(lacking)} not found: run `scripts/setup dev` as root" if lacking else ""


def jars() -> Path:
    """The directory of the server's jars, filled if need be.

    Raises:
        RuntimeError: Maven could not fetch them.
    """
    pom = _HERE / "pom.xml"
    root = Path(os.environ.get("XDG_CACHE_HOME") or f"{Path.home()}/.cache") / "casemate-test" / "mongo-server"
    place = root / hashlib.sha256(pom.read_bytes()).hexdigest()[:16]
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        # Several test processes come at once: one fetches, the others wait for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            _fetch(pom, place)
    return place


def _fetch(pom: Path, place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="fetching-") as fresh:
        command = [*_MAVEN, f"--file={pom}", f"-DoutputDirectory={fresh}/lib"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_FETCH_S)
        if done.returncode:
            raise RuntimeError(f"Maven could not fetch the test server: {(done.stdout + done.stderr)[-2000:]}")
        # Renamed when it is whole: what was killed in the middle is never taken for it.
        Path(fresh, "lib").rename(place)


class MongoServer:
    """One server process, as a context manager.

    Args:
        port: Where it listens; 0 takes a free port, which it keeps when it is started again.
        file: Where it keeps its data; without one they are in memory.
    """

    def __init__(self, *, port: int = 0, file: Path | None = None) -> None:
        self.port = port
        self._file = file
        self._process: subprocess.Popen[str] | None = None

    @property
    def uri(self) -> str:
        """The address for the driver."""
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-cp", f"{jars()}/*"]
        command += [str(_HERE / "Launcher.java"), str(self.port), *([str(self._file)] if self._file else [])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        word, _, port = self._process.stdout.readline().partition(" ")
        if word != "ready":
            self.kill()
            raise RuntimeError("The test server did not start")
        self.port = int(port)

    def kill(self) -> None:
        """End it as a power cut would; a no-op without it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            self._reap(process)

    def stop(self) -> None:
        """End it in good order; a no-op without it."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
            self._reap(process)

    def _reap(self, process: subprocess.Popen[str]) -> None:
        with process:
            process.wait(_STOP_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
