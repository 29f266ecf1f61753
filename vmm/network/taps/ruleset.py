"""The rules of the bridge, as nft reads them: two tables of its name, and the elements of a sandbox in their sets.

`table bridge` pins each tap to its sandbox's addresses, before the bridge sees a frame, and keeps what the host tells
all its neighbours from them. `table ip` forwards what the kernel decides alone, and hands TCP and DNS to the server. A
packet of a sandbox takes one of these ways:

    DNS                          the server
    destination in a fast path   forwarded, masqueraded; each packet of both directions is looked at, so that a change
                                 ends what is open
    other TCP                    the server
    everything else              refused at once

The first packet of each connection is looked at in `arriving`. What is for a neighbour is refused there: the kernel
would tell of a shorter way to it, and then not of the refusal. So is what is too much, since a reset of a connection
that was redirected does not find its way back. What `redirected` drops are messages about an answer to a program that
has ended, which reach nobody and are no refusal. A table that is replaced keeps none of its elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from .elements import Element
from .kernel_log import ALLOWED, GROUP, LIMITED, REFUSED
from .settings import TapSettings, mac

NOBODY = (1, 1)
"""Ports of no server: what is redirected is refused until one is there."""

MOST_CONNECTIONS = 1024
"""Of one sandbox at once, in the kernel's table of connections, which all of the host share."""

MOST_QUERIES = 200
"""DNS queries of one sandbox in a second: all sandboxes share the queue in which they wait for the server."""

# A sandbox that is refused a thousand times a second must not fill its log, nor keep the server busy.
_LOG_RATE = "limit rate 10/second burst 50 packets"


def tables(settings: TapSettings, *, denied: Sequence[IPv4Network], ports: tuple[int, int]) -> str:
    """Write both tables, for one transaction that replaces those that are there.

    Args:
        settings: The bridge.
        denied: What is never forwarded, besides the host's own addresses and the network of the bridge.
        ports: Where the server takes TCP, and DNS over UDP, on the gateway's address.
    """
    name, (tcp, udp) = settings.bridge, ports
    closed = ", ".join(map(str, collapse_addresses([*denied, settings.gateway.network])))
    return f"""{removal(settings)}
table bridge {name} {{
  set bindings {{ type ifname . ether_addr . ipv4_addr; }}

  chain frames {{
    type filter hook prerouting priority -300;
    iifname "{settings.prefix}*" goto pinned
  }}
  chain pinned {{
    ether type ip iifname . ether saddr . ip saddr @bindings accept
    ether type arp arp daddr ip {settings.gateway.ip} jump asking
    drop
  }}
  chain leaving {{
    type filter hook postrouting priority -300;
    oifname "{settings.prefix}*" ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 drop
  }}
  chain asking {{
    iifname . ether saddr . arp saddr ip @bindings iifname . arp saddr ether . arp saddr ip @bindings accept
  }}
}}
table ip {name} {{
  set internet {{ type ipv4_addr; }}
  set networks {{ type ipv4_addr . ipv4_addr; flags interval; }}
  set ports {{ type ipv4_addr . inet_service; }}
  set portless {{ type ipv4_addr; }}
  set denied {{ type ipv4_addr; flags interval; elements = {{ {closed} }}; }}
  set counted {{ type ipv4_addr; size 65536; flags dynamic; }}
  set asked {{ type ipv4_addr; size 65536; flags dynamic, timeout; timeout 1m; }}
  set logged {{ type ipv4_addr; size 65536; flags dynamic, timeout; timeout 1m; }}

  chain arriving {{
    type nat hook prerouting priority dstnat;
    iifname "{name}" goto divided
  }}
  chain divided {{
    add @counted {{ ip saddr ct count over {MOST_CONNECTIONS} }} goto limited
    udp dport 53 redirect to :{udp}
    tcp dport 53 redirect to :{tcp}
    ip daddr != @denied fib daddr type != local jump direct
    meta l4proto tcp redirect to :{tcp}
    ip daddr {settings.gateway.network} fib daddr type != local goto refused
  }}
  chain direct {{
    ip saddr @internet accept
    ip saddr . ip daddr @networks ip saddr @portless accept
    ip saddr . ip daddr @networks ip saddr . tcp dport @ports accept
  }}

  chain forwarded {{
    type filter hook forward priority filter;
    iifname "{name}" goto outgoing
    oifname "{name}" goto incoming
  }}
  chain outgoing {{
    ct state invalid drop
    ip daddr != @denied jump permitted
    goto refused
  }}
  chain permitted {{
    ip saddr @internet goto allowed
    ip saddr . ip daddr @networks ip saddr @portless goto allowed
    ip saddr . ip daddr @networks ip saddr . tcp dport @ports goto allowed
  }}
  chain incoming {{
    ct state related meta l4proto icmp accept
    ct state established ip saddr != @denied jump answers
    drop
  }}
  chain answers {{
    ip daddr @internet accept
    ip daddr . ip saddr @networks ip daddr @portless accept
    ip daddr . ip saddr @networks ip daddr . tcp sport @ports accept
  }}

  chain received {{
    type filter hook input priority filter;
    iifname "{name}" goto redirected
  }}
  chain redirected {{
    ct status dnat tcp dport {tcp} accept
    ct status dnat udp dport {udp} goto asking
    ct state related drop
    goto refused
  }}

  chain asking {{
    update @asked {{ ip saddr limit rate over {MOST_QUERIES}/second burst {MOST_QUERIES} packets }} drop
    accept
  }}

  chain allowed {{
    ct state new {_logged(ALLOWED)}
    accept
  }}
  chain limited {{
    {_logged(LIMITED)}
    goto rejected
  }}
  chain refused {{
    {_logged(REFUSED)}
    goto rejected
  }}
  chain rejected {{
    meta l4proto tcp reject with tcp reset
    reject with icmp type admin-prohibited
  }}

  chain leaving {{
    type nat hook postrouting priority srcnat;
    ip saddr {settings.gateway.network} oifname != "{name}" masquerade
  }}
}}
"""


