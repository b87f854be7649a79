"""The LDAP kind of external authentication, against a real slapd that speaks TLS alone."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import directory
from harness.directory import PASSWORD, SERVICE_DN, SERVICE_PASSWORD, SUFFIX, Slapd
from kronos.auth import ldap_server
from kronos.auth.base import DirectoryFailed, NotKnown, WrongCredentials
from kronos.auth.ldap import LDAP
from kronos.auth.ldap_server import escaped
from kronos.rules.admission import is_suspended

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not Path("/usr/sbin/slapd").exists(), reason="there is no slapd"),
]


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    """alice is in admins, which are in everybody, which are in admins again; and in staff by name, users by number."""
    server = Slapd(tmp_path_factory.mktemp("slapd"))
    alice = server.person("alice", displayName="Alice of Kronos")
    server.person("bob")
    server.person("a(b*c)")
    admins = server.group("admins", alice)
    everybody = server.group("everybody", admins)
    server.modify(f"dn: {admins}\nchangetype: modify\nadd: member\nmember: {everybody}\n")
    server.unix_group("staff", 5001, "alice")
    server.unix_group("users", 4999)
    yield server
    server.close()


def opened(slapd: Slapd, service: str = "", **changed: str) -> LDAP:
    """The directory as an administrator configures it."""
    configuration = {
        "base": SUFFIX,
        "bind-dn": SERVICE_DN,
        "bind-password": SERVICE_PASSWORD,
        "ca-file": str(slapd.ca),
    } | {key.replace("_", "-"): value for key, value in changed.items()}
    return LDAP(service or f"ldap://localhost:{slapd.port}", configuration)


@pytest.fixture(params=["StartTLS", "LDAPS"])
def ldap(request: pytest.FixtureRequest, slapd: Slapd) -> LDAP:
    return opened(slapd, f"ldaps://localhost:{slapd.tls_port}" if request.param == "LDAPS" else "")


def test_the_right_password_names_the_user(ldap: LDAP) -> None:
    ldap.probe()
    assert ldap.authenticate("alice", PASSWORD) == ldap.identifier("alice")


@pytest.mark.parametrize(
    "password",
    [
        "wrong",
        "",
        "\0",
        PASSWORD + "\0",
        "\1",
        "\ue000",
        "\ud800",
        "\N{SOFT HYPHEN}",
        PASSWORD + "\N{SOFT HYPHEN}",
    ],
)
def test_any_other_does_not(ldap: LDAP, password: str) -> None:
    with pytest.raises(WrongCredentials):
        ldap.authenticate("alice", password)


@pytest.mark.parametrize(
    "name",
    ["*", "a*", "alice)(uid=*", "alice)(|(uid=*", "", "ali\0ce", "nobody", "x" * 300, "*)(objectClass=*"],
)
def test_a_name_is_a_name_and_never_a_filter(ldap: LDAP, name: str) -> None:
    with pytest.raises(WrongCredentials):
        ldap.authenticate(name, PASSWORD)
    with pytest.raises(NotKnown):
        ldap.identifier(name)


def test_a_name_of_a_filters_own_letters_is_found(ldap: LDAP) -> None:
    assert ldap.authenticate("a(b*c)", PASSWORD) == ldap.identifier("a(b*c)")


def test_a_password_of_any_letters_is_the_password(slapd: Slapd, ldap: LDAP) -> None:
    # What SASLprep would make another text of, or refuse.
    password = "\N{LATIN SMALL LIGATURE FI}\N{NO-BREAK SPACE}\N{SOFT HYPHEN}\N{BELL}\ue000"
    dn = slapd.person("dora", userPassword=password)
    try:
        assert ldap.authenticate("dora", password) == ldap.identifier("dora")
        with pytest.raises(WrongCredentials):
            ldap.authenticate("dora", "fi \N{BELL}\ue000")
    finally:
        slapd.delete(dn)


def test_groups_in_groups_are_followed_and_end(ldap: LDAP) -> None:
    found = ldap.groups(ldap.identifier("alice"))
    names = {ldap.information(each)["subject-name"] for each in found}
    assert names == {"admins", "everybody", "staff", "users"}
    assert len(found) == 4
    assert {ldap.information(each)["subject-name"] for each in ldap.groups(ldap.identifier("admins"))} == {
        "everybody"
    }


def test_what_is_said_of_a_user_and_of_a_group(ldap: LDAP) -> None:
    said = ldap.information(ldap.identifier("alice"))
    assert said["subject-name"] == "alice"
    assert said["subject-displayname"] == "Alice of Kronos"
    assert said["subject-is-group"] == "false"
    assert not is_suspended(said)
    said = ldap.information(ldap.identifier("admins"))
    assert (said["subject-name"], said["subject-is-group"]) == ("admins", "true")


@pytest.mark.parametrize(
    ("attribute", "value"), [("shadowExpire", "1"), ("shadowMax", "1")], ids=["account", "password"]
)
def test_an_expired_account_is_suspended(slapd: Slapd, ldap: LDAP, attribute: str, value: str) -> None:
    bob = f"uid=bob,ou=people,{SUFFIX}"
    slapd.change(bob, "shadowLastChange", "10000")
    slapd.change(bob, attribute, value)
    try:
        assert is_suspended(ldap.information(ldap.identifier("bob")))
    finally:
        slapd.change(bob, attribute)
    assert not is_suspended(ldap.information(ldap.identifier("bob")))


def test_who_is_removed_and_made_again_is_somebody_else(slapd: Slapd, ldap: LDAP) -> None:
    dn = slapd.person("carol")
    before = ldap.identifier("carol")
    slapd.delete(dn)
    with pytest.raises(NotKnown):
        ldap.information(before)
    slapd.person("carol")
    assert ldap.identifier("carol") != before
    slapd.delete(dn)


def test_two_of_one_name_are_nobody(slapd: Slapd, ldap: LDAP) -> None:
    dn = f"uid=bob,ou=groups,{SUFFIX}"
    person = {"uid": "bob", "cn": "Bob", "sn": "Bob", "userPassword": PASSWORD}
    slapd.add(dn, ("inetOrgPerson",), person)
    try:
        with pytest.raises(DirectoryFailed):
            ldap.authenticate("bob", PASSWORD)
    finally:
        slapd.delete(dn)


def failure(ldap: LDAP) -> str:
    with pytest.raises(DirectoryFailed) as caught:
        ldap.probe()
    return caught.value.kind


def test_a_certificate_of_another_authority_is_not_trusted(slapd: Slapd, tmp_path: Path) -> None:
    directory.authority(tmp_path, "other")
    other = str(tmp_path / "other.pem")
    for service in ("", f"ldaps://localhost:{slapd.tls_port}"):
        assert failure(opened(slapd, service, ca_file=other)) == "_INVALID_TRUSTED_CERTS"
        opened(slapd, service, ca_file=other, tls_verify="false").probe()


def test_a_certificate_for_another_name_is_not_trusted(slapd: Slapd) -> None:
    assert failure(opened(slapd, f"ldaps://127.0.0.1:{slapd.tls_port}")) == "_INVALID_TRUSTED_CERTS"
    assert failure(opened(slapd, f"ldap://127.0.0.1:{slapd.port}")) == "_INVALID_TRUSTED_CERTS"


def test_a_server_that_refuses_tls_is_told_nothing(slapd: Slapd) -> None:
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.settimeout(60)
            with connection:
                heard.extend(connection.recv(4096))
                # An extended response: a protocol error.
                connection.sendall(bytes.fromhex("300c02010178070a010204000400"))
                while more := connection.recv(4096):
                    heard.extend(more)

        server = threading.Thread(target=refuse)
        server.start()
        failure(opened(slapd, f"ldap://127.0.0.1:{listener.getsockname()[1]}"))
        server.join(10)
    assert b"1.3.6.1.4.1.1466.20037" in heard
    assert SERVICE_PASSWORD.encode() not in heard
    assert SERVICE_DN.encode() not in heard


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"bind_password": "wrong"}, "_WRONG_CREDENTIALS"),
        ({"base": "dc=nowhere"}, "_DOMAIN_LOOKUP_FAILED"),
        ({"ca_file": "/nonexistent"}, "_NO_TRUSTED_CERTS"),
        ({"bind_dn": "", "bind_password": ""}, "_DOMAIN_LOOKUP_FAILED"),
    ],
    ids=["password", "base", "certificates", "anonymous"],
)
def test_what_is_configured_wrong_is_said(slapd: Slapd, changed: dict[str, str], kind: str) -> None:
    assert failure(opened(slapd, "", **changed)) == kind


def test_a_server_that_is_not_there_is_unavailable(slapd: Slapd) -> None:
    assert failure(opened(slapd, "ldap://localhost:1")) == "_UNAVAILABLE"


@pytest.mark.parametrize("scheme", ["ldap", "ldaps"])
def test_a_server_that_says_nothing_is_given_up(
    slapd: Slapd, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(ldap_server, "ANSWER", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert failure(opened(slapd, f"{scheme}://127.0.0.1:{silent.getsockname()[1]}")) == "_UNAVAILABLE"


def test_a_server_that_dribbles_is_given_up_too(slapd: Slapd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ldap_server, "WHOLE", 1.0)
    given_up = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def dribble() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"\x30\x82\x40\x00")  # an answer of 16 KiB begins, before there is TLS
                while not given_up.wait(0.1):
                    connection.sendall(b"\0")

        server = threading.Thread(target=dribble)
        server.start()
        assert failure(opened(slapd, f"ldap://127.0.0.1:{listener.getsockname()[1]}")) == "_UNAVAILABLE"
        given_up.set()
        server.join(10)


@pytest.mark.parametrize("service", ["http://localhost", "ldap://", "ldap://host/path", "ldap://host:port"])
def test_what_is_no_address_is_refused(slapd: Slapd, service: str) -> None:
    with pytest.raises(DirectoryFailed):
        opened(slapd, service)


def test_a_misspelt_setting_is_refused(slapd: Slapd) -> None:
    with pytest.raises(DirectoryFailed):
        opened(slapd, "", tls_verfiy="false")


def test_escaping_covers_what_a_filter_means_something_by() -> None:
    assert escaped("a*(b)\\\0é") == r"a\2a\28b\29\5c\00\c3\a9"
