"""Who may open a published port, and what the server in the sandbox never sees of that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from mcp_server.app import Services
from mcp_server.settings import Settings
from tests.mcp_server.edge import Edge
from tests.mcp_server.host import ALICE, SANDBOX, OneHost
from tests.mcp_server.ports.conftest import Published
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


def token_of(url: str) -> str:
    (token,) = parse_qs(urlsplit(url).query)["casemate_token"]
    return token


def cookie_of(answer: httpx.Response) -> str:
    """The cookie that a redirect sets, as a browser sends it back."""
    return answer.headers["set-cookie"].partition(";")[0]


async def seen(http: httpx.AsyncClient, path: str = "/echo", **headers: str) -> dict[str, Any]:
    answer = await http.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["headers"]) | {"query": answer.json()["query"]}


async def test_a_private_port_opens_for_its_owners_key_alone(app: Published) -> None:
    await app.publish()
    async with app.http() as nobody, app.http("bob") as bob, app.http("alice") as alice, app.http("cm_wrong") as wrong:
        assert (await nobody.get("/")).status_code == 401
        assert (await wrong.get("/")).status_code == 401
        assert (await bob.get("/")).status_code == 404
        assert (await alice.get("/")).status_code == 200
        bearer = {"authorization": f"Bearer {app.edge.keys['alice']}"}
        assert "authorization" not in await seen(nobody, **bearer)
    with pytest.raises(InvalidStatus) as refused:
        async with app.socket(key=""):
            pass
    assert refused.value.response.status_code == 401


async def test_an_unknown_sandbox_and_an_unpublished_port_look_like_private_ones(app: Published) -> None:
    await app.publish()
    other = Published(edge=app.edge, port=app.port ^ 1)
    async with app.http() as private, other.http() as unpublished, other.http("alice") as owner:
        unknown = await private.get("/", headers={"host": app.host.replace(SANDBOX, "f" * 24)})
        texts = {(one.status_code, one.text) for one in (await private.get("/"), await unpublished.get("/"), unknown)}
        assert len(texts) == 1
        answer = await owner.get("/")
        assert answer.status_code == 404
        assert "is not published" in answer.text


async def test_a_key_without_the_scope_run_opens_nothing(app: Published) -> None:
    await app.publish()
    async with app.edge.http("alice") as alice:
        made = await alice.post("/api/orgs/apikeys", json={"keyName": "reader", "scopes": ["read"]})
    async with app.http(made.json()["plainKey"]) as reader:
        answer = await reader.get("/")
    assert answer.status_code == 403


async def test_a_signed_url_becomes_a_cookie_and_leaves_no_trace(app: Published) -> None:
    url = (await app.publish())["url"]
    assert url.startswith(f"http://{app.host}/?casemate_token=")
    async with app.http() as browser:
        first = await browser.get(f"/echo?a=1&casemate_token={token_of(url)}&b=2")
        assert first.status_code == 303
        assert first.headers["location"] == f"http://{app.host}/echo?a=1&b=2"
        assert first.headers["cache-control"] == "no-store"
        assert re.fullmatch(
            r"casemate_port=\d+\.[\w-]{43}; Path=/; Max-Age=\d+; HttpOnly; SameSite=Lax",
            first.headers["set-cookie"],
        )
        found = await seen(browser, "/echo?a=1", cookie=f"mine=1; {cookie_of(first)}; other=2")
        assert (found["cookie"], found["query"]) == ("mine=1; other=2", "a=1")
        found = await seen(browser, cookie=cookie_of(first))
        assert "cookie" not in found
        posted = await browser.post(f"/echo?casemate_token={token_of(url)}", content=b"x")
        assert (posted.status_code, posted.json()["query"]) == (200, "")
        assert (await browser.get("/echo", headers={"cookie": f"casemate_port={token_of(url)}"})).status_code == 401
    async with app.socket(f"/socket?casemate_token={token_of(url)}", key="") as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"


async def test_a_signed_path_becomes_a_cookie_of_that_path(app: Published) -> None:
    path = (await app.publish())["path"]
    assert path.startswith(f"{app.prefix}/?casemate_token=")
    async with app.by_path() as browser:
        first = await browser.get(path)
        assert first.status_code == 303
        assert first.headers["location"] == f"{app.edge.url}{app.prefix}/"
        assert f"; Path={app.prefix}/; " in first.headers["set-cookie"]
        assert (await browser.get(f"{app.prefix}/", headers={"cookie": cookie_of(first)})).status_code == 200
        assert (await browser.get("/api/sandboxes", headers={"cookie": cookie_of(first)})).status_code == 401
    async with app.by_path() as other:
        assert (await other.get(f"{app.prefix}/")).status_code == 401


@pytest.mark.parametrize("path", ["//example.com/x", "/\\example.com", "/%2F/example.com"])
async def test_a_signed_url_never_leads_to_another_host(app: Published, path: str) -> None:
    token = token_of((await app.publish())["url"])
    reader = await anyio.connect_tcp("127.0.0.1", urlsplit(app.edge.url).port or 0)
    async with reader:
        await reader.send(f"GET {path}?casemate_token={token} HTTP/1.1\r\nHost: {app.host}\r\n\r\n".encode())
        answer = (await reader.receive()).decode()
    location = re.search(r"location: (.*)\r\n", answer)
    assert location is None or location[1].startswith(f"http://{app.host}/")


async def test_a_token_opens_one_port_of_one_sandbox_until_it_expires(app: Published, fleet_of_one: OneHost) -> None:
    token = token_of((await app.publish())["url"])
    await Published(edge=app.edge, port=app.port ^ 1).publish()
    expiry, _, signature = token.partition(".")
    async with app.http() as http:
        for wrong in (f"{int(expiry) + 1}.{signature}", f"{expiry}.{signature[::-1]}", signature, "", "0.x", "é"):
            answer = await http.get("/", params={"casemate_token": wrong})
            assert answer.status_code == 401, wrong
        other = app.host.replace(str(app.port), str(app.port ^ 1), 1)
        assert (await http.get(f"/?casemate_token={token}", headers={"host": other})).status_code == 401
        assert "expired or was revoked" in (await http.get(f"/?casemate_token={token}", headers={"host": other})).text
        assert (await http.get(f"/?casemate_token={token}")).status_code == 303


async def test_what_is_revoked_stays_revoked_when_the_port_is_published_again(app: Published) -> None:
    token = token_of((await app.publish())["url"])
    async with app.http() as http, app.edge.http("alice") as alice:
        first = await http.get(f"/?casemate_token={token}")
        again = token_of((await app.publish())["url"])
        assert (await http.get(f"/?casemate_token={token}")).status_code == 303
        assert (await alice.delete(f"/api/sandboxes/box/ports/{app.port}")).status_code == 200
        assert (await alice.delete(f"/api/sandboxes/box/ports/{app.port}")).status_code == 404
        await app.publish()
        for old in (token, again):
            assert (await http.get(f"/?casemate_token={old}")).status_code == 401
        assert (await http.get("/", headers={"cookie": cookie_of(first)})).status_code == 401


async def test_revoking_a_port_ends_its_connections(app: Published) -> None:
    await app.publish(public=True)
    async with app.edge.http("alice") as alice, app.socket(key="") as socket, app.http() as http:
        async with http.stream("GET", "/slow") as answer:
            chunks = answer.aiter_raw()
            assert await anext(chunks) == b"begun"
            assert (await alice.delete(f"/api/sandboxes/box/ports/{app.port}")).status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(chunks)
        with anyio.fail_after(PATIENCE_S), pytest.raises(ConnectionClosedError):
            await socket.recv()
        assert socket.close_code == 1008
        assert (await http.get("/")).status_code == 401


async def test_a_port_that_is_no_longer_public_ends_connections_without_a_right(app: Published) -> None:
    await app.publish(public=True)
    async with app.socket(key="") as socket:
        await app.publish()
        with anyio.fail_after(PATIENCE_S), pytest.raises(ConnectionClosedError):
            await socket.recv()


async def test_a_public_port_opens_for_everybody(app: Published) -> None:
    made = await app.publish(public=True)
    assert made == {"port": app.port, "url": f"http://{app.host}/", "path": f"{app.prefix}/", "public": True}
    async with app.http() as http, app.by_path() as by_path:
        assert (await http.get("/")).status_code == 200
        assert (await by_path.get(f"{app.prefix}/")).status_code == 200


async def test_a_public_port_is_private_after_its_end(app: Published, fleet_of_one: OneHost) -> None:
    await fleet_of_one.ports.publish(ALICE, "box", app.port, public=True, until_ms=1)
    async with app.http() as http, app.edge.http("alice") as alice:
        assert (await http.get("/")).status_code == 401
        (listed,) = (await alice.get("/api/sandboxes/box/ports")).json()["data"]
    assert listed["public"] is False


async def test_an_application_keeps_its_own_authorization(app: Published) -> None:
    token = token_of((await app.publish())["url"])
    key = app.edge.keys["alice"]
    async with app.http() as http, app.http("alice") as alice:
        cookie = cookie_of(await http.get(f"/?casemate_token={token}"))
        for own in ("Basic dTpw", "Bearer its-own", "Bearer a.b.c"):
            assert (await seen(http, cookie=cookie, authorization=own))["authorization"] == own
            assert (await seen(alice, authorization=own))["authorization"] == own
        assert "authorization" not in await seen(alice, authorization=f"Bearer {key}")
        await app.publish(public=True)
        assert (await seen(http, authorization="Bearer its-own"))["authorization"] == "Bearer its-own"
        found = await seen(http, "/echo?apiKey=" + key + "&x=1", authorization=f"Bearer {key}")
        assert "authorization" not in found
        assert found["query"] == "x=1"


class TestGuessing:
    """A server that blocks an address after two refused credentials."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(data=tmp_path, refusals_per_minute=2)

    async def test_nobody_learns_by_guessing_beside_a_wrong_key_which_keys_are_ours(self, app: Published) -> None:
        await app.publish()
        own = f"Bearer {app.edge.keys['alice']}"
        async with app.http("cm_wrong") as wrong:
            for given, status in ((own, 401), ("Bearer cm_" + "x" * 43, 401), (own, 429)):
                assert (await wrong.get("/", headers={"authorization": given})).status_code == status

    async def test_guesses_beside_a_valid_key_count_and_are_dropped_while_their_address_is_blocked(
        self, app: Published, with_ports: Services
    ) -> None:
        await app.publish(public=True)
        address = "127.0.0.1"
        async with app.http("alice") as alice, app.http() as nobody:
            for guess in ("Bearer cm_" + "x" * 43, "Bearer cm_" + "y" * 43):
                assert (await seen(alice, authorization=guess))["authorization"] == guess
            assert await with_ports.identity.limits.blocked_s(address)
            for caller in (alice, nobody):
                assert "authorization" not in await seen(caller, authorization="Bearer its-own")
                assert (await seen(caller, authorization="Basic dTpw"))["authorization"] == "Basic dTpw"


