"""A directory of users to test with: a real slapd of its own, with certificates, below one directory."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
from pathlib import Path

SUFFIX = "dc=kronos,dc=test"
PASSWORD = "a pässword of the directory"
SERVICE_DN = f"cn=reader,{SUFFIX}"
SERVICE_PASSWORD = "what the reader knows"
NAME = "ldap.kronos.test"
"""What the server's certificate is for."""

_CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {0}/pid
TLSCACertificateFile {0}/ca.pem
TLSCertificateFile {0}/server.pem
TLSCertificateKeyFile {0}/server.key
security simple_bind=128
database mdb
suffix "{suffix}"
rootdn "cn=admin,{suffix}"
rootpw administrator
directory {0}/data
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{service}" read by * none
"""

_PEOPLE = """\
dn: {suffix}
objectClass: dcObject
objectClass: organization
o: Kronos
dc: kronos

dn: {service}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: {service_password}

dn: ou=people,{suffix}
objectClass: organizationalUnit
ou: people

dn: ou=groups,{suffix}
objectClass: organizationalUnit
ou: groups
"""


class Slapd:
    """A server on `address`, LDAP with StartTLS on `port` and LDAPS on `tls_port`."""

    def __init__(self, directory: Path, address: str = "127.0.0.1") -> None:
        self.directory = directory
        self.address = address
        self.port, self.tls_port = _free_ports(address, 2)
        self.ca = directory / "ca.pem"
        (directory / "data").mkdir(parents=True)
        self._make_certificates()
        names = {"suffix": SUFFIX, "service": SERVICE_DN}
        (directory / "slapd.conf").write_text(_CONFIGURATION.format(directory, **names))
        self.load(_PEOPLE.format(service_password=SERVICE_PASSWORD, **names))
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        urls = f"ldap://{self.address}:{self.port}/ ldaps://{self.address}:{self.tls_port}/"
        argv = ["slapd", "-d", "0", "-h", urls, "-f", str(self.directory / "slapd.conf")]
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(["/usr/sbin/" + argv[0], *argv[1:]], stdout=log, stderr=log)
        until = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((self.address, self.tls_port)) == 0:
                    return process
            assert process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < until, "slapd does not listen"
            time.sleep(0.05)

    def load(self, ldif: str) -> None:
        """Write entries to its files, before it starts."""
        argv = ["/usr/sbin/slapadd", "-f", str(self.directory / "slapd.conf")]
        done = subprocess.run(argv, input=ldif, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr

    def person(self, name: str, *, password: str = PASSWORD, **attributes: str) -> str:
        """Add somebody; the name in full."""
        dn = f"uid={name},ou=people,{SUFFIX}"
        given = {"uid": name, "cn": name.title(), "sn": name.title(), "userPassword": password} | attributes
        self.add(dn, ("inetOrgPerson", "posixAccount", "shadowAccount"), posix(name) | given)
        return dn

    def group(self, name: str, *members: str) -> str:
        """Add a group of names in full; the name in full."""
        dn = f"cn={name},ou=groups,{SUFFIX}"
        self.add(dn, ("groupOfNames",), {"cn": name}, member=members)
        return dn

    def unix_group(self, name: str, number: int, *members: str) -> str:
        """Add a group of login names."""
        dn = f"cn={name},ou=groups,{SUFFIX}"
        self.add(dn, ("posixGroup",), {"cn": name, "gidNumber": str(number)}, memberUid=members)
        return dn

    def add(
        self, dn: str, classes: tuple[str, ...], attributes: dict[str, str], **several: tuple[str, ...]
    ) -> None:
        lines = [f"dn: {dn}", "changetype: add", *(f"objectClass: {each}" for each in classes)]
        lines += [f"{name}: {value}" for name, value in attributes.items()]
        lines += [f"{name}: {value}" for name, values in several.items() for value in values]
        self.modify("\n".join(lines) + "\n")

    def change(self, dn: str, attribute: str, value: str = "") -> None:
        """Give an attribute one value, or take it away."""
        lines = [f"dn: {dn}", "changetype: modify", f"replace: {attribute}"]
        self.modify("\n".join([*lines, *([f"{attribute}: {value}"] if value else [])]) + "\n")

    def delete(self, dn: str) -> None:
        self.modify(f"dn: {dn}\nchangetype: delete\n")

    def modify(self, ldif: str) -> None:
        """As its administrator."""
        argv = ["ldapmodify", "-H", f"ldaps://{self.address}:{self.tls_port}", "-x"]
        argv += ["-D", f"cn=admin,{SUFFIX}", "-w", "administrator"]
        done = subprocess.run(
            argv, input=ldif, capture_output=True, text=True, timeout=30, env={"LDAPTLS_REQCERT": "never"}
        )
        assert done.returncode == 0, f"{ldif}\n{done.stderr}"

    def _make_certificates(self) -> None:
        (self.directory / "slapd.conf").parent.mkdir(exist_ok=True)
        authority(self.directory, "ca")
        certificate(self.directory, "server", "ca", f"DNS:{NAME},DNS:localhost")

    def close(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait(10)


def posix(name: str) -> dict[str, str]:
    """What an account of Unix needs; the number follows from the name."""
    number = str(10_000 + sum(name.encode()) * 7)
    return {"uidNumber": number, "gidNumber": "4999", "homeDirectory": f"/home/{name}"}


def authority(directory: Path, name: str) -> None:
    """Make `name.pem` and `name.key`, a certificate that signs others."""
    _openssl(
        directory,
        *(
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            f"/CN={name} of the tests",
        ),
        *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
    )


def certificate(directory: Path, name: str, signer: str, names: str) -> None:
    """Make `name.pem` and `name.key` for DNS names, signed by an authority."""
    _openssl(
        directory,
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a server of the tests"),
        *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
    )
    (directory / f"{name}.ext").write_text(f"subjectAltName={names}\n")
    _openssl(
        directory,
        *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{signer}.pem", "-CAkey", f"{signer}.key"),
        *("-CAcreateserial", "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
    )


def _openssl(directory: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True, timeout=60)


def _free_ports(address: str, count: int) -> list[int]:
    """Different ones, below those that the kernel gives to whoever connects: such a one may be taken a moment later,
    and who connects to it while nobody listens may even meet himself."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            port = random.randrange(12_000, 32_000)
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((address, port))
                found.append(port)
    return found
