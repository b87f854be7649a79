"""The certificate that a host makes for itself.

The key is RSA: one widespread client offers only ECDHE_RSA suites under TLS 1.2, and refuses an ECDSA certificate.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEY_BITS: Final = 2048
LIFETIME: Final = timedelta(days=3650)
_CLOCK_SKEW: Final = timedelta(days=1)
_COMMON_NAME_LIMIT: Final = 64


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
