"""host and pool: certificates, shown by real handshakes."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import xmlrpc.client
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import NameOID

from kronos.api.host import certificates as host_certificates
from kronos.api.pool import certificates as pool_certificates
from kronos.api.pool import client_certificates
from kronos.db.records import Certificate, Session
from kronos.rules.certificates import self_signed
from kronos.server.access import Access
from kronos.server.doorkeeper import Doorkeeper
from kronos.server.doors import all_doors
from kronos.server.http import Server, TcpListener
from kronos.server.tls import Certificates, fingerprint
from kronos.system.trust import KINDS

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node.example")])


def pem(key) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


def made(key=KEY, begin=-1, end=365, digest=None) -> str:
    now = datetime.now(UTC).replace(tzinfo=None)
    builder = x509.CertificateBuilder().subject_name(NAME).issuer_name(NAME).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now + timedelta(begin)).not_valid_after(now + timedelta(end))
    signed = builder.sign(KEY, digest or hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def revocations() -> str:
    now = datetime.now(UTC).replace(tzinfo=None)
    builder = x509.CertificateRevocationListBuilder().issuer_name(NAME).last_update(now)
    signed = builder.next_update(now + timedelta(1)).sign(KEY, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def served(xapi):
    """A server with the host's two certificates; a handshake gives what it shows."""
    for name in host_certificates.FILES.values():
        (xapi.directory / name).write_bytes(self_signed("h", []))
    files = [xapi.directory / name for name in host_certificates.FILES.values()]
    shown = Certificates(*files, authorities=lambda: client_certificates.authorities(xapi.db, xapi.machine))
    server = Server(all_doors(xapi.pipeline, Access(xapi.pipeline)))
    listeners = [TcpListener("127.0.0.1", 0, shown.context), TcpListener("127.0.0.1", 0)]
    asyncio.run_coroutine_threadsafe(server.start(listeners), xapi.loop).result(10)
    xapi.machine.doors = Doorkeeper(xapi.loop, server, shown)
    host_certificates.refresh(xapi.db, xapi.machine, fingerprint)

    def handshake(name: str = "node.example") -> str:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(server.addresses[0], 10) as plain,
            context.wrap_socket(plain, server_hostname=name) as session,
        ):
            return ssl.DER_cert_to_PEM_cert(session.getpeercert(binary_form=True))

    handshake.server = server
    yield handshake
    asyncio.run_coroutine_threadsafe(server.stop(0), xapi.loop).result(10)


def rows(xapi, kind):
    return [row for row in xapi.db.all(Certificate) if row.type == kind]


def test_clients_see_an_installed_certificate_at_once(xapi, served):
    before = rows(xapi, "host")[0]
    certificate = made()

    xapi("host.install_server_certificate", xapi.host.ref, certificate, pem(KEY), certificate)

    assert served() == certificate == xapi("host.get_server_certificate", xapi.host.ref)
    after = rows(xapi, "host")
    assert len(after) == 1 and after[0].ref != before.ref
    assert xapi("host.get_certificates", xapi.host.ref) == (
        *(r.ref for r in rows(xapi, "host_internal")),
        after[0].ref,
    )
    found = x509.load_pem_x509_certificate(certificate.encode())
    assert after[0].fingerprint_sha256 == found.fingerprint(hashes.SHA256()).hex(":").upper()
    assert after[0].fingerprint_sha1 == found.fingerprint(hashes.SHA1()).hex(":").upper()


def test_the_file_is_its_owners_alone_and_holds_the_chain(xapi, served):
    certificate = made()
    xapi("host.install_server_certificate", xapi.host.ref, certificate, pem(KEY), certificate)
    file = xapi.directory / "xapi-ssl.pem"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().count("BEGIN CERTIFICATE") == 2


@pytest.mark.parametrize(
    "message", ["host.reset_server_certificate", "host.emergency_reset_server_certificate"]
)
def test_a_host_makes_itself_a_new_certificate(xapi, served, message):
    before = served()
    xapi(message, *([] if "emergency" in message else [xapi.host.ref]))
    assert served() != before
    assert len(rows(xapi, "host")) == 1


def test_the_hosts_of_a_pool_see_another_certificate(xapi, served):
    clients, pool = served(), served("pool")
    assert clients != pool

    xapi("host.refresh_server_certificate", xapi.host.ref)

    assert served() == clients
    assert served("pool") != pool


