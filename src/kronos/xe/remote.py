"""Servers on the network: TCP, and TLS with a certificate that is remembered from the first time on, as ssh does."""

from __future__ import annotations

import os
import socket
import sys

from kronos.xe.wire import Refused

_MEMORY = ".xe-known-hosts"


class TcpEndpoint:
    """A server at an address and port."""

    trusted = False

    def __init__(self, server: str, port: int, tls: bool) -> None:
        self.server = server.removeprefix("[").removesuffix("]")
        self.port = port
        self.tls = tls

    def connect(self) -> socket.socket:
        """Raises Refused, OSError."""
        try:
            found = socket.create_connection((self.server, self.port))
        except socket.gaierror as error:
            raise Refused(f"Host '{self.server}' not found.") from error
        except OSError as error:
            raise Refused(
                f"Unable to contact {self.server} port {self.port}: {error.strerror or error}.\n"
                "Please check the server and port, and that xapi runs there."
            ) from error
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._secured(found) if self.tls else found

    def _secured(self, plain: socket.socket) -> socket.socket:
        import hashlib
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Hosts sign their own certificates, so there is no authority to ask: the fingerprint is what is checked.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            secured = context.wrap_socket(plain, server_hostname=self.server)
        except ssl.SSLError as error:
            plain.close()
            raise Refused(f"TLS with {self.server} failed: {error.reason or error}") from error
        certificate = secured.getpeercert(binary_form=True)
        if certificate is None:
            raise Refused(f"{self.server} shows no certificate")
        check_fingerprint(f"{self.server}:{self.port}", hashlib.sha256(certificate).hexdigest())
        return secured


def check_fingerprint(name: str, fingerprint: str) -> None:
    """Remember the certificate of a server at its first use; refuse another one later. Raises Refused."""
    path = os.path.join(os.environ.get("HOME") or "/", _MEMORY)  # noqa: PTH118  # as in options
    known = _remembered(path).get(name)
    if known == fingerprint:
        return
    if known is not None:
        raise Refused(
            f"The certificate of {name} is not the one seen before.\n"
            f"Now:    SHA-256 {fingerprint}\nBefore: SHA-256 {known}\n"
            f"If it was renewed, remove the line of {name} from {path}; if not, someone may be listening in."
        )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{name} {fingerprint}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        # A service's user may have no home: then there is nothing to compare with the next time.
        why = error.strerror or error
        sys.stderr.write(f"Certificate of {name} not remembered ({path}: {why}): SHA-256 {fingerprint}\n")
        return
    sys.stderr.write(f"Certificate of {name} added to {path}: SHA-256 {fingerprint}\n")


def _remembered(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # as in options
            lines = [line.split() for line in file]
    except OSError as error:
        if os.path.exists(path):  # noqa: PTH110  # as in options
            raise Refused(f"Cannot read the certificates of known servers in {path}: {error}") from error
        return {}
    return {words[0]: words[1] for words in lines if len(words) == 2}
