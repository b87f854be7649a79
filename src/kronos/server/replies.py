"""Replies as bytes, and the replies that no door gives: errors, redirects, preflight answers."""

from __future__ import annotations

import logging
import re
from email.utils import formatdate
from functools import cache
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from kronos.datamodel.errors import Failure
from kronos.server.routing import Doors, Redirect, Reply, Request, error_page, failure_page

log = logging.getLogger(__name__)

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
JOIN_BELOW: Final = 64 << 10
"""Below this a reply is joined to one piece: one short copy is cheaper than the bookkeeping of several."""

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]*)?")

_LANDING: Final = (
    b"<!DOCTYPE html><html><head><title>XenAPI host</title></head><body><h1>XenAPI host</h1>"
    b"<p>Connect a XenAPI client to this address.</p></body></html>"
)


@cache
def _start(status: int, content_type: bytes, keep_alive: bool) -> bytes:
    return b"HTTP/1.1 %d %b\r\n%bContent-Type: %b\r\nContent-Length: " % (
        status,
        HTTPStatus(status).phrase.encode(),
        b"" if keep_alive else b"Connection: close\r\n",
        content_type,
    )


def reply_bytes(request: Request, reply: Reply, length: int, date: bytes) -> tuple[bytes, ...]:
    """A reply as it goes out, in one part or, when it is large, in several.

    `length` is that of the whole body, `date` the Date header as a line.
    """
    body = reply.body
    rest = date
    if reply.headers:
        rest += b"".join([f"{name}: {value}\r\n".encode("latin-1") for name, value in reply.headers])
    if b"origin" in request.headers:
        rest += b"Access-Control-Allow-Origin: *\r\n"
    head = b"%b%d\r\n%b\r\n" % (_start(reply.status, reply.content_type, request.keep_alive), length, rest)
    if request.method == b"HEAD":
        return (head,)
    if length < JOIN_BELOW:
        return (b"".join((head, *body)),)
    return (head, *body)


def whole_reply(request: Request, reply: Reply) -> bytes:
    """A reply in one piece, for doors that write it themselves; the connection ends after it."""
    request.keep_alive = False
    date = b"Date: %b\r\n" % formatdate(usegmt=True).encode()
    return b"".join(reply_bytes(request, reply, sum(map(len, reply.body)), date))


def reply_to_error(error: Exception, request: Request) -> Reply:
    """The HTTP form of what a door raised. What is neither XenAPI's nor HTTP's is logged, and is this host's fault."""
    if isinstance(error, Failure):
        return failure_page(error.code, error.params)
    if isinstance(error, Redirect):
        return error_page(302, "", (("Location", error.location),))
    log.error("the door of %s failed", request.path, exc_info=error)
    return error_page(500, "see this host's log")


def reply_to_missing(request: Request, doors: Doors, https_port: int | None, own_address: str) -> Reply:
    """The reply where no door is: preflight, method not allowed, plain GET sent on to HTTPS, or not found."""
    methods = doors.methods(request.path)
    if request.method == b"OPTIONS":
        return _preflight(methods)
    plain = not request.origin.local and not request.origin.tls
    if plain and https_port is not None and request.method in (b"GET", b"HEAD"):
        found = _HOST.fullmatch(request.header("host"))
        host = found[1] if found is not None else _in_url(own_address)
        port = "" if https_port == 443 else f":{https_port}"
        target = request.target.decode("latin-1")
        # Of an absolute target only the decoded path is kept: it may hold line breaks, and what latin-1 has not.
        path = target if target.startswith("/") else quote(request.path)
        return error_page(301, "", (("Location", f"https://{host}{port}{path}"),))
    if request.path == "/" and request.method in (b"GET", b"HEAD"):
        return Reply(200, (_LANDING,))
    if methods:
        return error_page(405, "", (("Allow", ", ".join(methods)),))
    return error_page(404, request.path)


def _in_url(address: str) -> str:
    return f"[{address.partition('%')[0]}]" if ":" in address else address


def _preflight(methods: list[str]) -> Reply:
    """What a browser asks before a page of another host may call: any page may, for credentials go in the call."""
    headers = (
        ("Allow", ", ".join(["OPTIONS", *methods])),
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", ", ".join(["OPTIONS", *methods])),
        ("Access-Control-Allow-Headers", "Content-Type, X-Requested-With, Authorization"),
        ("Access-Control-Max-Age", "86400"),
    )
    return Reply(200, headers=headers)
