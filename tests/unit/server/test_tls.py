"""The host's certificate and the TLS settings."""

from __future__ import annotations

import hashlib
import ssl
import stat
from collections import deque
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from kronos.server import tls
from kronos.server.tls_connection import WRITE, TlsConnection


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "host.pem"
    tls.ensure_certificate(
        path, "host1.example.org", ["192.0.2.7", "2001:db8::7", "fe80::1%eth0", "192.0.2.7"]
    )
    return path


def certificate(path: Path) -> x509.Certificate:
    text = path.read_bytes()
    return x509.load_pem_x509_certificate(text[text.index(b"-----BEGIN CERT") :])


def test_the_key_is_rsa_and_of_its_owner_alone(pem: Path) -> None:
    key = certificate(pem).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size >= 2048
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600


def test_the_certificate_names_the_host_and_its_addresses(pem: Path) -> None:
    names = certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["host1.example.org", "host1", "localhost"]
    addresses = [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["192.0.2.7", "2001:db8::7", "fe80::1"]


def test_an_existing_certificate_is_left_alone(pem: Path) -> None:
    before = pem.read_bytes()
    tls.ensure_certificate(pem, "another", [])
    assert pem.read_bytes() == before


def test_a_long_host_name_fits(tmp_path: Path) -> None:
    name = "a" * 60 + ".example.org"
    tls.ensure_certificate(tmp_path / "long.pem", name, [])
    names = (
        certificate(tmp_path / "long.pem")
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert name in names.get_values_for_type(x509.DNSName)


def test_the_fingerprint_is_what_openssl_shows(pem: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert(pem.read_text()[pem.read_text().index("-----BEGIN CERT") :])
    digest = hashlib.sha256(der).hexdigest().upper()
    assert tls.fingerprint(pem) == ":".join(digest[at : at + 2] for at in range(0, 64, 2))


def test_a_file_without_a_certificate_has_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    with pytest.raises(ValueError, match="no certificate"):
        tls.fingerprint(tmp_path / "empty")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Both ends in memory; the client's session once it is established."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="host1.example.org")
    for _ in range(5):
        for end in (theirs, ours):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert theirs.version() is not None
    return theirs


def client_context(pem: Path, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=pem.read_text()[pem.read_text().index("-----BEGIN CERT") :])
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(pem: Path, version: ssl.TLSVersion) -> None:
    with pytest.raises(ssl.SSLError):
        handshake(tls.server_context(pem), client_context(pem, version))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_new_versions_are_accepted_and_the_certificate_verifies(pem: Path, version: ssl.TLSVersion) -> None:
    assert handshake(tls.server_context(pem), client_context(pem, version)).version() == version.name.replace(
        "_", "."
    )


@pytest.mark.parametrize("suite", ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"])
def test_the_suites_that_the_go_client_offers_work(pem: Path, suite: str) -> None:
    client = client_context(pem, ssl.TLSVersion.TLSv1_2)
    client.set_ciphers(suite)
    cipher = handshake(tls.server_context(pem), client).cipher()
    assert cipher is not None
    assert cipher[0] == suite


def test_a_suite_without_forward_secrecy_is_refused(pem: Path) -> None:
    client = client_context(pem, ssl.TLSVersion.TLSv1_2)
    client.set_ciphers("AES256-GCM-SHA384")
    with pytest.raises(ssl.SSLError):
        handshake(tls.server_context(pem), client)


def test_many_short_parts_are_encrypted_together_and_arrive_whole_and_in_order() -> None:
    connection = object.__new__(TlsConnection)
    connection._plain = deque()
    parts = [bytes([n % 256]) * size for n, size in enumerate((3, WRITE, 1, WRITE + 5, *[900] * 1000, 0, 7))]
    connection._plain.extend(memoryview(part) for part in parts)
    pieces = []
    while connection._plain:
        pieces.append(bytes(connection._next_piece()))
    assert b"".join(pieces) == b"".join(parts)
    assert max(map(len, pieces)) <= WRITE
    assert len(pieces) <= 2 + sum(map(len, parts)) // (WRITE // 2)
