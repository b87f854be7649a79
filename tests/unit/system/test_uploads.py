"""Uploads, to servers that speak each protocol."""

from __future__ import annotations

import io
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from kronos.system import uploads
from kronos.system.uploads import UploadFailed, WrongAddress

Taken = dict[str, bytes]


@pytest.fixture
def web() -> Iterator[tuple[str, Taken]]:
    """A server that takes what is put: its URL, and what it has by the request's target."""
    taken: Taken = {}

    class Taker(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            taken[self.path] = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(403 if "forbidden" in self.path else 201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", taken
    server.shutdown()
    server.server_close()


@pytest.fixture
def ftp() -> Iterator[tuple[str, Taken]]:
    """A server of files for one client: its address, and what it has taken by its path."""
    taken: Taken = {}
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rw", newline="\r\n") as lines:

            def say(text: str) -> None:
                lines.write(f"{text}\n")
                lines.flush()

            folder, data = "", socket.create_server(("127.0.0.1", 0))
            say("220 hello")
            for line in lines:
                verb, _, rest = line.strip().partition(" ")
                if verb == "USER":
                    say("331 and the password?")
                elif verb == "PASS":
                    say("230 in" if rest == "s3 cret" else "530 no")
                elif verb == "CWD":
                    folder = rest
                    say("250 there")
                elif verb == "PASV":
                    port = data.getsockname()[1]
                    say(f"227 here (127,0,0,1,{port >> 8},{port & 255})")
                elif verb == "STOR":
                    say("150 go on")
                    sending, _ = data.accept()
                    with sending, sending.makefile("rb") as file:
                        taken[f"{folder}/{rest}"] = file.read()
                    say("226 got it")
                else:
                    say("200 fine")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listening.getsockname()[1]}", taken
    listening.close()


def send(url: str, proxy: str = "") -> None:
    file = io.BytesIO(b"a report")
    file.seek(5)
    uploads.send(url, file, "text/plain", ssl.create_default_context(), proxy)


def test_a_file_is_put_from_its_beginning(web: tuple[str, Taken]) -> None:
    base, taken = web
    send(f"{base}/reports/1")
    assert taken == {"/reports/1": b"a report"}


def test_a_proxy_is_asked_where_there_is_one(web: tuple[str, Taken]) -> None:
    base, taken = web
    send("http://reports.example/1", base)
    assert taken == {"http://reports.example/1": b"a report"}


def test_a_refusal_is_told_without_the_url(web: tuple[str, Taken]) -> None:
    base, _ = web
    with pytest.raises(UploadFailed, match=r"127\.0\.0\.1: HTTP status 403") as failed:
        send(f"{base}/forbidden?token=hunter2")
    assert "hunter2" not in str(failed.value)


def test_a_file_is_stored_by_ftp(ftp: tuple[str, Taken]) -> None:
    address, taken = ftp
    send(f"ftp://me:s3%20cret@{address}/in/box/report.tar")
    assert taken == {"/in/box/report.tar": b"a report"}


def test_a_wrong_password_of_ftp_is_told_without_it(ftp: tuple[str, Taken]) -> None:
    address, taken = ftp
    with pytest.raises(UploadFailed, match="530") as failed:
        send(f"ftp://me:hunter2@{address}/report")
    assert "hunter2" not in str(failed.value)
    assert taken == {}


@pytest.mark.parametrize(
    "url", ["", "/etc/passwd", "file:///etc/passwd", "http://", "http://[", "http://h:99999/"]
)
def test_only_addresses_of_the_net_are_taken(url: str) -> None:
    with pytest.raises(WrongAddress):
        send(url)