def removal(settings: TapSettings) -> str:
    """Write what removes both tables, whether they are there or not."""
    name = settings.bridge
    return "\n".join(f"add table {kind} {name}\ndelete table {kind} {name}" for kind in ("bridge", "ip"))


def binding(settings: TapSettings, address: IPv4Address) -> str:
    """Write what lets a sandbox's own frames pass; no error if they do already."""
    return f"add element bridge {settings.bridge} bindings {{ {_bound(settings, address)} }}\n"


def change(settings: TapSettings, old: Iterable[Element], new: Iterable[Element]) -> str:
    """Write what replaces elements of the sets: those in both stay untouched."""
    before, after = set(old), set(new)
    gone = (f"delete element ip {settings.bridge} {name} {{ {value} }}\n" for name, value in sorted(before - after))
    come = (f"add element ip {settings.bridge} {name} {{ {value} }}\n" for name, value in sorted(after - before))
    return "".join((*gone, *come))


def release(settings: TapSettings, address: IPv4Address, elements: Iterable[Element]) -> str:
    """Write what removes everything of a sandbox, whether it is there or not."""
    table = settings.bridge
    places = [("bridge", "bindings", _bound(settings, address))]
    places += [("ip", name, str(address)) for name in ("asked", "counted", "logged")]
    places += [("ip", name, value) for name, value in sorted(elements)]
    # What is deleted must be there: the kernel itself removes elements that count nothing any more.
    return "".join(
        f"add element {kind} {table} {name} {{ {value} }}\ndelete element {kind} {table} {name} {{ {value} }}\n"
        for kind, name, value in places
    )


def _bound(settings: TapSettings, address: IPv4Address) -> str:
    return f"{settings.tap(address)} . {mac(address)} . {address}"


def _logged(what: str) -> str:
    return f'update @logged {{ ip saddr {_LOG_RATE} }} log group {GROUP} prefix "{what}"'
