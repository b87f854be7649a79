"""The host's certificate and the TLS settings of its listeners.

The key is RSA: one widespread client offers only ECDHE_RSA suites under TLS 1.2, and refuses an ECDSA certificate.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kronos.system.files import write_whole

KEY_BITS: Final = 2048
LIFETIME: Final = timedelta(days=3650)
_CLOCK_SKEW: Final = timedelta(days=1)
_COMMON_NAME_LIMIT: Final = 64

# TLS 1.2 only; the suites of TLS 1.3 are all good and cannot be set here.
CIPHERS: Final = (
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"
)


def self_signed(hostname: str, addresses: Iterable[str], bits: int = KEY_BITS) -> bytes:
    """A new key and a certificate for it, as PEM text, valid for the name, the addresses and localhost."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:_COMMON_NAME_LIMIT])])
    now = datetime.now(UTC).replace(tzinfo=None)
    public_key = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(_names(hostname, addresses)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)


def _names(hostname: str, addresses: Iterable[str]) -> list[x509.GeneralName]:
    hostnames = dict.fromkeys([hostname, hostname.partition(".")[0], "localhost"])
    ips = dict.fromkeys(ip_address(address.partition("%")[0]) for address in addresses)
    return [*(x509.DNSName(each) for each in hostnames), *(x509.IPAddress(each) for each in ips)]


def ensure_certificate(path: Path, hostname: str, addresses: Iterable[str]) -> None:
    """Make the host's key and certificate at its first start; an existing file is left alone.

    Both are in one file, readable by its owner alone: a crash can then never leave a key beside another key's
    certificate. Raises OSError.
    """
    if not path.exists():
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
    pem = path.read_bytes()
    start = pem.find(b"-----BEGIN CERTIFICATE-----")
    if start < 0:
        raise ValueError(f"no certificate in {path}")
    certificate = x509.load_pem_x509_certificate(pem[start:])
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()
