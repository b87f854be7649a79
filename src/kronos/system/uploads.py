"""Uploads: a file to somebody else's server, by HTTP's PUT or by FTP."""

from __future__ import annotations

import ftplib
import http.client
import ssl
import urllib.error
import urllib.request
from typing import IO, Any, Final
from urllib.parse import unquote, urlsplit

PATIENCE: Final = 60.0
"""Seconds that the other side may be silent."""
SCHEMES: Final = ("http", "https", "ftp")


class UploadFailed(Exception):
    """The other side did not take it; the text says why, without the URL, which may hold a password."""


class WrongAddress(ValueError):
    """Not a URL of http, https or ftp with a host in it."""


def address(untrusted_url: str) -> Any:
    """The parts of a URL. Raises WrongAddress."""
    try:
        parts = urlsplit(untrusted_url)
        good = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise WrongAddress(str(error)) from error
    if not good:
        raise WrongAddress(parts.scheme)
    return parts


def send(url: str, file: IO[bytes], content_type: str, context: ssl.SSLContext, proxy: str = "") -> None:
    """Send a file from its beginning. Raises WrongAddress, UploadFailed."""
    parts = address(url)
    try:
        if parts.scheme == "ftp":
            _store(parts, file)
        else:
            _put(url, file, content_type, context, proxy)
    except (OSError, http.client.HTTPException, ftplib.Error, ValueError) as error:
        raise UploadFailed(f"{parts.hostname}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return type(reason).__name__ if isinstance(reason, ValueError) else str(reason)


def _put(url: str, file: IO[bytes], content_type: str, context: ssl.SSLContext, proxy: str) -> None:
    length = file.seek(0, 2)
    file.seek(0)
    handlers: list[Any] = [
        urllib.request.HTTPSHandler(context=context),
        urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else {}),
    ]
    headers = {"Content-Type": content_type, "Content-Length": str(length)}
    request = urllib.request.Request(url, data=file, method="PUT", headers=headers)  # noqa: S310  # looked at
    with urllib.request.build_opener(*handlers).open(request, timeout=PATIENCE):
        pass


def _store(parts: Any, file: IO[bytes]) -> None:
    folder, _, name = unquote(parts.path).rpartition("/")
    file.seek(0)
    with ftplib.FTP(timeout=PATIENCE) as client:  # noqa: S321  # the user's own choice of URL
        client.connect(parts.hostname, parts.port or ftplib.FTP_PORT)
        client.login(unquote(parts.username or ""), unquote(parts.password or ""))
        if folder.strip("/"):
            client.cwd(folder)
        client.storbinary(f"STOR {name or 'upload'}", file)
