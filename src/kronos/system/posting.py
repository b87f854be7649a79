"""Posting: one body to an HTTP address."""

from __future__ import annotations

from urllib.parse import urlsplit

TIMEOUT = 10.0


class PostFailed(Exception):
    """A server that could not be reached, or that refused."""


def post(url: str, body: bytes, content_type: str, timeout: float = TIMEOUT) -> None:
    """POST a body. Certificates are checked, redirects are not followed. Raises PostFailed."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection  # for this alone

    target = urlsplit(url)
    made = HTTPSConnection if target.scheme == "https" else HTTPConnection
    where = f"{target.path or '/'}{'?' + target.query if target.query else ''}"
    try:
        connection = made(target.hostname or "", target.port, timeout=timeout)
        try:
            connection.request("POST", where, body, {"Content-Type": content_type})
            answer = connection.getresponse()
            answer.read(65536)
        finally:
            connection.close()
    except (OSError, HTTPException, ValueError) as error:
        raise PostFailed(f"{target.hostname}: {error}") from error
    if not 200 <= answer.status < 300:
        raise PostFailed(f"{target.hostname} answered {answer.status}")
