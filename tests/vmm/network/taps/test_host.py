"""The bridge goes up and down again without a trace, and says clearly what keeps it from it."""

from __future__ import annotations

import ctypes
import json
import subprocess
import threading
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.vmm.network.taps.conftest import PORTS
from tests.vmm.network.taps.namespaces import Namespace
from vmm.errors import CasemateError, Conflict, Unavailable
from vmm.network.taps import bridge, nft, ruleset
from vmm.network.taps import host as host_side
from vmm.network.taps.settings import TapSettings

DENIED = [IPv4Network("10.0.0.0/8")]


def test_up_and_down_leave_the_host_as_it_was(host: Namespace, settings: TapSettings) -> None:
    host.nft("table ip others {\n chain c {\n type filter hook forward priority 10;\n }\n}")
    before = everything(host)
    up(settings)
    assert host_side.status(settings) == host_side.Status(up=True, taps=0, problems=())
    assert forwards(host) == "1"
    assert before != everything(host)
    host_side.down(settings)
    assert everything(host) == before
    assert forwards(host) == "0"
    assert not host_side.status(settings).up
    host_side.down(settings)


def test_the_bridge_is_as_it_has_to_be(host: Namespace, settings: TapSettings) -> None:
    up(settings)
    (link,) = json.loads(command(host, "ip", "-json", "-details", "addr", "show", "casemate0"))
    assert link["address"] == bridge.MAC
    assert [found["local"] for found in link["addr_info"]] == ["10.41.0.1"]  # and none of IPv6
    assert read(host, "ipv4/conf/casemate0/send_redirects") == "0"
    assert read(host, "ipv6/conf/casemate0/disable_ipv6") == "1"


def test_forwarding_that_was_on_stays_on(host: Namespace, settings: TapSettings) -> None:
    host.write("ipv4/ip_forward", "1")
    up(settings)
    host_side.down(settings)
    assert forwards(host) == "1"


def test_what_the_first_start_switched_on_is_known_after_the_second(host: Namespace, settings: TapSettings) -> None:
    up(settings)
    up(settings)
    host_side.down(settings)
    assert forwards(host) == "0"


def test_up_again_keeps_the_bridge_and_no_stale_element(host: Namespace, settings: TapSettings) -> None:
    up(settings)
    before = json.loads(command(host, "ip", "-json", "link", "show", "casemate0"))
    clean = command(host, "nft", "list", "ruleset")
    host.nft("add element ip casemate0 internet { 10.41.0.9 }")
    up(settings)
    assert json.loads(command(host, "ip", "-json", "link", "show", "casemate0")) == before
    assert command(host, "nft", "list", "ruleset") == clean


def test_up_with_another_network_moves_the_gateway(host: Namespace, settings: TapSettings) -> None:
    up(settings)
    up(TapSettings.read({"NETWORK_CIDR": "10.77.0.0/20"}))
    (link,) = json.loads(command(host, "ip", "-json", "addr", "show", "casemate0"))
    assert [found["local"] for found in link["addr_info"]] == ["10.77.0.1"]


def test_a_bridge_of_somebody_else_is_left_alone(host: Namespace, settings: TapSettings) -> None:
    host.ip("link add casemate0 type bridge")
    before = everything(host)
    with pytest.raises(Conflict, match=r"casemate0 exists, and is not Casemate's.*BRIDGE_NAME"):
        up(settings)
    with pytest.raises(Conflict, match="casemate0 is not Casemate's, and stays as it is"):
        host_side.down(settings)
    assert everything(host) == before
    assert "casemate0 exists, and is not Casemate's" in problems(settings)


@pytest.mark.parametrize("route", ["10.41.7.0/24", "10.0.0.0/8", "10.41.0.0/16"])
def test_a_network_that_the_host_has_a_route_to_is_refused(host: Namespace, settings: TapSettings, route: str) -> None:
    host.ip("link add lan type veth peer name far", "link set lan up", f"route add {route} dev lan")
    before = everything(host)
    with pytest.raises(Conflict, match=rf"NETWORK_CIDR 10\.41\.0\.0/16 overlaps the host's route to {route} by lan"):
        up(settings)
    assert everything(host) == before
    assert f"overlaps the host's route to {route} by lan" in problems(settings)


def test_other_routes_are_in_nobodys_way(host: Namespace, settings: TapSettings) -> None:
    host.ip(
        *("link add lan type veth peer name far", "link set lan up", "addr add 192.168.1.2/24 dev lan"),
        *("route add default via 192.168.1.1", "route add blackhole 10.0.0.0/8"),
    )
    up(settings)
    up(settings)


def test_a_device_named_as_a_tap_is_not_mistaken_for_one(host: Namespace) -> None:
    host.ip("link add ethernet7 type bridge")
    with pytest.raises(Conflict, match="TAP_PREFIX must be unlike the names of other devices, eth is how ethernet7"):
        up(TapSettings.read({"TAP_PREFIX": "eth"}))


