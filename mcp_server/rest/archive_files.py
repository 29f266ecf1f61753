"""Archives inside of a sandbox: made next to what they contain, and unpacked. Answers have the form of `shell`.

The exit code is 0 if everything was packed or unpacked, 1 if some entries were left out (`stderr` lists them), and 2
if nothing was written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from vmm.errors import GuestError
from vmm.guest.values import ARCHIVE_SUFFIXES, ArchiveForm

from .archives import report_object
from .body import WireModel, parse_query
from .contract import GUEST, contract
from .endpoint import Endpoint
from .envelope import success
from .paths import GuestPath, parent
from .shapes.envelope import Enveloped
from .shapes.files import Compressed, Extracted
from .streaming import while_connected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.guest.values import ArchiveReport

_LEFT_OUT = 1
_FAILED = 2


def _named(path: str) -> str:
    if path.rstrip("/").rpartition("/")[2] in {"", ".", ".."}:
        raise ValueError("Must end in the name of a file or directory")
    return path


def _suffixed(path: str) -> str:
    if not path.lower().endswith(tuple(ARCHIVE_SUFFIXES)):
        raise ValueError(f"Must end in one of {', '.join(ARCHIVE_SUFFIXES)}")
    return path


class Compressing(WireModel):
    """A file or directory to pack, and the format of the archive."""

    path: Annotated[GuestPath, AfterValidator(_named)]
    format: ArchiveForm = "tar.gz"


class Extracting(WireModel):
    """An archive, and the directory to unpack it into, by default the one that it is in."""

    archive: Annotated[GuestPath, AfterValidator(_suffixed)]
    dest: GuestPath | None = None


class ArchiveFileRoutes:
    """The routes that make and unpack archives inside of a sandbox."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        base = "/api/sandboxes/{id}/files"
        run = Scope.RUN
        return [
            Endpoint(method="POST", path=f"{base}/compress", handler=self.compress, scope=run, action="file.compress"),
            Endpoint(method="POST", path=f"{base}/extract", handler=self.extract, scope=run, action="file.extract"),
        ]

    @contract(Enveloped[Compressed], query=Compressing, refusals=GUEST)
    async def compress(self, request: Request, who: Principal) -> Response:
        """Pack a file or directory into `<path>.<format>`; a client that disconnects leaves nothing of it."""
        wanted = parse_query(request, Compressing)
        owner, ref = who.org_id, request.path_params["id"]
        async with while_connected(request.receive):
            try:
                made = await self._fleet.guest.compress(owner, ref, wanted.path, wanted.format)
            except GuestError as error:
                return _failed(error)
        done = f"{made.archive}: {_count(made.report)} packed, {made.archive_size} bytes\n"
        return _answer(done, made.report, {"archive": made.archive, "archiveBytes": made.archive_size})

    @contract(Enveloped[Extracted], query=Extracting, refusals=GUEST)
    async def extract(self, request: Request, who: Principal) -> Response:
        """Unpack an archive as a whole, or not at all if it fails or the client disconnects."""
        wanted = parse_query(request, Extracting)
        dest = wanted.dest or parent(wanted.archive)
        owner, ref = who.org_id, request.path_params["id"]
        async with while_connected(request.receive):
            try:
                report = await self._fleet.guest.extract(owner, ref, wanted.archive, dest)
            except GuestError as error:
                return _failed(error)
        return _answer(f"{dest}: {_count(report)} unpacked, {report.size} bytes\n", report, {"path": dest})


def _answer(stdout: str, report: ArchiveReport, facts: dict[str, Any]) -> Response:
    lines = [f"left out: {path}: {reason}\n" for path, reason in report.listed]
    if report.skipped > len(report.listed):
        lines.append(f"left out: {report.skipped - len(report.listed)} more\n")
    code = _LEFT_OUT if report.skipped else 0
    annotate_call(exit_code=code)
    outcome = {"stdout": stdout, "stderr": "".join(lines), "exitCode": code}
    return success("ok", {**outcome, **facts, **report_object(report)})


def _failed(error: GuestError) -> Response:
    annotate_call(exit_code=_FAILED)
    return success("ok", {"stdout": "", "stderr": f"{error}\n", "exitCode": _FAILED})


def _count(report: ArchiveReport) -> str:
    return f"{report.files} {'file' if report.files == 1 else 'files'}"
