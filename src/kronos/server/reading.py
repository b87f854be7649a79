"""Reading requests: the parser's callbacks, the limits on what is read, and where a door's own bytes begin."""

from __future__ import annotations

import asyncio
import logging
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NoReturn

import httptools

from kronos.dispatch.call import Origin
from kronos.server.limits import Gate, Limits
from kronos.server.routing import Doors, Page, Reply, Request, error_page

if TYPE_CHECKING:
    from kronos.server.connection import Connection
    from kronos.server.streams import BlockingStream

log = logging.getLogger(__name__)

# What the connection is used for.
HTTP: Final = 0
DISCARD: Final = 1  # what still arrives is thrown away
HELD: Final = 2  # reading is paused until a door takes over
DUPLEX: Final = 3
DETACHED: Final = 4

# Where the parser stands.
FRESH: Final = 0
BETWEEN: Final = 1
HEAD: Final = 2
BODY: Final = 3

_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_ONCE: Final = frozenset({b"content-length", b"transfer-encoding", b"host", b"authorization", b"expect"})


@dataclass(slots=True)
class Shared:
    """What the connections of one server have in common."""

    doors: Doors
    limits: Limits
    gate: Gate
    loop: asyncio.AbstractEventLoop
    https_port: int | None = None
    now: float = 0.0
    """The loop's time, about once a second."""
    date: bytes = b""
    """The Date header as a line."""
    stopping: bool = False
    plain: bool = True
    """Whether clients of TCP may come without TLS."""
    remote: bool = True
    """Whether clients may come that are not on this host."""
    connections: set[Connection] = field(default_factory=set)
    streams: set[BlockingStream] = field(default_factory=set)


class _Stop(Exception):
    """Ends the parser's work from inside one of its callbacks."""


