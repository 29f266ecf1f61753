"""Servers that people run, as programs of this host: nginx with TLS, and dnsmasq."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen

from tests.vmm.network.programs import certificate
from tests.vmm.network_world import World

_PATH = os.pathsep.join((f"{sys.prefix}/nginx/usr/sbin", os.environ.get("PATH", ""), "/usr/sbin"))
"""Where scripts/setup puts nginx, and where Debian has such programs."""
_DNS = 5353

_NGINX = """
daemon off;
user root;
pid {place}/pid;
error_log {place}/errors;
events {{}}
http {{
  access_log {place}/requests;
  client_body_temp_path {place}/tmp;
  proxy_temp_path {place}/tmp;
  fastcgi_temp_path {place}/tmp;
  uwsgi_temp_path {place}/tmp;
  scgi_temp_path {place}/tmp;
  ssl_certificate {place}/certificate.pem;
  ssl_certificate_key {place}/key.pem;
  server {{
    listen {http};
    listen {https} ssl http2;
    server_name {one};
    root {place}/site;
    location = / {{ return 200 "one by $server_protocol"; }}
    location = /inside {{ return 302 http://10.0.0.7/; }}
    location = /metadata {{ return 302 http://169.254.169.254/latest/meta-data/; }}
  }}
  server {{
    listen {http};
    listen {https} ssl;
    server_name {two};
    location = / {{ return 200 two; }}
  }}
}}
"""


def lacking(*programs: str) -> str:
    """Tell which of these programs this host does not have; empty if it has all."""
    missing = [program for program in programs if shutil.which(program, path=_PATH) is None]
    return f"{' and '.join(missing)} is not installed" if missing else ""


@contextmanager
def nginx(net: World, place: Path, address: str, one: str, two: str) -> Generator[Path]:
    """Serve two names at an address, on ports 80 and 443, for the length of a block; files of the first in `site`.

    Its first name redirects to a private neighbour from /inside, and to a cloud's metadata from /metadata.

    Returns:
        The certificate, which is its own authority.
    """
    made, _ = certificate(place, one, two)
    with ExitStack() as stack:
        ports = [stack.enter_context(net.listening(address, port)) for port in (80, 443)]
        for port in ports:
            port.setblocking(False)
        http, https = ("{}:{}".format(*port.getsockname()) for port in ports)
        config = place / "nginx.conf"
        config.write_text(_NGINX.format(place=place, http=http, https=https, one=one, two=two))
        # It takes sockets that it inherits, as if from the nginx before it.
        inherited = [port.fileno() for port in ports]
        environment = {"PATH": _PATH, "NGINX": "".join(f"{number};" for number in inherited)}
        command = ["nginx", "-p", str(place), "-c", str(config), "-e", str(place / "errors")]
        stack.enter_context(_running(command, env=environment, pass_fds=inherited))
        yield made


@contextmanager
def dnsmasq(net: World, names: dict[str, Iterable[str]]) -> Generator[None]:
    """Let it be the gateway's name server, and know these names with their addresses, for the length of a block."""
    # An address of the loopback network that no other process uses.
    number = os.getpid()
    address = f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts"]
    command += [f"--listen-address={address}", "--bind-interfaces", f"--port={_DNS}", "--local-ttl=60", "--local=/#/"]
    command += [f"--host-record={name},{place}" for name, places in names.items() for place in places]
    before, net.servers = net.servers, lambda: ((address, _DNS),)
    try:
        with _running(command, env={"PATH": _PATH}):
            yield
    finally:
        net.servers = before


@contextmanager
def _running(command: list[str], *, env: dict[str, str], pass_fds: Iterable[int] = ()) -> Generator[None]:
    program = shutil.which(command[0], path=_PATH)
    assert program is not None
    with Popen([program, *command[1:]], env=env, pass_fds=tuple(pass_fds), stdin=subprocess.DEVNULL) as process:
        try:
            yield
            assert process.poll() is None, command
        finally:
            process.terminate()
