"""Certificates: which a host takes for its own or as an authority, and the one that it makes for itself.

The key is RSA: one widespread client offers only ECDHE_RSA suites under TLS 1.2, and refuses an ECDSA certificate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kronos.datamodel.errors import Failure

KEY_BITS: Final = 2048
LIFETIME: Final = timedelta(days=3650)
_CLOCK_SKEW: Final = timedelta(days=1)
_COMMON_NAME_LIMIT: Final = 64
_SHORTEST, _LONGEST = 2048, 4096
"""Bits of an RSA key that is taken."""
_BLOCK: Final = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_NAME: Final = re.compile(r"(?!\.)[A-Za-z0-9._-]*\.pem")
_MOST: Final = 256 << 10
"""Bytes of a PEM text that is read at all."""


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


# --- a certificate of one's own ------------------------------------------------------------------------------


def server_pem(untrusted_certificate: str, untrusted_key: str, untrusted_chain: str, now: datetime) -> bytes:
    """Key, certificate and chain as a listener loads them, written anew.

    Raises SERVER_CERTIFICATE_… for a key that is not RSA of 2048 to 4096 bits, a certificate that is not its, not valid
    now or not signed with SHA-256 or SHA-512, and a chain that is none.
    """
    key = _key(untrusted_key)
    leaf = valid_certificate(untrusted_certificate, "SERVER_CERTIFICATE", now)
    public: Any = leaf.public_key()
    if (
        not isinstance(public, rsa.RSAPublicKey)
        or public.public_numbers() != key.public_key().public_numbers()
    ):
        raise Failure("SERVER_CERTIFICATE_KEY_MISMATCH")
    if not isinstance(leaf.signature_hash_algorithm, hashes.SHA256 | hashes.SHA512):
        raise Failure("SERVER_CERTIFICATE_SIGNATURE_NOT_SUPPORTED")
    chain = _chain(untrusted_chain) if untrusted_chain else []
    return b"".join(
        [_key_pem(key), *(each.public_bytes(serialization.Encoding.PEM) for each in (leaf, *chain))]
    )


def _key(untrusted: str) -> rsa.RSAPrivateKey:
    try:
        key: Any = serialization.load_pem_private_key(untrusted[:_MOST].encode(), None)
    except UnsupportedAlgorithm as error:
        raise Failure("SERVER_CERTIFICATE_KEY_ALGORITHM_NOT_SUPPORTED", str(error)[:200]) from error
    except (ValueError, TypeError) as error:  # the second for one with a password
        raise Failure("SERVER_CERTIFICATE_KEY_INVALID") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        name = type(key).__name__.strip("_").removesuffix("PrivateKey").lower()
        raise Failure("SERVER_CERTIFICATE_KEY_ALGORITHM_NOT_SUPPORTED", name)
    if not _SHORTEST <= key.key_size <= _LONGEST:
        raise Failure("SERVER_CERTIFICATE_KEY_RSA_LENGTH_NOT_SUPPORTED", str(key.key_size))
    return key


def _key_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _chain(untrusted: str) -> list[x509.Certificate]:
    try:
        found = [
            x509.load_pem_x509_certificate(block.encode()) for block in _BLOCK.findall(untrusted[:_MOST])
        ]
    except ValueError as error:
        raise Failure("SERVER_CERTIFICATE_CHAIN_INVALID") from error
    if not found:
        raise Failure("SERVER_CERTIFICATE_CHAIN_INVALID")
    return found


# --- others' certificates ------------------------------------------------------------------------------------


def valid_certificate(untrusted: str, kind: str, now: datetime) -> x509.Certificate:
    """The certificate of a PEM text, of the errors' `kind`: SERVER_CERTIFICATE, CA_CERTIFICATE, TRUSTED_CERTIFICATE.

    Raises <kind>_INVALID, <kind>_NOT_VALID_YET [now, from], <kind>_EXPIRED [now, until].
    """
    try:
        found = x509.load_pem_x509_certificate(untrusted[:_MOST].encode())
    except ValueError as error:
        raise Failure(f"{kind}_INVALID") from error
    begin, end = validity(found)
    if now < begin:
        raise Failure(f"{kind}_NOT_VALID_YET", f"{now:{_RFC3339}}", f"{begin:{_RFC3339}}")
    if now > end:
        raise Failure(f"{kind}_EXPIRED", f"{now:{_RFC3339}}", f"{end:{_RFC3339}}")
    return found


_RFC3339: Final = "%Y-%m-%dT%H:%M:%SZ"


def validity(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """From when to when a certificate is valid."""
    naive = not hasattr(certificate, "not_valid_before_utc")  # before cryptography 42
    found: Any = certificate
    if naive:
        return found.not_valid_before.replace(tzinfo=UTC), found.not_valid_after.replace(tzinfo=UTC)
    return found.not_valid_before_utc, found.not_valid_after_utc


def fields_of(certificate: x509.Certificate) -> dict[str, Any]:
    """What a Certificate's record says of one."""
    begin, end = validity(certificate)
    sha256 = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return {
        "not_before": f"{begin:%Y%m%dT%H:%M:%SZ}",
        "not_after": f"{end:%Y%m%dT%H:%M:%SZ}",
        "fingerprint": sha256,
        "fingerprint_sha256": sha256,
        "fingerprint_sha1": certificate.fingerprint(hashes.SHA1()).hex(":").upper(),  # noqa: S303  # XenAPI's field
    }


def first(pem: str) -> str:
    """The first certificate of a text that may hold a key and a chain; without both. Raises ValueError."""
    found = _BLOCK.search(pem)
    if found is None:
        raise ValueError("no certificate")
    return found[0] + "\n"


def certificate_of(pem: str) -> x509.Certificate:
    """Raises ValueError."""
    return x509.load_pem_x509_certificate(pem.encode())


def require_file_name(untrusted: str, kind: str) -> None:
    """Raises <kind>_NAME_INVALID unless it is a plain name that ends in .pem."""
    if not _NAME.fullmatch(untrusted):
        raise Failure(f"{kind}_NAME_INVALID", untrusted)


def require_revocations(untrusted: str, name: str) -> None:
    """Raises CRL_CORRUPT [name] for a text that is no list of revocations."""
    try:
        x509.load_pem_x509_crl(untrusted[:_MOST].encode())
    except ValueError as error:
        raise Failure("CRL_CORRUPT", name) from error
