"""Published ports in a real browser: a page in development, and pages of different sandboxes beside each other."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from json import loads
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from playwright.async_api import Page, Response

from mcp_server.settings import Settings
from tests.mcp_server.edge import Edge, Tools, text_of
from tests.mcp_server.ports.browser import Browser, chromium, missing
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

_HERE = Path(__file__).parent
_PAGE, _SERVER = _HERE / "page", _HERE / "dev_server.py"
_WAIT_S = 10
_MUCH = 80_000

_MARK = "from=elsewhere"

# All that a page can make a browser send to another address, and what the page learns of it.
_REACH = """async ([other, mark]) => {
  const loaded = (name, attributes) => new Promise((resolve) => {
    const element = Object.assign(document.createElement(name), attributes);
    element.onload = () => resolve("loaded");
    element.onerror = () => resolve("refused");
    document.body.append(element);
  });
  const opened = new Promise((resolve) => {
    const socket = new WebSocket(`${other.replace("http", "ws")}?${mark}`, "vite-hmr");
    socket.onopen = () => resolve("opened");
    socket.onerror = () => resolve("refused");
  });
  const asked = (options) => fetch(`${other}api/data?${mark}`, { credentials: "include", ...options }).then(
    (answer) => answer.type, () => "refused");
  return {
    script: await loaded("script", { src: `${other}src/main.js?${mark}` }),
    image: await loaded("img", { src: `${other}icon.svg?${mark}` }),
    frame: await loaded("iframe", { src: `${other}?${mark}` }),
    socket: await opened,
    read: await asked({}),
    sent: await asked({ mode: "no-cors" }),
    posted: await asked({ mode: "no-cors", method: "POST" }),
  };
}"""
_LEARNT = {
    **dict.fromkeys(("script", "image", "socket", "read"), "refused"),
    **{"frame": "loaded", "sent": "opaque", "posted": "opaque"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A page in development in a sandbox, and the published port of its server.

    Attributes:
        box: The tools, for its sandbox.
        pid: The server.
        port: Where it listens.
        directory: Its files.
        signed: The URL that publishing returned.
    """

    box: Tools
    pid: int
    port: int
    directory: Path
    signed: str

    @property
    def url(self) -> str:
        """Its address without a token."""
        return self.signed.partition("?")[0]

    async def said(self) -> str:
        """What its server has written, which is a line for each request."""
        return await self.box("read_process_output", pid=self.pid, max_output=_MUCH)

    async def write(self, name: str, content: str) -> None:
        """Change a file of the page."""
        await self.box("write_file", path=str(self.directory / name), content=content)


Develop = Callable[[str], Awaitable[Site]]


@pytest.fixture
def expected() -> str:
    """Of what pages may complain, as a pattern; nothing unless a test says so."""
    return "(?!)"


@pytest.fixture
async def browser(host: Edge, expected: str) -> AsyncGenerator[Browser]:
    """A browser. It is closed before the server is."""
    assert host.url
    if lacking := missing():
        if os.environ.get("CI"):
            pytest.fail(f"CI must test published ports in a browser, but {lacking}")
        pytest.skip(lacking)
    async with chromium() as browser:
        yield browser
    assert [error for error in browser.errors if not re.search(expected, error)] == []


@pytest.fixture
async def develop(host: Edge, tmp_path: Path) -> AsyncGenerator[Develop]:
    """Starts a server for a page in a sandbox, and publishes its port, all as a model does it."""
    async with host.client("alice") as client:

        async def developed(sandbox: str) -> Site:
            box = Tools(client, sandbox)
            directory = tmp_path / f"page-{len(list(tmp_path.glob('page-*')))}"
            shutil.copytree(_PAGE, directory)
            command = shlex.join([sys.executable, str(_SERVER), str(directory)])
            (pid,) = re.findall(r"as pid (\d+)", await box("run_background_command", command=command))
            said = ""
            with anyio.fail_after(PATIENCE_S):
                while not (listens := re.search(r"listens on (\d+)", said)):
                    said = await box("read_process_output", pid=int(pid), wait=_WAIT_S)
            port = int(listens[1])
            made = loads(await box("publish_port", port=port))
            return Site(box=box, pid=int(pid), port=port, directory=directory, signed=made["url"])

        yield developed


@pytest.fixture
async def site(develop: Develop) -> Site:
    """A page in development in the sandbox `box`."""
    return await develop("box")


async def test_a_signed_url_opens_a_page_with_all_that_it_loads(browser: Browser, site: Site) -> None:
    assert re.fullmatch(r"http://\d+-[0-9a-f]{24}\.localhost:\d+/", site.url)
    page = await browser.open(site.signed)
    await _shows(page, title="First title", data="first data", socket="connected")
    assert await page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(1, 2, 3)"
    assert await page.evaluate("[location.href, document.referrer, document.cookie]") == [site.url, "", ""]
    await page.reload()
    await _shows(page, title="First title", data="first data", socket="connected")
    # Another tab needs no token any more.
    await _shows(await browser.open(site.url), title="First title", data="first data", socket="connected")


