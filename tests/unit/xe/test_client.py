"""The client as a program: what it loads, and how it reaches servers on the network."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import kronos.xe
from kronos.xe import remote, wire

_XE = Path(kronos.xe.__file__).parent / "xe"
# What the client may load for a command that needs no files: each module is time before the first byte is sent.
_LIGHT = {
    "kronos",
    "kronos.xe",
    "kronos.xe.client",
    "kronos.xe.options",
    "kronos.xe.wire",
    "_socket",
    "__future__",
}


def run(*words: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-IS", "-X", "importtime", str(_XE), *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={"HOME": str(home), "PATH": os.environ["PATH"]} | environment,
    )


def test_the_client_loads_next_to_nothing(tmp_path):
    bare = subprocess.run(
        [sys.executable, "-IS", "-X", "importtime", "-c", "pass"], capture_output=True, text=True
    ).stderr
    done = run("-version", home=tmp_path)
    assert done.stdout == "ThinCLI protocol: 0.2\n"
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    known = {line.rpartition("|")[2].strip() for line in bare.splitlines()}
    assert loaded - known - _LIGHT <= set()


def test_the_program_finds_its_modules_through_links(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/xe").symlink_to("../xe-alternative")
    (tmp_path / "xe-alternative").symlink_to(_XE)
    done = subprocess.run(
        [sys.executable, "-IS", tmp_path / "bin/xe", "-version"], capture_output=True, text=True
    )
    assert done.stdout == "ThinCLI protocol: 0.2\n"


def _certificate(folder: Path) -> Path:
    """A self-signed certificate with its key, as hosts have them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alpha")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "host.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.2", 0)) as server:
        yield server


