"""An Active Directory domain to test with: Samba's own controller, LDAP alone, on a host of its own."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from harness.directory import authority, certificate
from harness.host import Host

DOMAIN = "ad.kronos.test"
SHORT = "KRONOS"
"""As in many domains it is not the first of the labels."""
ADMINISTRATOR = "Adm1nistrator-of-tests"
PASSWORD = "Passw0rd of the domain"


_SUFFIX = ",".join(f"DC={label}" for label in DOMAIN.split("."))


class SambaDomain:
    """A controller of a domain that was made just now, on a host of its own or on one that there is."""

    def __init__(self, host: Host | None = None) -> None:
        self.host = host or Host("dc1")
        self._own = host is None
        self.directory = self.host.directory / "samba"
        self.directory.mkdir()
        self.ca = self.directory / "ca.pem"
        authority(self.directory, "ca")
        certificate(self.directory, "server", "ca", f"DNS:{DOMAIN},DNS:dc1.{DOMAIN},IP:{self.host.address}")
        (self.directory / "server.key").chmod(0o600)
        self._provision()
        self.start()

    @property
    def server(self) -> str:
        return f"ldaps://{self.host.address}"

    def _provision(self) -> None:
        self._tool(
            "domain",
            "provision",
            f"--realm={DOMAIN.upper()}",
            f"--domain={SHORT}",
            "--server-role=dc",
            "--dns-backend=NONE",
            f"--adminpass={ADMINISTRATOR}",
            f"--targetdir={self.directory}",
            f"--option=posix:eadb={self.directory}/eadb.tdb",  # no extended attributes are needed
            "--option=interfaces=eth0",
            "--option=bind interfaces only=yes",
            f"--option=log file={self.directory}/log",
            "--host-name=dc1",
            f"--host-ip={self.host.address}",
            configured=False,
        )

    def start(self) -> None:
        """Start it and wait until it listens."""
        options = {
            "server services": "ldap",
            "tls certfile": self.directory / "server.pem",
            "tls keyfile": self.directory / "server.key",
            "tls cafile": self.ca,
        }
        argv = ["/usr/sbin/samba", "-i", "-s", str(self._configuration)]
        argv += [f"--option={name}={value}" for name, value in options.items()]
        with (self.directory / "output").open("ab") as output:
            self.process = subprocess.Popen(self.host.command(*argv), stdout=output, stderr=output)
        until = time.monotonic() + 60
        while not self._listens():
            assert self.process.poll() is None, (self.directory / "output").read_text()
            assert time.monotonic() < until, "Samba does not listen"
            time.sleep(0.2)

    def stop(self) -> None:
        """End it: nobody listens any more."""
        self._send(signal.SIGKILL)
        self.process.wait(60)
        until = time.monotonic() + 60
        while self._listens():
            assert time.monotonic() < until, "Samba still listens"
            time.sleep(0.05)

    def hold(self) -> None:
        """Let it say nothing: connections come about, and nothing comes of them."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        told: set[int] = set()
        # One that is not stopped yet may make another meanwhile.
        while fresh := self._processes() - told:
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= fresh

    def _processes(self) -> set[int]:
        found = self.host.processes().items()
        return {pid for pid, line in found if line.startswith(("/usr/sbin/samba", "samba:"))}

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((self.host.address, 636)) == 0

    @property
    def _configuration(self) -> Path:
        return self.directory / "etc" / "smb.conf"

    def user(self, *words: str) -> None:
        """`samba-tool user …`"""
        self._tool("user", *words)

    def group(self, *words: str) -> None:
        """`samba-tool group …`"""
        self._tool("group", *words)

    def add_user(self, name: str, **attributes: str) -> None:
        """Somebody with PASSWORD; as quick as `samba-tool` is slow."""
        password = base64.b64encode(f'"{PASSWORD}"'.encode("utf-16-le")).decode()
        given = {"objectClass": "user", "sAMAccountName": name, "userAccountControl": "512"} | attributes
        lines = [f"{key}: {value}" for key, value in given.items()]
        self.modify(name, "changetype: add", *lines, f"unicodePwd:: {password}")

    def add_group(self, name: str, *members: str) -> None:
        """A group of users and groups."""
        lines = [f"member: CN={each},CN=Users,{_SUFFIX}" for each in members]
        self.modify(name, "changetype: add", "objectClass: group", f"sAMAccountName: {name}", *lines)

    def remove_from_group(self, name: str, member: str) -> None:
        self.modify(name, "changetype: modify", "delete: member", f"member: CN={member},CN=Users,{_SUFFIX}")

    def change(self, name: str, attribute: str, value: str) -> None:
        """Give an attribute of a user or group one value."""
        self.modify(name, "changetype: modify", f"replace: {attribute}", f"{attribute}: {value}")

    def hide_state(self, name: str, from_whom: str) -> None:
        """Keep somebody from reading whether another's account is open: the set of attributes that tell of it."""
        denied = "(OD;;RP;4c164200-20c0-11d0-a768-00aa006e0529;;%s)"
        sid = self._tool("user", "show", from_whom, "--attributes=objectSid").partition("objectSid: ")[2]
        words = (f"--objectdn=CN={name},CN=Users,{_SUFFIX}", f"--sddl={denied % sid.split()[0]}")
        self._tool("dsacl", "set", *words)

    def modify(self, name: str, *lines: str) -> None:
        """Lines of LDIF about a user or group, as the domain's administrator."""
        ldif = "\n".join([f"dn: CN={name},CN=Users,{_SUFFIX}", *lines]) + "\n"
        argv = ["ldapmodify", "-H", self.server, "-x", "-D", f"Administrator@{DOMAIN}", "-w", ADMINISTRATOR]
        done = subprocess.run(
            argv,
            input=ldif,
            capture_output=True,
            text=True,
            timeout=30,
            env={"LDAPTLS_CACERT": str(self.ca), "PATH": os.defpath},
        )
        assert done.returncode == 0, f"{ldif}\n{done.stderr}"

    def _tool(self, *words: str, configured: bool = True) -> str:
        argv = ["/usr/bin/samba-tool", *words]
        if configured:
            argv += ["-s", str(self._configuration)]
        done = subprocess.run(self.host.command(*argv), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def close(self) -> None:
        if self._own:
            self.host.close()
            self.process.wait(10)
        else:
            self.stop()