@pytest.mark.parametrize(
    ("key", "certificate", "chain", "failure"),
    [
        ("nonsense", made(), "", ["SERVER_CERTIFICATE_KEY_INVALID"]),
        (
            pem(ed25519.Ed25519PrivateKey.generate()),
            made(),
            "",
            ["SERVER_CERTIFICATE_KEY_ALGORITHM_NOT_SUPPORTED", "ed25519"],
        ),
        (
            pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),
            made(),
            "",
            ["SERVER_CERTIFICATE_KEY_RSA_LENGTH_NOT_SUPPORTED", "1024"],
        ),
        (pem(KEY), "nonsense", "", ["SERVER_CERTIFICATE_INVALID"]),
        (pem(KEY), made(digest=hashes.SHA384()), "", ["SERVER_CERTIFICATE_SIGNATURE_NOT_SUPPORTED"]),
        (
            pem(KEY),
            made(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
            "",
            ["SERVER_CERTIFICATE_KEY_MISMATCH"],
        ),
        (pem(KEY), made(), "nonsense", ["SERVER_CERTIFICATE_CHAIN_INVALID"]),
    ],
    ids=["no key", "no RSA", "short", "no certificate", "digest", "another key", "no chain"],
)
def test_what_could_not_be_shown_is_refused(xapi, served, key, certificate, chain, failure):
    before = served()
    assert xapi.refused("host.install_server_certificate", xapi.host.ref, certificate, key, chain) == failure
    assert served() == before


def test_a_certificate_is_valid_now(xapi, served):
    early = xapi.refused("host.install_server_certificate", xapi.host.ref, made(begin=1), pem(KEY), "")
    late = xapi.refused(
        "host.install_server_certificate", xapi.host.ref, made(begin=-9, end=-1), pem(KEY), ""
    )
    assert early[0] == "SERVER_CERTIFICATE_NOT_VALID_YET" and len(early) == 3
    assert late[0] == "SERVER_CERTIFICATE_EXPIRED" and late[2] < late[1]


def test_doors_that_refuse_a_file_keep_the_old_one(xapi, served, monkeypatch):
    before = served()
    doors = xapi.machine.doors

    class Stubborn:
        calls = 0

        def reload_certificates(self):
            self.calls += 1
            if self.calls == 1:
                raise OSError("the disk is on fire")
            doors.reload_certificates()

    xapi.machine.doors = Stubborn()
    assert xapi.refused("host.reset_server_certificate", xapi.host.ref)[0] == "INTERNAL_ERROR"
    assert served() == before == xapi("host.get_server_certificate", xapi.host.ref)


def test_a_file_that_was_exchanged_by_hand_is_recorded_at_the_next_start(xapi, served):
    row = rows(xapi, "host")[0]
    host_certificates.refresh(xapi.db, xapi.machine, fingerprint)
    assert rows(xapi, "host") == [row]

    (xapi.directory / "xapi-ssl.pem").write_bytes(self_signed("other", []))
    host_certificates.refresh(xapi.db, xapi.machine, fingerprint)

    assert rows(xapi, "host") != [row] and len(rows(xapi, "host")) == 1


def test_plain_clients_are_sent_away_when_only_tls_is_wanted(xapi, served):
    def greeted() -> bytes:
        with socket.create_connection(served.server.addresses[1], 10) as plain:
            try:
                plain.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
                return plain.recv(15)
            except ConnectionResetError:
                return b""

    assert greeted().startswith(b"HTTP/1.")
    xapi("host.set_https_only", xapi.host.ref, True)
    assert greeted() == b""
    assert served()
    xapi("host.set_https_only", xapi.host.ref, False)
    assert greeted().startswith(b"HTTP/1.")


def test_hosts_verify_each_other_once_it_is_seen_to_work(xapi, served):
    assert xapi.refused("host.emergency_reenable_tls_verification") == [
        "TLS_VERIFICATION_NOT_ENABLED_IN_POOL"
    ]
    xapi.machine.https_port = served.server.addresses[0][1]
    xapi.host.address = "127.0.0.1"
    (xapi.directory / "xapi-pool-tls.pem").write_bytes(self_signed("not the one that is shown", []))
    assert xapi.refused("pool.enable_tls_verification")[0] == "TLS_CONNECTION_FAILED"
    assert xapi.pool.tls_verification_enabled is False

    xapi("host.refresh_server_certificate", xapi.host.ref)
    xapi("pool.enable_tls_verification")
    assert xapi.host.tls_verification_enabled and xapi.pool.tls_verification_enabled

    xapi("host.emergency_disable_tls_verification")
    assert not xapi.host.tls_verification_enabled
    xapi("host.emergency_reenable_tls_verification")
    assert xapi.host.tls_verification_enabled