def _answer_over_tls(listener: socket.socket, certificate: Path) -> list[bytes]:
    """A server that prints one line to the next client; what that client sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    received: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        try:
            with context.wrap_socket(connection, server_side=True) as secured:
                received.append(secured.recv(65536))
                text = b"hello"
                secured.sendall(wire.MAGIC + struct.pack("<ii", 0, 2))
                secured.sendall(struct.pack("<iiii", 12 + len(text), 9, 0, len(text)) + text)
                secured.sendall(struct.pack("<iiii", 12, 9, 4, 0))
                secured.recv(65536)
        except OSError:
            # A client that refuses the certificate hangs up.
            pass

    threading.Thread(target=serve, daemon=True).start()
    return received


def test_a_certificate_is_remembered_and_another_one_refused(tmp_path, listener):
    port = str(listener.getsockname()[1])
    words = ("vm-list", "-s", "127.0.0.2", "-p", port, "-u", "root", "-pw", "pass")
    certificate = _certificate(tmp_path)
    received = _answer_over_tls(listener, certificate)
    first = run(*words, home=tmp_path)
    assert first.stdout == "hello\n", first.stderr
    assert f"Certificate of 127.0.0.2:{port} added" in first.stderr
    assert received[0].startswith(b"POST /cli HTTP/1.0\r\n")
    assert received[0].endswith(b"\r\n\r\nvm-list\nusername=root\npassword=pass")
    _answer_over_tls(listener, certificate)
    second = run(*words, home=tmp_path)
    assert second.stdout == "hello\n"
    assert "Certificate" not in second.stderr
    other = tmp_path / "other"
    other.mkdir()
    received = _answer_over_tls(listener, _certificate(other))
    third = run(*words, home=tmp_path)
    assert third.returncode == 1
    assert "is not the one seen before" in third.stderr
    assert not [data for data in received if data]


def test_the_memory_of_certificates_is_the_owners_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    remote.check_fingerprint("alpha:443", "ab")
    remote.check_fingerprint("beta:443", "cd")
    remote.check_fingerprint("alpha:443", "ab")
    path = tmp_path / ".xe-known-hosts"
    assert path.read_text() == "alpha:443 ab\nbeta:443 cd\n"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(wire.Refused):
        remote.check_fingerprint("alpha:443", "ef")


@pytest.mark.parametrize("home", ["none", "/dev/null", "/proc/self"])
def test_a_user_without_a_home_is_told_the_certificate_each_time(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / home))
    for _ in range(2):
        remote.check_fingerprint("alpha:443", "ab")
        assert "alpha:443 not remembered" in capsys.readouterr().err


def test_a_memory_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".xe-known-hosts").mkdir()
    with pytest.raises(wire.Refused, match="Cannot read"):
        remote.check_fingerprint("alpha:443", "ab")


def test_what_answers_and_is_no_xapi_is_told(tmp_path, listener):
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2 and some more text\r\n")

    threading.Thread(target=serve, daemon=True).start()
    words = ("vm-list", "-s", "127.0.0.2", "-p", str(listener.getsockname()[1]), "--nossl")
    done = run(*words, home=tmp_path)
    assert done.returncode == 1
    assert "This is not a xapi server." in done.stderr


class Script:
    """A connection whose server says these bytes."""

    def __init__(self, said: bytes) -> None:
        self.said = wire.MAGIC + struct.pack("<ii", 0, 2) + said
        self.sent = b""

    def recv(self, size: int) -> bytes:
        part, self.said = self.said[:7], self.said[7:]
        return part

    def sendall(self, data: bytes) -> None:
        self.sent += data


def obey(said: bytes) -> int:
    dialogue = wire.Obedience(Script(said), None, ["vm-list"], wire.Trace(False, False))
    dialogue.greet(b"")
    return dialogue.run()


def test_messages_may_arrive_in_pieces(capfdbinary):
    assert obey(struct.pack("<iiii", 15, 9, 0, 3) + b"abc" + struct.pack("<iiii", 12, 9, 4, 3)) == 3
    assert capfdbinary.readouterr().out == b"abc\n"


@pytest.mark.parametrize(
    "said",
    [
        struct.pack("<i", -1),
        struct.pack("<i", 2**31 - 1),
        struct.pack("<iii", 8, 9, 99),
        struct.pack("<iii", 8, 7, 0),
        struct.pack("<iiii", 12, 9, 0, 50),
        struct.pack("<iiii", 12, 9, 0, -50),
    ],
)
def test_a_server_that_speaks_nonsense_is_left(said):
    with pytest.raises(wire.NotAServer):
        obey(said)


def test_a_server_that_hangs_up_is_told():
    with pytest.raises(wire.Gone):
        obey(struct.pack("<ii", 100, 9))


HELLO = wire.MAGIC + bytes(4) + (2).to_bytes(4, "little")


class Restarting:
    """A server on this host that goes away at some point of its first dialogues, and comes back."""

    def __init__(self, path: Path, *ends: str) -> None:
        self.asked = 0
        self._ends = ends
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for end in (*self._ends, ""):
            connection, _ = self._socket.accept()
            with connection:
                self.asked += 1
                if end == "at once":
                    continue
                connection.recv(1 << 16)
                if end == "busy":
                    connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
                if end:
                    if end == "begun":
                        connection.sendall(HELLO)
                    continue
                connection.sendall(HELLO)
                connection.recv(len(HELLO), socket.MSG_WAITALL)
                connection.sendall(struct.pack("<iiii", 12, 9, 4, 7))


@pytest.mark.parametrize("end", ["at once", "asked", "busy"])
def test_a_command_that_a_restarting_server_did_not_begin_is_sent_again(tmp_path, end):
    server = Restarting(tmp_path / "xapi", end, end)
    done = run("vm-list", home=tmp_path, XAPI_SOCKET=str(tmp_path / "xapi"))
    assert (done.returncode, server.asked) == (7, 3)


def test_a_command_that_was_begun_is_not_sent_again(tmp_path):
    server = Restarting(tmp_path / "xapi", "begun")
    done = run("vm-list", home=tmp_path, XAPI_SOCKET=str(tmp_path / "xapi"))
    assert (done.returncode, server.asked) == (1, 1)
    assert "Lost connection" in done.stderr
