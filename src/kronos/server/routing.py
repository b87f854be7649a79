"""Requests, replies, and the table of doors: which method and path is served by what."""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from kronos.dispatch.call import Origin

if TYPE_CHECKING:
    from kronos.server.streams import BlockingStream, Duplex

V = TypeVar("V")

MAX_QUERY_FIELDS: Final = 256
MAX_REASON: Final = 1024
BULK: Final = 10
"""Niceness of who moves whole disks: where processors are full, calls go first (docs/performance.md)."""


class Request:
    """One HTTP request, its headers by lower-case name. `body` is whole; for doors that take over, it is empty."""

    __slots__ = (
        "method",
        "target",
        "headers",
        "origin",
        "keep_alive",
        "body",
        "door",
        "_path",
        "_query",
        "_fields",
    )

    def __init__(
        self, method: bytes, target: bytes, headers: Mapping[bytes, bytes], origin: Origin, keep_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.origin = origin
        self.keep_alive = keep_alive
        self.body = b""
        self.door: Door | None = None
        self._path: str | None = None
        self._query: dict[str, str] = {}
        self._fields: list[tuple[str, str]] = []

    @property
    def path(self) -> str:
        """The path alone, decoded. Raises ValueError for a target that cannot be read, as `query` does."""
        if self._path is None:
            self._split()
        assert self._path is not None
        return self._path

    @property
    def query(self) -> Mapping[str, str]:
        """The query's fields, decoded; of two with one name the last counts."""
        if self._path is None:
            self._split()
        return self._query

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """The same in their order, for doors that take a name several times."""
        if self._path is None:
            self._split()
        return self._fields

    def _split(self) -> None:
        target = self.target.decode("latin-1")
        if not target.startswith("/"):  # a proxy's form, http://host/path
            split = urlsplit(target)
            target = (split.path or "/") + (f"?{split.query}" if split.query else "")
        path, _, query = target.partition("#")[0].partition("?")
        self._fields = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        self._query = dict(self._fields)
        self._path = unquote(path)

    def header(self, name: str) -> str:
        """A header's value, or "" when it was not sent."""
        return self.headers.get(name.lower().encode(), b"").decode("latin-1")

    @property
    def expects_continue(self) -> bool:
        """The client waits for `CONTINUE` before it sends its body."""
        return self.headers.get(b"expect", b"").lower() == b"100-continue"

    @property
    def cookies(self) -> Mapping[str, str]:
        pairs = (each.strip().partition("=") for each in self.header("cookie").split(";"))
        return {name: unquote(value.strip('"')) for name, _, value in pairs if name}


@dataclass(slots=True)
class Reply:
    """An HTTP reply. Its body is a sequence of parts, written one after the other without being joined."""

    status: int = 200
    body: tuple[bytes, ...] = ()
    content_type: bytes = b"text/html"
    headers: tuple[tuple[str, str], ...] = ()


class Redirect(Exception):
    """Another place has to serve this: 302 with its URL."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a request to a door claims to be; nothing of it has been checked."""

    origin: Origin
    session: str = ""
    """Reference of a session, from the query or a cookie."""
    username: str = ""
    password: str = ""
    """From HTTP basic authentication."""
    pool_secret: str = ""

    @property
    def given(self) -> bool:
        return bool(self.origin.local or self.session or self.username or self.pool_secret)


def credentials(request: Request) -> Credentials:
    """What a request to a door brings to be recognised by, as xapi's doors accept it.

    A browser adds cookies and basic authentication by itself, to requests made by any page. On a request that
    another site's page made (its Origin is not this host), only what the page put in the query counts.
    """
    session = request.query.get("session_id", "")
    if _is_cross_site(request):
        return Credentials(request.origin, session)
    cookies = request.cookies
    username, password = _basic(request.header("authorization"))
    return Credentials(
        request.origin,
        session or cookies.get("session_id", ""),
        username,
        password,
        cookies.get("pool_secret", ""),
    )


def _is_cross_site(request: Request) -> bool:
    origin = request.header("origin")
    if not origin:
        return request.header("sec-fetch-site") == "cross-site"
    return origin.partition("://")[2].lower() != request.header("host").lower()


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        username, _, password = b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return username, password


class Later(Generic[V]):
    """A reply that `reply` makes of a future once it is done, without a task that waits for it.

    `reply` is not called for a future that was cancelled.
    """

    __slots__ = ("future", "reply")

    def __init__(self, future: asyncio.Future[V], reply: Callable[[asyncio.Future[V]], Reply]) -> None:
        self.future = future
        self.reply = reply

    def __await__(self) -> Generator[Any, None, Reply]:
        try:
            yield from self.future
        except Exception:  # noqa: BLE001, S110  # `reply` finds it in the future
            pass
        return self.reply(self.future)


PageHandler = Callable[[Request], Reply | Awaitable[Reply]]
"""Answers from the loop; what takes longer than a millisecond is awaited."""
ThreadHandler = Callable[[Request, "BlockingStream"], None]
"""Gets the connection, on a thread of its own, before anything of the reply or the body has moved."""
DuplexHandler = Callable[[Request, "Duplex"], Awaitable[None]]
"""Gets the connection, on the loop, before anything of the reply has moved."""


@dataclass(frozen=True, slots=True)
class Page:
    handle: PageHandler
    takes_over: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class OnThread:
    """`niceness` is how far its thread, with the programs that it starts, gives way to other work of this host."""

    handle: ThreadHandler
    niceness: int = 0
    takes_over: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class OnLoop:
    handle: DuplexHandler
    takes_over: ClassVar[bool] = True


Door = Page | OnThread | OnLoop
_Entry = tuple[Door, list[int]]


class Doors:
    """The table from method and path to door. A path that ends in `/*` holds for everything below it."""

    def __init__(self, tallies: dict[tuple[str, str], list[int]] | None = None) -> None:
        """`tallies` is where requests are counted: by method and path how many came, and how many of those ended their
        connection."""
        self.tallies = {} if tallies is None else tallies
        self._exact: dict[tuple[bytes, str], _Entry] = {}
        self._below: dict[tuple[bytes, str], _Entry] = {}
        self._raw: dict[tuple[bytes, bytes], _Entry] = {}

    def add(self, method: str, path: str, door: Door) -> None:
        """Serve a path. Raises ValueError when it is served already."""
        below = path.endswith("/*")
        table = self._below if below else self._exact
        key = (method.encode(), path[:-1] if below else path)
        if key in table:
            raise ValueError(f"{method} {path} is served twice")
        table[key] = entry = door, self.tallies.setdefault((method, path), [0, 0])
        if not below:
            self._raw[key[0], path.encode()] = entry

    def find(self, request: Request) -> Door | None:
        """The door of a request; HEAD goes to the page that answers GET. Raises ValueError for an unreadable target."""
        method = b"GET" if request.method == b"HEAD" else request.method
        entry = self._raw.get((method, request.target))
        if entry is None:
            entry = self._find_path(method, request)
            if entry is None:
                return None
        door, tally = entry
        if door.takes_over and request.method == b"HEAD":
            return None
        tally[0] += 1
        if door.takes_over or not request.keep_alive:
            tally[1] += 1
        return door

    def _find_path(self, method: bytes, request: Request) -> _Entry | None:
        path = request.path
        entry = self._exact.get((method, path))
        if entry is None and self._below:
            start = path.rfind("/")
            while entry is None and start >= 0:
                entry = self._below.get((method, path[: start + 1]))
                start = path.rfind("/", 0, start)
        return entry

    def methods(self, path: str) -> list[str]:
        """Methods under which a path itself is served."""
        return sorted(method.decode() for method, each in self._exact if each == path)


def error_page(status: int, reason: str = "", headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """A plain page that names an HTTP status, with a reason for the client's developer."""
    phrase = HTTPStatus(status).phrase
    shown = reason[:MAX_REASON].replace("&", "&amp;").replace("<", "&lt;")
    text = f"<html><head><title>{status} {phrase}</title></head><body><h1>{phrase}</h1><p>{shown}</p></body></html>"
    return Reply(status, (text.encode("utf-8", "replace"),), headers=headers)


_STATUS_OF_FAILURE: Final[Mapping[str, int]] = {
    "SESSION_INVALID": 401,
    "SESSION_AUTHENTICATION_FAILED": 401,
    "SESSION_AUTHORIZATION_FAILED": 403,
    "RBAC_PERMISSION_DENIED": 403,
    "PERMISSION_DENIED": 403,
    "HANDLE_INVALID": 404,
    "UUID_INVALID": 404,
}


def failure_page(code: str, params: tuple[str, ...]) -> Reply:
    """The HTTP form of a XenAPI error, for doors other than the RPC ones."""
    status = _STATUS_OF_FAILURE.get(code, 500)
    headers = (("WWW-Authenticate", 'Basic realm="XenAPI"'),) if status == 401 else ()
    return error_page(status, f"{code}: {', '.join(params)}", headers)