# --- authorities ---------------------------------------------------------------------------------------------


def test_an_authority_is_believed_by_its_name(xapi):
    certificate = made()
    xapi("pool.install_ca_certificate", "site.pem", certificate)

    assert xapi("pool.certificate_list") == ("site.pem",) == xapi("host.certificate_list", xapi.host.ref)
    assert [row.name for row in rows(xapi, "ca")] == ["site.pem"]
    assert xapi.refused("pool.install_ca_certificate", "site.pem", certificate) == [
        "CERTIFICATE_ALREADY_EXISTS",
        "site.pem",
    ]

    xapi("pool.uninstall_ca_certificate", "site.pem")
    assert xapi("pool.certificate_list") == () == xapi("host.certificate_list", xapi.host.ref)
    assert xapi.refused("pool.uninstall_ca_certificate", "site.pem") == [
        "CERTIFICATE_DOES_NOT_EXIST",
        "site.pem",
    ]


@pytest.mark.parametrize("name", ["", ".pem", "../x.pem", "a b.pem", "a.crt", "a/b.pem"])
def test_a_certificate_has_a_plain_file_name(xapi, name):
    assert xapi.refused("pool.install_ca_certificate", name, made()) == ["CERTIFICATE_NAME_INVALID", name]
    assert xapi.refused("pool.crl_install", name, revocations()) == ["CRL_NAME_INVALID", name]


def test_an_authority_is_valid_now(xapi):
    assert xapi.refused("pool.install_ca_certificate", "a.pem", "nonsense") == ["CA_CERTIFICATE_INVALID"]
    assert xapi.refused("pool.install_ca_certificate", "a.pem", made(end=-0.5))[0] == "CA_CERTIFICATE_EXPIRED"


def test_lists_of_revocations_are_kept(xapi):
    xapi("pool.crl_install", "site.pem", revocations())
    assert xapi("pool.crl_list") == ("site.pem",)
    assert xapi.refused("pool.crl_install", "site.pem", revocations()) == ["CRL_ALREADY_EXISTS", "site.pem"]
    assert xapi.refused("pool.crl_install", "b.pem", made()) == ["CRL_CORRUPT", "b.pem"]
    xapi("pool.crl_uninstall", "site.pem")
    assert xapi.refused("pool.crl_uninstall", "site.pem") == ["CRL_DOES_NOT_EXIST", "site.pem"]


def test_a_trusted_certificate_has_purposes(xapi):
    certificate = made()
    install = ("pool.install_trusted_certificate", xapi.pool.ref, False, certificate)
    assert xapi.refused(*install, []) == ["CERTIFICATE_LACKS_PURPOSE"]
    purpose = "licensing"
    xapi(*install, [purpose])
    row = rows(xapi, "pinned")[0]
    assert xapi.refused(*install, [purpose]) == ["TRUSTED_CERTIFICATE_ALREADY_EXISTS", row.fingerprint_sha256]

    xapi("pool.uninstall_trusted_certificate", xapi.pool.ref, row.ref)
    assert rows(xapi, "pinned") == []


def test_a_hosts_own_certificate_is_not_uninstalled_so(xapi, served):
    row = rows(xapi, "host")[0]
    assert xapi.refused("pool.uninstall_trusted_certificate", xapi.pool.ref, row.ref) == [
        "NOT_TRUSTED_CERTIFICATE",
        row.ref,
    ]


def test_files_that_no_record_knows_go_when_a_host_is_brought_in_line(xapi):
    xapi("pool.install_ca_certificate", "site.pem", made())
    xapi("host.install_ca_certificate", xapi.host.ref, "lost.pem", made())
    xapi("pool.certificate_sync")
    assert xapi("host.certificate_list", xapi.host.ref) == ("site.pem",)


class Killed(BaseException):
    """The daemon is gone: nothing after this runs."""