async def test_a_page_follows_the_changes_of_its_files(browser: Browser, site: Site) -> None:
    page = await browser.open(site.signed)
    await _shows(page, title="First title", data="first data", socket="connected")
    await page.evaluate("window.kept = true")
    await site.write("data.json", '{"text": "second data"}')
    await _shows(page, title="First title", data="second data", socket="connected")
    assert await page.evaluate("window.kept") is True
    for title in ("Second title", "Third title"):
        await site.write("src/title.js", f'export const title = "{title}";\n')
        await _shows(page, title=title, data="second data", socket="connected")
        assert await page.evaluate("window.kept") is None


@pytest.mark.parametrize("expected", ["401|ERR_INCOMPLETE_CHUNKED_ENCODING"], ids=["errors"])
async def test_a_port_that_is_unpublished_ends_in_open_pages_too(browser: Browser, site: Site) -> None:
    page = await browser.open(site.signed)
    await _shows(page, title="First title", data="first data", socket="connected")
    await site.box("unpublish_port", port=site.port)
    await _shows(page, title="First title", data="first data", socket="closed 1008: the port is no longer published")
    assert await _status(page, site.url) == 401
    assert await _status(page, site.signed) == 401
    assert "expired or was revoked" in await page.inner_text("body")
    made = loads(await site.box("publish_port", port=site.port))
    assert await _status(page, site.url) == 401
    assert await _status(page, made["url"]) == 200
    await _shows(page, title="First title", data="first data", socket="connected")


class TestOtherPages:
    """Pages of two sandboxes, one of which has two, that one browser has opened."""

    @pytest.fixture
    def expected(self) -> str:
        return "401|CORS|ERR_FAILED|HTTP Authentication failed"

    @pytest.fixture(params=["localhost", "ports.localhost"])
    def settings(self, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
        """To browsers, names below `localhost` are different sites, those below a domain are the same one."""
        return Settings(data=tmp_path, ports_domain=request.param)

    async def test_a_page_has_no_use_of_the_cookies_of_others(
        self, browser: Browser, develop: Develop, settings: Settings
    ) -> None:
        first = await develop("box")
        made = await first.box.client.call_tool("create_sandbox", {"name": "other"})
        assert not made.is_error, text_of(made)
        others = [await develop("box"), await develop("other")]
        hosts = {urlsplit(one.url).hostname for one in (first, *others)}
        assert len(hosts) == 3
        for other in others:
            await _shows(await browser.open(other.signed), title="First title", data="first data", socket="connected")
        page = await browser.open(first.signed)
        await _shows(page, title="First title", data="first data", socket="connected")
        for other in others:
            answers: list[Response] = []
            page.on("response", lambda answer, answers=answers: answers.append(answer))
            assert await page.evaluate(_REACH, [other.url, _MARK]) == _LEARNT
            (frame,) = (frame for frame in page.frames if frame.url.startswith(other.url))
            assert "This port is private" in await frame.inner_text("body")
            reached = [answer for answer in answers if answer.url.startswith(other.url)]
            assert {answer.status for answer in reached} == {401}
            # Cookies are sent where browsers know one site only; they are of no use there either.
            sent = [await answer.request.all_headers() for answer in reached]
            assert any("cookie" in headers for headers in sent) is (settings.ports_domain != "localhost")
            assert _MARK not in await other.said()
            await page.reload()
        # A link leads people there, with what they may see.
        for other in others:
            await page.evaluate("(url) => location.assign(url)", f"{other.url}?{_MARK}")
            await page.wait_for_url(f"{other.url}?{_MARK}")
            await _shows(page, title="First title", data="first data", socket="connected")
            assert _MARK in await other.said()


class TestLocalMode:
    """A server whose callers need no key, but for pages of sandboxes."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(data=tmp_path, local_mode=True)

    @pytest.fixture
    def expected(self) -> str:
        return "CORS|ERR_FAILED|favicon"

    async def test_a_page_by_path_cannot_call_the_api(self, browser: Browser, site: Site, host: Edge) -> None:
        path = loads(await site.box("publish_port", port=site.port, public=True))["path"]
        page = await browser.open(f"{host.url}{path}data.json")
        assert await _status(page, f"{host.url}/api/sandboxes") == 200
        assert await _status(page, f"{host.url}{path}data.json") == 200
        call = "fetch('/api/sandboxes').then((answer) => answer.status, () => 'refused')"
        assert await page.evaluate(call) == "refused"


async def _status(page: Page, url: str) -> int:
    """Go to a URL, and give the status of the page that is there."""
    answer = await page.goto(url)
    assert answer is not None
    return answer.status


async def _shows(page: Page, **texts: str) -> None:
    """Wait until a page shows what it should."""
    for name, text in texts.items():
        selector = "h1" if name == "title" else f"#{name}"
        await page.locator(selector, has_text=re.compile(f"^{re.escape(text)}$")).wait_for()
