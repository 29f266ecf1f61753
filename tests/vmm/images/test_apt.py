from __future__ import annotations

from pathlib import Path

from vmm.images.apt import Source, parse_settings, parse_targets

_TARGETS = """\
http://mirror.example/debian|bookworm|main|Debian|Packages
http://mirror.example/debian|bookworm|main|Debian|DEP-11
http://mirror.example/debian-security|bookworm-security|main|Debian|Packages
https://node.example/node_20.x|nodistro|main|. nodistro|Packages
http://mirror.example/debian|trixie|main|$(ORIGIN)|Packages
"""
_SETTINGS = """\
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.example:3142";
Acquire::https::CAInfo "/etc/ssl/own.pem";
Acquire::Check-Date "false";
Acquire::Languages:: "none";
APT::Install-Recommends "1";
"""


def test_only_debians_package_lists_are_sources() -> None:
    assert parse_targets(_TARGETS) == (
        Source(site="http://mirror.example/debian", suite="bookworm", component="main"),
        Source(site="http://mirror.example/debian-security", suite="bookworm-security", component="main"),
    )


def test_a_source_names_its_keyring_if_it_has_one() -> None:
    source = Source(site="http://mirror.example/debian", suite="bookworm", component="main")
    assert source.line(None) == "deb http://mirror.example/debian bookworm main"
    assert source.line(Path("/k.gpg")) == "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main"


def test_only_settings_for_reaching_the_mirrors_are_passed_on() -> None:
    assert parse_settings(_SETTINGS) == (
        'Acquire::http::Proxy "http://proxy.example:3142";',
        'Acquire::https::CAInfo "/etc/ssl/own.pem";',
        'Acquire::Check-Date "false";',
    )
