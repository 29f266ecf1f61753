"""Real servers, as programs in a sandbox meet them: web sites with TLS, redirects, name servers, and too much of it."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from pathlib import Path
from subprocess import run

import anyio
import dns.message
import pytest
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSStream

from tests.vmm.guest_network import servers
from tests.vmm.guest_network.boxes import ALICE, RESET, made, said, sh
from tests.vmm.network.hellos import hello, with_extension
from tests.vmm.network.programs import certificate
from tests.vmm.network_world import METADATA, OTHER, PRIVATE, SHARED, SITE, World
from vmm.fleet import Fleet

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ONE, TWO, DOH = "one.example.net", "two.example.net", "dns.example.net"
AUTHORITY = "/root/authority.pem"
TRUSTED = f"export CURL_CA_BUNDLE={AUTHORITY} GIT_SSL_CAINFO={AUTHORITY}; "

SEND = """python3 -c "
import socket
with socket.create_connection(('{address}', {port}), 60) as sock:
    try:
        sock.sendall(bytes.fromhex('{data}'))
        print(sock.recv(100).hex() or 'ended')
    except ConnectionResetError:
        print('reset')"
"""

# The first datagram of QUIC is at least so long, and begins so: RFC 9000, 14.1 and 17.2.
QUIC = """python3 -c "
import socket
sock = socket.socket(type=socket.SOCK_DGRAM); sock.settimeout(60); sock.connect(('{address}', 443))
try:
    sock.send(bytes([0xc3, 0, 0, 0, 1]).ljust(1200, bytes(1))); print(sock.recv(1))
except TimeoutError:
    print('silence')
except OSError:
    print('refused')"
"""


@pytest.fixture
def site(net: World, tmp_path: Path) -> Path:
    """What nginx serves: a repository of git."""
    if reason := servers.lacking("nginx", "git"):
        pytest.skip(reason)
    net.names.add(f"{ONE}. 60 IN A {OTHER}", f"{TWO}. 60 IN A {OTHER}")
    work, bare = tmp_path / "work", tmp_path / "site/box.git"
    for line in (
        f"git init -q {work}",
        f"git -C {work} -c user.name=a -c user.email=a@example.com commit -q --allow-empty -m first",
        f"git clone -q --bare {work} {bare}",
        f"git -C {bare} update-server-info",
    ):
        run(line.split(), check=True)
    return tmp_path


async def trusting(fleet: Fleet, authority: Path) -> None:
    await fleet.guest.write_file(ALICE, "box", AUTHORITY, authority.read_bytes())


async def test_a_web_server_with_tls_is_reached_by_its_allowed_name_alone(fleet: Fleet, net: World, site: Path) -> None:
    await made(fleet, ONE)
    with servers.nginx(net, site, OTHER, ONE, TWO) as authority:
        await trusting(fleet, authority)
        assert await said(fleet, f"{TRUSTED} curl -sS https://{ONE}/") == "one by HTTP/2.0"
        assert await said(fleet, f"{TRUSTED} curl -sS --http1.1 https://{ONE}/") == "one by HTTP/1.1"
        cloned = await sh(
            fleet, f"{TRUSTED} git clone -q https://{ONE}/box.git a && git clone -q http://{ONE}/box.git b"
        )
        assert cloned.exit_code == 0, cloned
        assert await said(fleet, "git -C a log --format=%s; git -C b log --format=%s") == "first\nfirst"

        neighbour = await sh(fleet, f"{TRUSTED} curl -sS --resolve {TWO}:443:{OTHER} https://{TWO}/")
        assert neighbour.exit_code in RESET
        assert neighbour.network.startswith(f'[network: refused {TWO}:443 by policy "allow"')
        unnamed = await sh(fleet, f"curl -sSk https://{OTHER}/")
        assert unnamed.exit_code in RESET
        assert "without a server name (SNI)" in unnamed.network
        hidden = with_extension(hello(ONE), 0xFE0D, bytes(200)).hex()
        encrypted = await sh(fleet, SEND.format(address=OTHER, port=443, data=hidden))
        assert encrypted.stdout.data() == b"reset\n"
        assert "an encrypted ClientHello (ECH)" in encrypted.network
        quic = await sh(fleet, QUIC.format(address=OTHER))
        assert quic.stdout.data() == b"refused\n"
        told = f'refused {ONE}:443/udp by policy "allow", whose names open TCP only' if net.host else ""
        assert told in quic.network
        assert bool(told) == bool(quic.network)


async def test_a_redirect_to_what_is_inside_leads_nowhere(fleet: Fleet, net: World, site: Path) -> None:
    await made(fleet)
    with servers.nginx(net, site, OTHER, ONE, TWO):
        for path, address, kind in (("inside", PRIVATE, "private"), ("metadata", METADATA, "link-local")):
            outcome = await sh(fleet, f"curl -sSL http://{ONE}/{path}")
            assert outcome.exit_code in RESET
            assert f"refused {address}:80, {kind} address {address}; only the server's operator" in outcome.network
    assert net.reached == []


async def test_another_resolver_opens_nothing(fleet: Fleet, net: World, tmp_path: Path) -> None:
    await serve_dns_over_https(net, tmp_path)
    await made(fleet, "one.example.org")
    asking = f"{TRUSTED} curl -sS --doh-url https://{DOH}/dns-query http://www.example.com/"
    await trusting(fleet, tmp_path / "certificate.pem")
    outcome = await sh(fleet, asking)
    assert outcome.exit_code == 6
    assert f'refused {DOH} by policy "allow"' in outcome.network

    # It may be asked, and where it leads to may still not be reached.
    await fleet.sandboxes.update(ALICE, "box", network=f"one.example.org, {DOH}")
    outcome = await sh(fleet, asking)
    assert outcome.exit_code in RESET
    assert f'refused {SITE}:80 by policy "allow"' in outcome.network
    assert set(net.reached) == {(OTHER, 443)}


async def test_a_name_with_a_hundred_addresses_opens_all_of_them(fleet: Fleet, net: World) -> None:
    if reason := servers.lacking("dnsmasq"):
        pytest.skip(reason)
    name, addresses = "hundred.example.net", [SHARED, *(f"203.0.113.{number}" for number in range(99))]
    with servers.dnsmasq(net, {name: addresses}):
        await made(fleet, name)
        found = "import socket; print(len({place for *_, place in socket.getaddrinfo('" + name + "', 80)}))"
        assert await said(fleet, f'python3 -c "{found}"') == "100"
        assert await said(fleet, f"curl -sS --resolve {name}:80:{SHARED} http://{name}/") == f"Host: {name}"
    assert net.reached == [(SHARED, 80)]


async def serve_dns_over_https(net: World, place: Path) -> None:
    """Answer at OTHER whatever is asked, by RFC 8484, from the zone of the world."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate(place, DOH))
    net.names.add(f"{DOH}. 60 IN A {OTHER}")

    async def handle(stream: SocketStream) -> None:
        async with await TLSStream.wrap(stream, server_side=True, ssl_context=context) as wrapped:
            received = BufferedByteReceiveStream(wrapped)
            with suppress(anyio.IncompleteRead):
                while True:
                    head = await received.receive_until(b"\r\n\r\n", 4096)
                    length = re.search(rb"(?i)content-length: *(\d+)", head)
                    assert length is not None
                    query = dns.message.from_wire(await received.receive_exactly(int(length[1])))
                    reply = net.names.answer(query).to_wire()
                    kind = b"Content-Type: application/dns-message\r\nContent-Length: %d" % len(reply)
                    await wrapped.send(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n%s" % (kind, reply))

    await net.serve(OTHER, 443, handle)