async def test_a_client_cannot_forge_who_it_is(app: Published) -> None:
    await app.publish(public=True)
    forged = {"x-forwarded-for": "192.0.2.1", "x-forwarded-host": "example.com", "forwarded": "for=192.0.2.1"}
    async with app.http() as http:
        found = await seen(http, **forged, connection="x-forwarded-for, host")
    assert found["x-forwarded-for"] == "127.0.0.1"
    assert found["x-forwarded-host"] == found["host"] == app.host
    assert "forwarded" not in found


async def test_cookies_of_a_server_stay_with_its_host(app: Published) -> None:
    await app.publish(public=True)
    async with app.http() as http:
        answer = await http.get("/cookies")
    assert answer.headers.get_list("set-cookie") == [
        "session=1; Path=/; HttpOnly",
        "deep=2; path=/app; Secure",
        "bare=3",
    ]
    assert answer.headers["service-worker-allowed"] == "x"
    assert not {"clear-site-data", "alt-svc", "nel", "report-to"} & set(answer.headers)


async def test_cookies_of_a_server_stay_below_its_path(app: Published) -> None:
    await app.publish(public=True)
    async with app.by_path() as http:
        answer = await http.get(f"{app.prefix}/cookies")
    assert answer.headers.get_list("set-cookie") == [
        f"session=1; HttpOnly; Path={app.prefix}/",
        f"deep=2; Secure; Path={app.prefix}/app",
        f"bare=3; Path={app.prefix}/",
    ]
    assert not {"clear-site-data", "alt-svc", "service-worker-allowed"} & set(answer.headers)


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({}, True),
        ({"origin": "http://HOST"}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, True),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, False),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, False),
        ({"origin": "http://9000-HOST"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://["}, False),
    ],
)
async def test_a_cookie_counts_only_for_pages_of_its_own(app: Published, headers: dict[str, str], let_in: bool) -> None:
    token = token_of((await app.publish())["url"])
    given = {name: value.replace("HOST", app.host) for name, value in headers.items()}
    async with app.http() as http:
        cookie = cookie_of(await http.get(f"/?casemate_token={token}"))
        answer = await http.get("/", headers={"cookie": cookie, **given})
    assert answer.status_code == (200 if let_in else 401)
    if "origin" in given:
        if let_in:
            async with app.socket(key="", headers={"cookie": cookie, **given}):
                pass
        else:
            with pytest.raises(InvalidStatus):
                async with app.socket(key="", headers={"cookie": cookie, **given}):
                    pass


