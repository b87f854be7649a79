"""A mail server that keeps what it is given: enough of SMTP for a real client."""

from __future__ import annotations

import base64
import socketserver
import threading
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType


@dataclass
class Taken:
    """One mail as it arrived."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    login: tuple[str, str] | None


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        login: tuple[str, str] | None = None
        sender, recipients = "", list[str]()
        self._say("220 sink ready")
        for line in iter(self.rfile.readline, b""):
            verb, _, rest = line.decode().strip().partition(" ")
            match verb.upper():
                case "EHLO" | "HELO":
                    self._say("250-sink\r\n250 AUTH PLAIN")
                case "AUTH":
                    _, user, password = base64.b64decode(rest.partition(" ")[2]).decode().split("\0")
                    login = user, password
                    self._say("235 come in" if password == self.server.sink.password else "535 no")
                case "MAIL":
                    sender, recipients = _address(rest), []
                    self._say("250 ok" if not self.server.sink.busy else "451 later")
                case "RCPT":
                    recipients.append(_address(rest))
                    self._say("250 ok")
                case "DATA":
                    self._say("354 go on")
                    body = b"".join(iter(self.rfile.readline, b".\r\n"))
                    message = message_from_bytes(body, policy=policy.default)
                    self.server.sink.take(Taken(sender, recipients, message, login))
                    self._say("250 taken")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    sink: Sink


@dataclass
class Sink:
    """A server on loopback for as long as the block runs; a `busy` one takes nothing."""

    password: str = "swordfish"
    busy: bool = False
    taken: list[Taken] = field(default_factory=list)

    def __enter__(self) -> Sink:
        self._arrived = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.sink = self
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def take(self, mail: Taken) -> None:
        with self._arrived:
            self.taken.append(mail)
            self._arrived.notify_all()

    def wait(self, count: int = 1) -> list[Taken]:
        """The mails, once there are so many of them."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.taken) >= count, 20), "no mail came"
            return list(self.taken)


def _address(text: str) -> str:
    return text.partition("<")[2].partition(">")[0]