@pytest.mark.parametrize("message", ["pool.install_ca_certificate", "pool.install_trusted_certificate"])
def test_a_certificate_that_was_being_installed_when_the_daemon_was_killed_is_not_believed(xapi, message):
    xapi("pool.install_ca_certificate", "site.pem", made())
    before = pool_certificates.trust(xapi.machine)
    kept = {kind: before.names(kind) for kind in KINDS}
    last = message.endswith("_ca_certificate")
    arguments = ("new.pem", made()) if last else (xapi.pool.ref, True, made(), [])

    def die(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xapi.db, "create", die)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            xapi(message, *arguments)
    assert {kind: before.names(kind) for kind in KINDS} != kept
    pool_certificates.settle(xapi.db, xapi.machine)
    assert {kind: before.names(kind) for kind in KINDS} == kept
    assert xapi.machine.intents.left() == {}


# --- clients' certificates -----------------------------------------------------------------------------------


def signed(name: str, key) -> str:
    """A client's certificate that the authority of `made` has signed."""
    now = datetime.now(UTC).replace(tzinfo=None)
    builder = x509.CertificateBuilder().issuer_name(NAME).public_key(key.public_key())
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ignored")]))
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(9))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def authority() -> str:
    now = datetime.now(UTC).replace(tzinfo=None)
    builder = x509.CertificateBuilder().subject_name(NAME).issuer_name(NAME).public_key(KEY.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(9))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def login(xapi, served, tmp_path):
    """Log in over TLS with a client's certificate for some name, and a wrong password: status and value."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def attempt(name: str):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if name:
            file = tmp_path / f"{name}.pem"
            file.write_text(pem(key) + signed(name, key))
            context.load_cert_chain(file)
        connection = http.client.HTTPSConnection(*served.server.addresses[0], context=context, timeout=30)
        body = xmlrpc.client.dumps(("robot", "wrong"), "session.login_with_password")
        connection.request("POST", "/", body, {"User-Agent": "robot/1"})
        found = xmlrpc.client.loads(connection.getresponse().read())[0][0]
        return found.get("Value") or found["ErrorDescription"][0]

    return attempt


def test_a_certificate_for_the_right_name_is_as_good_as_a_password(xapi, login):
    xapi("pool.install_ca_certificate", "clients.pem", authority())
    xapi("pool.enable_client_certificate_auth", xapi.pool.ref, "Robot.Example")

    session = xapi.db.get(Session, login("robot.example"))

    assert session.client_certificate and not session.is_local_superuser
    assert "host.get_record" in session.rbac_permissions and "vm.destroy" not in session.rbac_permissions


@pytest.mark.parametrize("name", ["", "other.example"])
def test_others_need_their_password(xapi, login, name, monkeypatch):
    xapi("pool.install_ca_certificate", "clients.pem", authority())
    xapi("pool.enable_client_certificate_auth", xapi.pool.ref, "robot.example")
    assert login(name) == "SESSION_AUTHENTICATION_FAILED"


def test_nobody_is_let_in_by_a_certificate_that_is_not_asked_for(xapi, login):
    xapi("pool.install_ca_certificate", "clients.pem", authority())
    assert login("robot.example") == "SESSION_AUTHENTICATION_FAILED"
    xapi("pool.enable_client_certificate_auth", xapi.pool.ref, "robot.example")
    xapi("pool.disable_client_certificate_auth", xapi.pool.ref)
    assert login("robot.example") == "SESSION_AUTHENTICATION_FAILED"
    assert xapi.pool.client_certificate_auth_name == ""


def test_an_authority_that_is_believed_no_more_lets_nobody_in(xapi, login):
    xapi("pool.install_ca_certificate", "clients.pem", authority())
    xapi("pool.enable_client_certificate_auth", xapi.pool.ref, "robot.example")
    assert login("robot.example").startswith("OpaqueRef:")
    xapi("pool.uninstall_ca_certificate", "clients.pem")
    assert login("robot.example") == "SESSION_AUTHENTICATION_FAILED"


def test_a_strangers_certificate_does_not_pass(xapi, served, login, tmp_path):
    xapi("pool.install_ca_certificate", "others.pem", self_signed_text())
    xapi("pool.enable_client_certificate_auth", xapi.pool.ref, "robot.example")
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        login("robot.example")


def self_signed_text() -> str:
    return self_signed("somebody", []).decode().partition("-----END PRIVATE KEY-----\n")[2]


def test_a_name_is_needed(xapi):
    assert xapi.refused("pool.enable_client_certificate_auth", xapi.pool.ref, "") == [
        "INVALID_VALUE",
        "name",
        "",
    ]
