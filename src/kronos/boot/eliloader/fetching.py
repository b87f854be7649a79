"""Fetching files of a repository over http, https, ftp or NFS into bounded files.

Runs in the sandbox of `worker`, as a user without rights: what answers is a stranger.
"""

from __future__ import annotations

import base64
import contextlib
import ftplib
import http.client
import io
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.eliloader.source import Source

SILENCE = 30.0
"""Seconds that a server may keep silent."""
_PIECE = 1 << 16
_MOST_REDIRECTS = 5
_SAFER = {"http": ("http", "https"), "https": ("https",), "ftp": ("ftp",)}
"""Where a redirection may lead: never to what is less well guarded, nor to another kind of thing."""
_AUTHORIZATION = "Authorization"


class Absent(Exception):
    """The repository answers, and has no such file."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Fetcher:
    """Fetches from one repository until `seconds` have passed altogether."""

    def __init__(self, source: Source, proxy: str, seconds: float) -> None:
        """Raises UNSUPPORTED_INSTALL_METHOD for a proxy that is none."""
        self.source = source
        self.deadline = time.monotonic() + seconds
        self.proxy = _proxy(proxy)

    def fetch(self, path: str, into: BinaryIO, limit: int) -> None:
        """Replace what `into` holds by a file of the repository of at most `limit` bytes.

        Raises Absent, INVALID_SOURCE [url, reason], SUPPORT_PACKAGE_MISSING [package].
        """
        into.seek(0)
        into.truncate()
        shown = self.source.url(path)
        try:
            with self._opened(path) as reply:
                self._copy(reply, into, limit, shown)
            into.flush()
        except (OSError, http.client.HTTPException, ftplib.Error, EOFError, ValueError) as error:
            raise InstallFailed("INVALID_SOURCE", shown, _reason(error)) from error

    def _copy(self, reply: Readable, into: BinaryIO, limit: int, shown: str) -> None:
        size = 0
        while piece := reply.read(_PIECE):
            size += len(piece)
            if size > limit:
                raise InstallFailed("INVALID_SOURCE", shown, f"it is larger than {limit} bytes")
            if time.monotonic() > self.deadline:
                raise InstallFailed("INVALID_SOURCE", shown, "the repository is too slow")
            into.write(piece)

    def _opened(self, path: str) -> contextlib.AbstractContextManager[Readable]:
        if self.source.scheme == "nfs":
            return _nfs(self.source, path)
        if self.source.scheme == "ftp" and not self.proxy:
            return _ftp(self.source, path)
        return self._web(path)

    # --- http, https, and ftp through a proxy --------------------------------------------------------------------

    @contextlib.contextmanager
    def _web(self, path: str) -> Iterator[Readable]:
        source = self.source
        # Source has checked the scheme.
        request = urllib.request.Request(source.url(path), headers={"User-Agent": "eliloader"})  # noqa: S310
        if source.user:
            secret = base64.b64encode(f"{source.user}:{source.password}".encode()).decode()
            # Not sent on to where a redirection leads.
            request.add_unredirected_header(_AUTHORIZATION, f"Basic {secret}")
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(
                dict.fromkeys(("http", "https", "ftp"), self.proxy) if self.proxy else {}
            ),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=ssl.create_default_context()),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirections(),
        ):
            opener.add_handler(handler)
        try:
            reply: Any = opener.open(request, timeout=SILENCE)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise Absent(path) from error
            raise
        if reply is None:
            raise ValueError("nothing here speaks this kind of address")
        with reply:
            yield _Counted(reply, _announced(reply))


class _Redirections(urllib.request.HTTPRedirectHandler):
    max_redirections = _MOST_REDIRECTS
    max_repeats = 2

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if after.scheme not in _SAFER[before.scheme]:
            raise ValueError(f"it redirects from {before.scheme} to {after.scheme or 'nowhere'}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Counted(io.RawIOBase):
    """A transfer whose end before its announced size is an error."""

    def __init__(self, stream: Readable, size: int | None) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        piece = self._stream.read(size)
        if self._left is not None:
            self._left -= len(piece)
            if not piece and self._left > 0:
                raise EOFError
        return piece


def _announced(reply: Any) -> int | None:
    text = reply.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _proxy(untrusted: str) -> str:
    if not untrusted:
        return ""
    text = untrusted if "://" in untrusted else f"http://{untrusted}"
    try:
        parts = urllib.parse.urlsplit(text)
        usable = parts.scheme == "http" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        raise InstallFailed("UNSUPPORTED_INSTALL_METHOD", "other_config:install-proxy is no http proxy")
    return text


# --- ftp -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _ftp(source: Source, path: str) -> Iterator[Readable]:
    name = source.plain_path(path)
    if not name.isprintable():
        raise ValueError("the path holds control characters")
    with ftplib.FTP(timeout=SILENCE) as session:  # noqa: S321  # the repository's owner has chosen it
        session.connect(source.host, source.port or ftplib.FTP_PORT)
        session.login(source.user or "anonymous", source.password or "eliloader@")
        session.voidcmd("TYPE I")
        try:
            connection, size = session.ntransfercmd(f"RETR {name}")
        except ftplib.error_perm as error:
            if str(error).startswith("550"):
                raise Absent(path) from error
            raise
        with connection, connection.makefile("rb") as stream:
            yield _Counted(stream, size)
        session.voidresp()


# --- NFS -------------------------------------------------------------------------------------------------------------


_VERSIONS = ("3", "4")  # an old server knows one of them, and so does many a new one

_ABSENT = ("NOENT", "MNT3ERR_ACCES")
"""What libnfs says of a file that is not there, and an old server of a directory that it cannot even mount."""


@contextlib.contextmanager
def _nfs(source: Source, path: str) -> Iterator[Readable]:
    """By libnfs in user space: nothing is mounted, so no server of a stranger's meets this host's kernel."""
    program = shutil.which("nfs-cat")
    if program is None:
        raise InstallFailed("SUPPORT_PACKAGE_MISSING", "libnfs-utils")
    words = ""
    for version in _VERSIONS:
        with subprocess.Popen(
            [program, f"{source.url(path)}?version={version}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                first = process.stdout.read(_PIECE)
                if first:
                    yield _Following(first, process.stdout)
            finally:
                process.stdout.close()
                words = process.stderr.read(2000).decode("utf-8", "replace").strip()
        if process.returncode == 0:
            return
        if first:
            raise EOFError
        if any(sign in words for sign in _ABSENT):
            raise Absent(path)
    raise ValueError(words.splitlines()[0] if words else "the NFS server gives nothing")


class _Following(io.RawIOBase):
    """A stream of which a piece was read before."""

    def __init__(self, first: bytes, stream: Readable) -> None:
        self._first = first
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        piece, self._first = self._first, b""
        return piece or self._stream.read(size)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, EOFError | http.client.IncompleteRead):
        return "the transfer ended early"
    text = " ".join(str(getattr(error, "reason", "") or error).split())
    return "".join(c for c in text if c.isprintable())[:300] or type(error).__name__
