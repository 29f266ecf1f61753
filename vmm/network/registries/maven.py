"""The repositories that Maven is set up for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from .host import Host

_MODEL = "org/apache/maven/model/pom-4.0.0.xml"
_VARIABLE = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
_URLS = ("mirror", "repository", "pluginRepository")


def urls(host: Host) -> Iterator[str]:
    """Give the URLs of mirrors and repositories, and of the built-in repository unless a mirror stands for it."""
    home = _home(host)
    files = [host.home / ".m2/settings.xml"]
    if home:
        files.append(home / "conf/settings.xml")
    replaced = False
    for path in files:
        if (settings := host.read(path, _parse)) is None:
            continue
        for url in _urls(settings):
            yield host.expand(_VARIABLE.sub(r"${\1}", url))
        replaced = replaced or any(_covers_all(element.text or "") for element in settings.iter("mirrorOf"))
    if home and not replaced:
        yield from _built_in(host, home)


def _home(host: Host) -> Path | None:
    if path := host.path("MAVEN_HOME") or host.path("M2_HOME"):
        return path
    program = host.program("mvn")
    return program.parent.parent if program else None


def _parse(text: str) -> ET.Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("entities, which no settings need")
    try:
        root = ET.fromstring(text)  # noqa: S314 -- without entities there is nothing to expand
    except ET.ParseError as error:
        raise ValueError("no XML") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # settings have a namespace, or none
    return root


def _urls(root: ET.Element) -> Iterator[str]:
    for kind in _URLS:
        for element in root.iter(kind):
            # A blocked mirror is Maven's way to say "nowhere".
            if (url := (element.findtext("url") or "").strip()) and element.findtext("blocked") != "true":
                yield url


def _covers_all(mirror_of: str) -> bool:
    entries = {entry.strip() for entry in mirror_of.split(",")}
    return bool(entries & {"*", "external:*", "central"}) and "!central" not in entries


def _built_in(host: Host, home: Path) -> Iterator[str]:
    """Read the repository that every project inherits from Maven's own library."""
    for library in host.glob(home / "lib", "maven-model-builder-*.jar"):
        if source := host.member(library, _MODEL):
            yield from _urls(_parse(source))
            return