def test_without_the_program_nft_the_way_out_is_told(
    host: Namespace, settings: TapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        patch.setattr(nft, "_ADMIN_PATH", "/nowhere")
        with pytest.raises(Unavailable, match=r"the program nft, which is not installed.*apt-get install nftables"):
            up(settings)
        assert "nft, which is not installed" in problems(settings)
    assert "casemate0" not in everything_but_rules(host)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("Error: Could not process rule: Operation not supported", "nf_tables in the kernel.*modprobe nf_tables"),
        ("nft: Unable to initialize Netlink socket: Protocol not supported", "nf_tables in the kernel"),
        ("Error: Could not process rule: Operation not permitted", "CAP_NET_ADMIN"),
        ("Error: something else\nwith more lines", "nft refused the rules: Error: something else"),
    ],
)
def test_what_nft_says_is_explained(
    host: Namespace, settings: TapSettings, program: Callable[[str], None], answer: str, message: str
) -> None:
    program(f"cat >&2 <<'END'\n{answer}\nEND\nexit 1")
    with pytest.raises(Unavailable, match=message):
        up(settings)
    assert "casemate0" not in everything_but_rules(host)
    assert forwards(host) == "0"


def test_nft_does_not_hold_up_the_server_for_ever(
    host: Namespace, settings: TapSettings, program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nft, "DEADLINE_S", 0.01)
    program("exec sleep 1000")
    with pytest.raises(Unavailable, match="nft did not answer within"):
        up(settings)


def test_without_the_privilege_nothing_is_tried(host: Namespace, settings: TapSettings) -> None:
    before = everything(host)
    errors: list[CasemateError] = []
    found: list[str] = []

    def unprivileged() -> None:
        drop_net_admin()
        for act in (lambda: up(settings), lambda: host_side.down(settings)):
            with pytest.raises(Unavailable) as caught:
                act()
            errors.append(caught.value)
        found.append(problems(settings))

    thread = threading.Thread(target=unprivileged)
    thread.start()
    thread.join()
    assert [error.message for error in errors] == ["Taps need CAP_NET_ADMIN, which this process does not have"] * 2
    assert "CAP_NET_ADMIN" in found[0]
    assert everything(host) == before


@pytest.mark.parametrize(
    ("chain", "found"),
    [
        ("type filter hook forward priority 0; policy drop;", "Packets of sandboxes to the network"),
        ("type filter hook input priority 0; policy drop;", "Packets of sandboxes to the server"),
        ("type filter hook forward priority 9; policy accept; counter reject", "Packets of sandboxes to the network"),
    ],
)
def test_another_firewall_that_drops_is_found_and_its_way_out_works(
    host: Namespace, settings: TapSettings, chain: str, found: str
) -> None:
    up(settings)
    lines = chain.replace("; ", ";\n")
    host.nft(f"table inet other {{\n chain first {{\n {lines}\n }}\n}}")
    (problem,) = host_side.status(settings).problems
    assert problem.detail == f"{found} are dropped by chain first of table inet other"
    for insert in problem.fix.removeprefix("Run: ").split("; "):
        command(host, *insert.split())
    assert host_side.status(settings).problems == ()


def test_docker_keeps_a_chain_for_such_rules(host: Namespace, settings: TapSettings) -> None:
    up(settings)
    host.nft(
        "table ip filter {\n chain DOCKER-USER {\n }\n"
        " chain FORWARD {\n type filter hook forward priority 0; policy drop;\n jump DOCKER-USER\n }\n}"
    )
    (problem,) = host_side.status(settings).problems
    assert problem.detail == "Packets of sandboxes to the network are dropped by chain FORWARD of table ip filter"
    assert problem.fix == (
        "Run: nft insert rule ip filter DOCKER-USER iifname casemate0 accept; "
        "nft insert rule ip filter DOCKER-USER oifname casemate0 accept"
    )


def test_other_firewalls_that_let_everything_pass_are_no_problem(host: Namespace, settings: TapSettings) -> None:
    host.nft("table ip6 other {\n chain c {\n type filter hook forward priority 0; policy drop;\n }\n}")
    host.nft("table inet other {\n chain c {\n type filter hook forward priority 0;\n tcp dport 25 drop\n }\n}")
    up(settings)
    assert host_side.status(settings).problems == ()


def test_forwarding_that_was_switched_off_meanwhile_is_found(host: Namespace, settings: TapSettings) -> None:
    up(settings)
    host.write("ipv4/ip_forward", "0")
    assert "ip_forward is off" in problems(settings)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in the place of nft, for what this kernel does not answer."""

    def put(script: str) -> None:
        place = tmp_path / "nft"
        place.write_text(f"#!/bin/sh\n{script}\n")
        place.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return put


def up(settings: TapSettings) -> None:
    host_side.up(settings, ruleset.tables(settings, denied=DENIED, ports=PORTS))


def problems(settings: TapSettings) -> str:
    return "\n".join(f"{problem.detail}. {problem.fix}" for problem in host_side.status(settings).problems)


def forwards(host: Namespace) -> str:
    return read(host, "ipv4/ip_forward")


def read(host: Namespace, name: str) -> str:
    return host.run(lambda: Path("/proc/sys/net", name).read_text().strip())


def everything(host: Namespace) -> str:
    return command(host, "nft", "list", "ruleset") + everything_but_rules(host)


def everything_but_rules(host: Namespace) -> str:
    shown = (command(host, "ip", "-o", what) for what in ("link", "addr", "route", "neigh"))
    return forwards(host) + "".join(shown)


def command(host: Namespace, *words: str) -> str:
    return host.run(lambda: subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def drop_net_admin() -> None:
    """Give up CAP_NET_ADMIN, in this thread alone."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    header, data = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(ctypes.byref(header), data) == 0
    data[0] &= ~(1 << 12)
    assert libc.capset(ctypes.byref(header), data) == 0
