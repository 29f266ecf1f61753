"""The certificate authorities that this host trusts beyond Debian's own: guests have to trust them as well.

Networks that inspect TLS sign with an authority of their own, which their machines have been given. Without it nothing
that is downloaded over HTTPS inside a guest would work.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import structlog

from ..errors import InvalidInput
from ..guest.link import GuestLink
from ..guest.values import Command

log = structlog.get_logger(__name__)

LOCAL = Path("/usr/local/share/ca-certificates")
"""Where Debian's administrators put further authorities, on hosts and in guests: update-ca-certificates(8)."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s+[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_MAX_BYTES = 1024 * 1024
_INSTALL_MS = 60_000
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_OWN = "/etc/ssl/casemate-host.pem"
# What update-ca-certificates does, without the half minute that an emulated guest needs to read all the others again.
_INSTALL = f"""
mkdir -p /etc/ssl/certs
for file in {LOCAL}/casemate-host-*.crt; do
    cat "$file" >> {_BUNDLE}
    ln -sf "$file" "/etc/ssl/certs/$(basename "$file" .crt).pem"
    hash=$(openssl x509 -noout -hash -in "$file" 2>/dev/null) && ln -sf "$file" "/etc/ssl/certs/$hash.0" || true
done
"""
# For tools that bring authorities of their own. Node adds to its own, and would read the whole bundle at every start.
_ENVIRONMENT = "".join(
    f"{name}={file}\n"
    for name, file in (
        ("SSL_CERT_FILE", _BUNDLE),
        ("REQUESTS_CA_BUNDLE", _BUNDLE),
        ("PIP_CERT", _BUNDLE),
        ("CARGO_HTTP_CAINFO", _BUNDLE),
        ("NODE_EXTRA_CA_CERTS", _OWN),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Certificates in PEM, each once."""

    pems: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Name them for what depends on them; empty for none."""
        return hashlib.sha256("\n".join(self.pems).encode()).hexdigest() if self.pems else ""

    async def install(self, link: GuestLink) -> None:
        """Make a guest trust them, and its tools, too. A no-op if there are none.

        Raises:
            GuestError: The guest refuses it.
        """
        if not self.pems:
            return
        for number, pem in enumerate(self.pems):
            await link.write_file(f"{LOCAL}/casemate-host-{number}.crt", pem.encode())
        await link.write_file(_OWN, "".join(self.pems).encode())
        await link.exec(Command(shell=_INSTALL, timeout_ms=_INSTALL_MS), wait_ms=_INSTALL_MS)
        await link.write_file("/etc/environment", _ENVIRONMENT.encode())


NO_CERTIFICATES = Certificates()


def host_certificates(file: Path | None = None, local: Path = LOCAL) -> Certificates:
    """Read the host's additional authorities. Blocks on the disk.

    Args:
        file: A PEM file that the operator names instead; what else it holds besides certificates is left out.
        local: The directory of the administrator's authorities. One that cannot be read is left out, and logged.

    Raises:
        InvalidInput: The operator's file cannot be read, or has no certificate.
    """
    if file is not None:
        try:
            pems = _pems(file)
        except OSError as error:
            raise InvalidInput(f"CASEMATE_GUEST_CA_FILE must be a readable file: {error}") from error
        if not pems:
            raise InvalidInput(f"CASEMATE_GUEST_CA_FILE must have certificates in PEM, got none in {file}")
        return Certificates(pems=tuple(dict.fromkeys(pems)))
    found: list[str] = []
    for path in sorted(local.rglob("*.crt")):
        try:
            found += _pems(path)
        except OSError as error:
            log.warning("certificate left out", path=str(path), reason=str(error))
    return Certificates(pems=tuple(dict.fromkeys(found)))


def _pems(path: Path) -> list[str]:
    with path.open("rb") as file:
        text = file.read(_MAX_BYTES).decode("ascii", "replace")
    return [match[0].strip() + "\n" for match in _CERTIFICATE.finditer(text)]
