"""The host's certificate file and the TLS settings of its listeners."""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from kronos.system.files import write_whole

# TLS 1.2 only; the suites of TLS 1.3 are all good and cannot be set here.
CIPHERS: Final = (
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"
)
POOL_NAME: Final = "pool"
_CERTIFICATE: Final = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def ensure_certificate(path: Path, hostname: str, addresses: Iterable[str]) -> None:
    """Make the host's key and certificate at its first start; an existing file is left alone.

    Both are in one file, readable by its owner alone: a crash can then never leave a key beside another key's
    certificate. Raises OSError.
    """
    if not path.exists():
        # Loaded for this one time: it is 4 MB of a daemon that has a certificate.
        from kronos.rules.certificates import self_signed

        write_whole(path, self_signed(hostname, addresses), 0o600)


class Certificates:
    """What the host shows clients, and, to those that ask for the name `pool`, what it shows the hosts of its pool.

    `authorities` gives the files of those whose certificates clients may show instead of a password; where there are
    none, clients are not asked for one.
    """

    def __init__(
        self, path: Path, pool_path: Path, authorities: Callable[[], Sequence[Path]] = lambda: ()
    ) -> None:
        """Raises OSError, ssl.SSLError."""
        self.path = path
        self.pool_path = pool_path
        self._authorities = authorities
        self._context = self._made()

    def context(self) -> ssl.SSLContext:
        """The TLS settings of a connection that begins now."""
        return self._context

    def reload(self) -> None:
        """Read the files again, for the connections that follow. On the loop, which begins those.

        Raises OSError, ssl.SSLError, with everything as it was.
        """
        self._context = self._made()

    def _made(self) -> ssl.SSLContext:
        context, pool = server_context(self.path), server_context(self.pool_path)

        def asked_for(session: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if name == POOL_NAME:
                session.context = pool

        context.sni_callback = asked_for
        authorities = self._authorities()
        for each in authorities:
            context.load_verify_locations(each)
        if authorities:
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def server_context(path: Path) -> ssl.SSLContext:
    """The TLS settings of a listener: version 1.2 or later, forward secrecy, no renegotiation.

    Raises OSError, ssl.SSLError when the file holds no matching key and certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(path)
    return context


def names_of(session: ssl.SSLObject) -> tuple[str, ...]:
    """Whom a client's certificate is for, if it showed one that was verified: its names, in lower case."""
    shown: Any = session.getpeercert() or {}
    names = [value for kind, value in shown.get("subjectAltName", ()) if kind == "DNS"]
    if not names:
        names = [value for part in shown.get("subject", ()) for kind, value in part if kind == "commonName"]
    return tuple(name.lower() for name in names)


def fingerprint(path: Path) -> str:
    """SHA-256 of the certificate in a PEM file, as host.certificates shows it: "AB:CD:…".

    Raises OSError, ValueError when there is no certificate in it.
    """
    pem = path.read_text("ascii", "replace")
    found = _CERTIFICATE.search(pem)
    if found is None:
        raise ValueError(f"no certificate in {path}")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).digest().hex(":").upper()