class RequestReader(asyncio.Protocol):
    """The half of a connection that reads: whole requests go to `_accept`, those of doors that take over to `_hold`."""

    __slots__ = (
        "_shared",
        "_limits",
        "_origin",
        "_agent",
        "_parser",
        "_mode",
        "_phase",
        "_since",
        "_url",
        "_pairs",
        "_body",
        "_body_size",
        "_request",
        "_piece",
        "_begun",
        "_clean",
        "_head",
        "_head_size",
        "_again",
        "_arrived",
    )

    def __init__(self, shared: Shared, origin: Origin) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._origin = origin
        self._agent = b""
        self._parser = httptools.HttpRequestParser(self)
        self._mode = HTTP
        self._phase = FRESH
        self._since = shared.now
        # The request being read
        self._url = b""
        self._pairs: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._body_size = 0
        self._request: Request | None = None
        # The piece being parsed, for the place where the headers end
        self._piece = b""
        self._begun = 0
        self._clean = True
        self._head: bytes | None = b""
        self._head_size = 0
        self._again = b""
        self._arrived = b""

    @abstractmethod
    def _accept(self, request: Request) -> None:
        """A whole request. May raise _Stop."""

    @abstractmethod
    def _hold(self, request: Request) -> None:
        """A request whose door takes over; what followed its headers is in `_arrived`."""

    @abstractmethod
    def _refuse(self, reply: Reply) -> None:
        """Answer with this, after the replies that are due, and end the connection."""

    @abstractmethod
    def _missing(self, request: Request) -> Reply:
        """The reply to a request for which there is no door."""

    @abstractmethod
    def _continue_expected(self) -> None:
        """The client waits for leave to send its body."""

    def _parse(self, data: bytes) -> None:
        self._piece = data
        self._begun = 0
        self._clean = self._phase <= BETWEEN
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._again:
                self._parse_again()
            elif self._mode == HTTP:
                self._refuse_unparsed(error)
        except httptools.HttpParserUpgrade:
            if self._mode == HTTP:
                self._refuse(error_page(400, "an upgrade that is not known here"))
        self._piece = b""
        if self._phase == HEAD and self._mode == HTTP:
            self._keep_head(data)

    def _parse_again(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        data, self._again = self._again, b""
        self._parse(data)

    def _refuse_unparsed(self, error: httptools.HttpParserError) -> None:
        if isinstance(error, httptools.HttpParserCallbackError):
            log.error("a request could not be read", exc_info=error)
            self._refuse(error_page(500))
        else:
            # The older parser has a limit of its own on headers, a little above ours.
            self._refuse(error_page(431 if "header bytes" in str(error) else 400, str(error)))

    def _keep_head(self, data: bytes) -> None:
        """Headers are still incomplete: count them, and remember them in case that a door takes over after them."""
        if self._begun == 0:
            self._head = None if self._head is None else self._head + data
        else:
            self._head = data if self._begun == 1 and self._clean else None
            self._head_size = 0
        self._head_size += len(data)
        if self._head_size > self._limits.head:
            self._refuse(error_page(431))

    # --- the parser's side -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._mode != HTTP:
            raise _Stop
        self._begun += 1
        self._phase = HEAD
        self._since = self._shared.now
        self._url = b""
        self._pairs = []

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        self._pairs.append((name.lower(), value or b""))

    def on_headers_complete(self) -> None:
        parser = self._parser
        version = parser.get_http_version()
        headers = dict(self._pairs)
        piece, pairs = self._piece, self._pairs
        if (  # whatever is not plain is looked at; most requests spare the time
            version != "1.1"
            or self._begun != 1
            or len(piece) > self._limits.head
            or len(headers) != len(pairs)
            or len(pairs) > self._limits.headers
            or b" :" in piece
            or b"\n " in piece
            or b"transfer-encoding" in headers
        ):
            self._check_head(headers, version)
        keep_alive = version == "1.1" and parser.should_keep_alive()
        agent = headers.get(b"user-agent", b"")
        if agent != self._agent:
            self._agent = agent
            origin = self._origin
            said = agent.decode("latin-1")
            self._origin = Origin(origin.local, origin.address, origin.tls, said, origin.names)
        origin = self._origin
        if b"traceparent" in headers:
            origin = replace(origin, traceparent=headers[b"traceparent"].decode("latin-1"))
        request = Request(parser.get_method(), self._url, headers, origin, keep_alive)
        self._request = request
        try:
            request.door = self._shared.doors.find(request)
        except ValueError as error:
            self._stop(400, str(error))
        door = request.door
        if door is None:
            self._without_door(request)
        elif door.takes_over:
            self._hand_over(request)
        if b"upgrade" in headers:
            self._without_upgrade(request)
        if b"content-length" in headers or b"transfer-encoding" in headers:
            self._expect_body(request, headers)

    def on_body(self, data: bytes) -> None:
        self._body_size += len(data)
        if self._body_size > self._limits.body:
            self._stop(413, f"more than {self._limits.body} bytes")
        self._body.append(data)

    def on_message_complete(self) -> None:
        request = self._request
        if request is None or self._mode != HTTP:
            raise _Stop
        self._request = None
        self._phase = BETWEEN
        if self._body_size:
            body = self._body
            request.body = body[0] if len(body) == 1 else b"".join(body)
            self._body = []
            self._body_size = 0
        if not request.keep_alive:
            self._mode = DISCARD
        self._accept(request)

    def _check_head(self, headers: dict[bytes, bytes], version: str) -> None:
        pairs = self._pairs
        if len(headers) != len(pairs):
            self._merge(headers, pairs)
        # The older parser takes "Transfer-Encoding :" for a header of that odd name; a proxy may read it otherwise.
        if b" " in b"".join(headers):
            self._stop(400, "a space in a header's name")
        if len(pairs) > self._limits.headers:
            self._stop(431, f"more than {self._limits.headers} headers")
        if len(self._piece) + (0 if self._begun else self._head_size) > self._limits.head:
            size = len(self._url) + sum([len(name) + len(value) + 4 for name, value in pairs])
            if size > self._limits.head:
                self._stop(431, f"more than {self._limits.head} bytes")
        if version not in ("1.1", "1.0"):
            self._stop(505, "")
        encoding = headers.get(b"transfer-encoding")
        if encoding is not None:
            if b"content-length" in headers or version == "1.0":
                self._stop(400, "a body with two lengths")
            if encoding.strip().lower() != b"chunked":
                self._stop(501, "a transfer encoding other than chunked")

    def _merge(self, headers: dict[bytes, bytes], pairs: list[tuple[bytes, bytes]]) -> None:
        headers.clear()
        for name, value in pairs:
            if name not in headers:
                headers[name] = value
            elif name in _ONCE:
                self._stop(400, "a header sent twice")
            else:
                headers[name] += (b"; " if name == b"cookie" else b", ") + value

    def _expect_body(self, request: Request, headers: Mapping[bytes, bytes]) -> None:
        if int(headers.get(b"content-length", b"0")) > self._limits.body:
            self._stop(413, f"more than {self._limits.body} bytes")
        self._phase = BODY
        if b"expect" in headers and request.expects_continue:
            self._continue_expected()

    def _without_door(self, request: Request) -> None:
        reply = self._missing(request)
        if request.method not in (b"GET", b"HEAD", b"OPTIONS"):
            self._refuse(reply)  # at once: what would have been sent here may be large
            raise _Stop
        request.door = Page(lambda _request: reply)

    def _stop(self, status: int, reason: str) -> NoReturn:
        """Refuse the request being read, from inside a callback of the parser."""
        self._refuse(error_page(status, reason))
        raise _Stop

    def _hand_over(self, request: Request) -> NoReturn:
        """The headers of a request end here, and its door wants the connection: what follows them is not parsed."""
        self._arrived = self._after_head()
        self._mode = HELD
        self._hold(request)
        raise _Stop

    def _after_head(self) -> bytes:
        """What has arrived behind the headers of the request being read."""
        if self._begun == 0 and self._head is not None:
            raw = self._head + self._piece
        elif self._begun == 1 and self._clean:
            raw = self._piece
        else:
            self._stop(400, "this may not be sent before the reply to an earlier request has come")
        end = _HEAD_END.search(raw, len(raw) - len(raw.lstrip(b"\r\n")))
        if end is None:
            self._stop(400, "odd line ends")
        return raw[end.end() :]

    def _without_upgrade(self, request: Request) -> NoReturn:
        """Read the request anew as if it did not ask for an upgrade.

        No door wants the one it asks for (h2c, which some Java clients try), so it is not taken up; but the parser
        would take the request's body for the new protocol.
        """
        lines = [b"%b %b HTTP/1.1" % (request.method, self._url)]
        lines += [b"%b: %b" % pair for pair in self._pairs if pair[0] not in (b"upgrade", b"http2-settings")]
        self._again = b"\r\n".join(lines) + b"\r\n\r\n" + self._after_head()
        raise _Stop