async def test_requests_by_host_name_never_reach_the_api(app: Published) -> None:
    await app.publish()
    async with app.http("alice") as http, app.http() as nobody:
        for path in ("/api/sandboxes", "/health", "/metrics", "/api/mcp"):
            assert (await http.get(path)).text == f"page {path}"
            assert (await nobody.get(path)).status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        "localhost.example.com",
        f"0-{SANDBOX}.localhost",
        f"08000-{SANDBOX}.localhost",
        f"65536-{SANDBOX}.localhost",
        f"8000-{SANDBOX}.example.com",
        f"8000-{SANDBOX}.localhost.example.com",
        f"x.8000-{SANDBOX}.localhost",
        "8000-box.localhost",
    ],
)
async def test_other_hosts_are_still_refused_by_the_api(ported: Edge, host: str) -> None:
    async with ported.http("alice") as http:
        assert (await http.get("/api/sandboxes", headers={"host": host})).status_code == 421


async def test_ports_by_path_are_behind_the_checks_of_the_api(app: Published) -> None:
    await app.publish(public=True)
    async with app.by_path() as http:
        assert (await http.get(f"{app.prefix}/", headers={"host": "example.com"})).status_code == 421
        assert (await http.get(f"{app.prefix}/", headers={"origin": "http://example.com"})).status_code == 403
        for odd in ("0", "65536", "99999999999"):
            answer = await http.get(f"/api/sandboxes/{SANDBOX}/ports/{odd}/")
            assert answer.status_code == 401


class TestLocalMode:
    """A server whose callers need no key."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(data=tmp_path, local_mode=True)

    async def test_no_key_still_opens_no_private_port(self, app: Published, fleet_of_one: OneHost) -> None:
        await fleet_of_one.ports.publish(ALICE, "box", app.port)
        async with app.http() as by_host, app.by_path() as by_path:
            assert (await by_host.get("/")).status_code == 401
            assert (await by_path.get(f"{app.prefix}/")).status_code == 401

    async def test_a_page_by_path_does_not_have_the_origin_of_the_api(
        self, app: Published, fleet_of_one: OneHost
    ) -> None:
        await fleet_of_one.ports.publish(ALICE, "box", app.port, public=True)
        async with app.http() as by_host, app.by_path() as by_path:
            assert "content-security-policy" not in (await by_host.get("/")).headers
            policy = (await by_path.get(f"{app.prefix}/")).headers["content-security-policy"]
        assert policy.startswith("sandbox ")
        assert "allow-same-origin" not in policy
