"""The host's certificate file and the TLS settings of its listeners."""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from kronos.system.files import write_whole

# TLS 1.2 only; the suites of TLS 1.3 are all good and cannot be set here.
CIPHERS: Final = (
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"
)
_CERTIFICATE: Final = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def ensure_certificate(path: Path, hostname: str, addresses: Iterable[str]) -> None:
    """Make the host's key and certificate at its first start; an existing file is left alone.

    Both are in one file, readable by its owner alone: a crash can then never leave a key beside another key's
    certificate. Raises OSError.
    """
    if not path.exists():
        # Loaded for this one time: it is 4 MB of a daemon that has a certificate.
        from kronos.server.certificates import self_signed

        write_whole(path, self_signed(hostname, addresses), 0o600)


def server_context(path: Path) -> ssl.SSLContext:
    """The TLS settings of a listener: version 1.2 or later, forward secrecy, no renegotiation.

    A later `load_cert_chain` on the same context takes effect for the connections that follow.

    Raises OSError, ssl.SSLError when the file holds no matching key and certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(path)
    return context


def fingerprint(path: Path) -> str:
    """SHA-256 of the certificate in a PEM file, as host.certificates shows it: "AB:CD:…".

    Raises OSError, ValueError when there is no certificate in it.
    """
    pem = path.read_text("ascii", "replace")
    found = _CERTIFICATE.search(pem)
    if found is None:
        raise ValueError(f"no certificate in {path}")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).digest().hex(":").upper()
