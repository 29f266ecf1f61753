"""Addresses, tokens and cookies of published ports, as values."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_server.ports.cookies import guests_cookie, own_cookie, own_cookies, without_own
from mcp_server.ports.names import PortNames, reached_by
from mcp_server.ports.tokens import Kind, Tokens, port_secret
from mcp_server.ports.visits import TooManyVisits, Visits
from mcp_server.settings import Settings, SettingsRefused
from vmm.errors import InvalidInput, LimitExceeded, NotFound
from vmm.sandboxes.published import (
    MOST,
    PublishedPort,
    check_port,
    published_port,
    published_ports,
    with_port,
    without_port,
)
from vmm.sandboxes.sandbox import Sandbox
from vmm.sandboxes.spec import SandboxSpec

ID = "0123456789abcdef01234567"
PORT = PublishedPort(port=8000, nonce="0" * 16)


def sandbox() -> Sandbox:
    return Sandbox.new(ID, "owner", SandboxSpec(name="box"), now_ms=0)


@pytest.mark.parametrize(
    ("domain", "url"),
    [
        ("localhost", f"http://8000-{ID}.localhost:33944/"),
        ("box.localhost", f"http://8000-{ID}.box.localhost:33944/"),
        ("localhost:8080", f"http://8000-{ID}.localhost:8080/"),
        ("ports.example.com", f"https://8000-{ID}.ports.example.com/"),
        ("http://ports.example.com", f"http://8000-{ID}.ports.example.com/"),
        ("https://ports.example.com:8443", f"https://8000-{ID}.ports.example.com:8443/"),
    ],
)
def test_a_url_has_the_domain_that_the_operator_set(domain: str, url: str) -> None:
    names = PortNames(domain, port=33944)
    assert names.url(ID, 8000) == url
    place = names.by_host(url.split("/")[2].upper(), b"/x")
    assert place is not None
    assert (place.ref, place.sandbox_id, place.port, place.prefix, place.path) == (ID, ID, 8000, "", b"/x")


def test_a_url_of_localhost_has_the_port_by_which_the_server_was_reached() -> None:
    names = PortNames("localhost", port=33944)
    for host, port in (("localhost:9000", 9000), ("[::1]:9001", 9001), ("localhost", 33944), ("x:yz", 33944)):
        with reached_by(host):
            assert names.url(ID, 80) == f"http://80-{ID}.localhost:{port}/"
            assert PortNames("ports.example.com", port=1).url(ID, 80) == f"https://80-{ID}.ports.example.com/"


def test_a_path_names_a_sandbox_and_a_port() -> None:
    place = PortNames.by_path(b"/api/sandboxes/box/ports/8000/a%2Fb/")
    assert place is not None
    assert (place.ref, place.sandbox_id, place.port, place.path) == ("box", "", 8000, b"/a%2Fb/")
    assert place.prefix == "/api/sandboxes/box/ports/8000"
    bare = PortNames.by_path(b"/api/sandboxes/box/ports/8000")
    assert bare is not None
    assert bare.path == b""
    for other in (b"/api/sandboxes/box/ports", b"/api/sandboxes/box/ports/x/", b"/x/api/sandboxes/box/ports/1/", b"//"):
        assert PortNames.by_path(other) is None


@pytest.mark.parametrize(
    "domain", ["*.example.com", "192.0.2.1", "example.com/x", "a b", "-x.example.com", "ftp://x.y"]
)
def test_a_domain_that_is_none_is_refused(domain: str) -> None:
    with pytest.raises(SettingsRefused, match=r"CASEMATE_PORTS_DOMAIN.*must be a domain of which every name leads"):
        Settings.read({"CASEMATE_PORTS_DOMAIN": domain})


def test_a_token_is_for_its_kind_and_its_publication_alone() -> None:
    tokens = Tokens(b"secret")
    token = tokens.sign("url", ID, PORT, expires_s=100)

    def expiry(kind: Kind = "url", sandbox_id: str = ID, published: PublishedPort = PORT, now_ms: int = 99_999) -> int:
        return tokens.expiry_s(kind, token, sandbox_id, published, now_ms=now_ms)

    assert expiry() == 100
    assert expiry(now_ms=100_000) == 0
    assert expiry(kind="cookie") == 0
    assert expiry(sandbox_id="f" * 24) == 0
    assert expiry(published=replace(PORT, port=8001)) == 0
    assert expiry(published=replace(PORT, nonce="1" * 16)) == 0
    assert Tokens(b"other").expiry_s("url", token, ID, PORT, now_ms=0) == 0


def test_the_secret_stays_the_same_and_is_the_owners_alone(tmp_path: Path) -> None:
    first = port_secret(tmp_path)
    assert port_secret(tmp_path) == first
    assert len(first) == 64
    assert stat.S_IMODE((tmp_path / "port-secret").stat().st_mode) == 0o600


def test_a_cookie_over_tls_can_be_set_by_its_own_host_alone() -> None:
    assert own_cookie("t", prefix="", lasts_s=5, secure=True) == (
        "__Host-casemate_port=t; Path=/; Max-Age=5; HttpOnly; SameSite=Lax; Secure"
    )
    assert own_cookie("t", prefix="/p", lasts_s=5, secure=True) == (
        "casemate_port=t; Path=/p/; Max-Age=5; HttpOnly; SameSite=Lax; Secure"
    )


def test_cookies_of_ours_are_told_from_the_guests() -> None:
    header = b"a=1; casemate_port=x;__Host-casemate_port=y ; casemate_ports=2; =z; b"
    assert own_cookies([(b"Cookie", header), (b"cookie", b"casemate_port=z")]) == ["x", "y", "z"]
    assert without_own(header) == b"a=1; casemate_ports=2; =z; b"
    assert without_own(b"casemate_port=x") == b""


@pytest.mark.parametrize(
    ("given", "by_host", "by_path"),
    [
        (b"a=1", b"a=1", b"a=1; Path=/p/"),
        (b"a=1;DOMAIN=.example.com ; Path=/", b"a=1; Path=/", b"a=1; Path=/p/"),
        (b"a=1; path=/p/x; Path=/p", b"a=1; path=/p/x; Path=/p", b"a=1; Path=/p/"),
        (b"a=1; Path=/other; Max-Age=5", b"a=1; Path=/other; Max-Age=5", b"a=1; Max-Age=5; Path=/p/other"),
        (b"a=1; Path=relative", b"a=1; Path=relative", b"a=1; Path=/p/"),
        (b"a=1; Path=/px", b"a=1; Path=/px", b"a=1; Path=/p/px"),
        (b" casemate_port =1", b"", b""),
    ],
)
def test_a_guests_cookie_stays_with_its_port(given: bytes, by_host: bytes, by_path: bytes) -> None:
    assert guests_cookie(given, "") == by_host
    assert guests_cookie(given, "/p") == by_path


def test_a_record_keeps_published_ports() -> None:
    until = PublishedPort(port=443, nonce="a" * 16, public=True, until_ms=5)
    one = with_port(with_port(sandbox(), PORT), until)
    read = Sandbox.of({**one.document(), "version": 1})
    assert published_ports(read) == (until, PORT)
    assert published_port(read, 80) is None
    assert until.is_public(4)
    assert not until.is_public(5)
    again = with_port(read, replace(PORT, nonce="b" * 16, public=True))
    assert published_port(again, 8000) == replace(PORT, public=True)
    assert published_ports(without_port(again, 8000)) == (until,)
    with pytest.raises(NotFound, match=r"Port 80 of sandbox \w+ is not published\. Published: 443, 8000"):
        without_port(again, 80)
    assert published_ports(replace(read, published={"80": "from the future"})) == ()


def test_a_sandbox_has_at_most_so_many_published_ports() -> None:
    full = sandbox()
    for port in range(1, MOST + 1):
        full = with_port(full, replace(PORT, port=port))
    assert with_port(full, replace(PORT, port=1)) == full
    with pytest.raises(LimitExceeded, match="has published 16 ports, as many as it may: 1, 2, 3, 4"):
        with_port(full, PORT)


@pytest.mark.parametrize("port", [-1, 0, 65536, 10**30])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(InvalidInput, match="port must be from 1 to 65535, got "):
        check_port(port)


@pytest.mark.anyio
async def test_visits_are_counted_for_each_sandbox_and_end_with_their_right() -> None:
    visits = Visits(most=2, clock=lambda: 10.0)
    with (
        visits.opened("a", 1),
        visits.opened("a", 2),
        visits.opened("b", 1),
        pytest.raises(TooManyVisits),
        visits.opened("a", 3),
    ):
        pass
    assert len(visits) == 0
    with visits.opened("a", 1, until_s=9) as visit:
        await anyio.sleep_forever()
    assert visit.scope.cancelled_caught
    with visits.opened("a", 1) as one, visits.opened("a", 2) as other:
        visits.end("a", 2)
        visits.end("b", 2)
        await anyio.sleep_forever()
    assert (one.revoked, other.revoked) == (False, True)
    assert len(visits) == 0


@pytest.mark.anyio
async def test_strangers_have_at_most_three_quarters_of_the_connections() -> None:
    visits = Visits(most=4)
    with (
        visits.opened("a", 1, public=True),
        visits.opened("a", 2, public=True),
        visits.opened("a", 1, public=True),
    ):
        with pytest.raises(TooManyVisits), visits.opened("a", 1, public=True):
            pass
        with visits.opened("a", 1), pytest.raises(TooManyVisits), visits.opened("a", 1):
            pass
    assert len(visits) == 0
