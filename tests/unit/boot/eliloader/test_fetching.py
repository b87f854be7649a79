"""Fetching from servers that behave well, and from others."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kronos.boot.eliloader import fetching
from kronos.boot.eliloader.fetching import Absent, Fetcher
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.eliloader.source import parse

Respond = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def serving(respond: Respond) -> Iterator[str]:
    """A server on this machine that answers every GET by `respond`; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                respond(self)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def reply(status: int, content: bytes = b"", **headers: str) -> Respond:
    def respond(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in ({"Content_Length": str(len(content))} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return respond


def fetched(
    address: str, path: str = "linux", *, limit: int = 1000, proxy: str = "", seconds: float = 30
) -> bytes:
    into = io.BytesIO(b"what an earlier attempt left")
    Fetcher(parse(address), proxy, seconds).fetch(path, into, limit)
    return into.getvalue()


def refused(address: str, **named: object) -> InstallFailed:
    with pytest.raises(InstallFailed) as caught:
        fetched(address, **named)  # type: ignore[arg-type]
    return caught.value


def test_a_file_comes_whole_and_alone() -> None:
    with serving(reply(200, b"kernel")) as address:
        assert fetched(address) == b"kernel"


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_not_there_is_no_failure_of_the_repository(status: int) -> None:
    with serving(reply(status)) as address, pytest.raises(Absent):
        fetched(address)


def test_a_repository_that_refuses_is_no_source() -> None:
    with serving(reply(403)) as address:
        failure = refused(address)
    assert failure.code == "INVALID_SOURCE"
    assert failure.params == (f"{address}/linux", "the server answers 403 Forbidden")


def test_nobody_answering_is_no_source() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "refused" in refused(f"http://127.0.0.1:{port}").params[1]


def test_more_than_the_limit_is_not_taken() -> None:
    with serving(reply(200, bytes(1001))) as address:
        assert "larger than 1000" in refused(address).params[1]


def test_a_transfer_that_ends_early_is_noticed() -> None:
    with serving(reply(200, b"half", Content_Length="8")) as address:
        assert "ended early" in refused(address).params[1]


def test_a_repository_that_never_ends_is_left_in_time() -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b"x" * fetching._PIECE)

    with serving(drip) as address:
        assert "too slow" in refused(address, limit=1 << 40, seconds=0.2).params[1]


def test_user_and_password_are_given_to_the_repository_alone() -> None:
    seen = []

    def elsewhere(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers.get("Authorization"))
        reply(200, b"kernel")(request)

    with serving(elsewhere) as other:

        def here(request: BaseHTTPRequestHandler) -> None:
            seen.append(request.headers.get("Authorization"))
            reply(302, Location=f"{other}/x")(request)

        with serving(here) as address:
            assert fetched(address.replace("//", "//me:secret@")) == b"kernel"
    assert seen == ["Basic " + base64.b64encode(b"me:secret").decode(), None]


@pytest.mark.parametrize("target", ["file:///etc/shadow", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirection_leads_to_the_web_alone(target: str) -> None:
    with serving(reply(302, Location=target)) as address:
        assert "edirect" in refused(address).params[1]


def test_a_circle_of_redirections_ends() -> None:
    with serving(reply(302, Location="/linux")) as address:
        assert refused(address).code == "INVALID_SOURCE"


def test_a_password_is_in_no_message() -> None:
    with serving(reply(500)) as address:
        assert "secret" not in refused(address.replace("//", "//me:secret@")).lines


def test_a_proxy_is_asked_for_the_whole_address() -> None:
    asked = []

    def proxy(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        reply(200, b"kernel")(request)

    with serving(proxy) as address:
        for repository in ("http://mirror.invalid/el", "ftp://mirror.invalid/el"):
            assert fetched(repository, proxy=address) == b"kernel"
        fetched("http://mirror.invalid/el", proxy=address.removeprefix("http://"))
    assert asked == [
        "http://mirror.invalid/el/linux",
        "ftp://mirror.invalid/el/linux",
        "http://mirror.invalid/el/linux",
    ]


def test_the_environments_proxy_is_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serving(reply(200, b"kernel")) as address:
        assert fetched(address) == b"kernel"


@pytest.mark.parametrize("proxy", ["ftp://proxy/", "http://", "http://a b/", "http://x:y/"])
def test_a_proxy_that_is_none_is_refused(proxy: str) -> None:
    with pytest.raises(InstallFailed) as caught:
        Fetcher(parse("http://mirror/"), proxy, 1)
    assert caught.value.code == "UNSUPPORTED_INSTALL_METHOD"


def test_an_unknown_certificate_is_no_source(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import ssl
    import subprocess

    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", tmp_path / "key", "-out", tmp_path / "cert"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*make, *files, *subject], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert "certificate verify failed" in refused(f"https://127.0.0.1:{server.server_port}").params[1]
    finally:
        server.shutdown()
        server.server_close()


def test_without_libnfs_an_nfs_repository_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    failure = refused("nfs:server:/export")
    assert (failure.code, failure.params) == ("SUPPORT_PACKAGE_MISSING", ("libnfs-utils",))
