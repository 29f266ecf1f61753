"""Chromium for tests: without a window, with a profile of its own, and with no way to anything but this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import BrowserContext, ConsoleMessage, Page, WebError, async_playwright

from tests.waiting import PATIENCE_S, until

_CHROMIUM = shutil.which("chromium")
# No name or address but those that lead to this machine.
_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE *.localhost, EXCLUDE 127.0.0.1"


def missing() -> str:
    """What this machine lacks for the browser; empty if nothing."""
    return "" if _CHROMIUM else "chromium not found: run `scripts/setup dev` as root"


class Browser:
    """A browser.

    Attributes:
        errors: What its pages complained of in their consoles.
    """

    def __init__(self, context: BrowserContext) -> None:
        self._context = context
        self.errors: list[str] = []
        context.on("console", self._note)
        context.on("weberror", self._note_thrown)

    async def open(self, url: str) -> Page:
        """Open a URL in a new tab."""
        page = await self._context.new_page()
        await page.goto(url)
        return page

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location['url']})")

    def _note_thrown(self, error: WebError) -> None:
        self.errors.append(str(error.error))


@asynccontextmanager
async def chromium() -> AsyncGenerator[Browser]:
    """Run a browser for the length of a block. Nothing of it is left, and it reads nothing of its user's."""
    # Below the directory of a test the path of its socket would be too long.
    with tempfile.TemporaryDirectory(prefix="casemate-browser-") as home:
        own: dict[str, str | float | bool] = {"HOME": home, "TMPDIR": home, "PATH": os.environ["PATH"]}
        async with (
            async_playwright() as playwright,
            await playwright.chromium.launch_persistent_context(
                Path(home, "profile"), executable_path=_CHROMIUM, args=[_NAMES], env=own, timeout=PATIENCE_S * 1000
            ) as context,
        ):
            context.set_default_timeout(PATIENCE_S * 1000)
            yield Browser(context)
        # What would report its crash outlives it by a moment.
        await until(lambda: not _running(home))


def _running(home: str) -> list[str]:
    """The processes that have a directory among their arguments."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if home.encode() in process.read_bytes():
                found.append(process.parent.name)
        except OSError:  # it has just ended
            continue
    return found
