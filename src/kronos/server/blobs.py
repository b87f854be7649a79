"""The doors at /blob: a blob's bytes out and in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Final

from kronos.api import blob as blobs
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import now
from kronos.db.records import Blob
from kronos.server.access import Access
from kronos.server.replies import CONTINUE, reply_bytes, reply_to_error, whole_reply
from kronos.server.routing import Doors, OnThread, Reply, Request, credentials, error_page
from kronos.server.streams import BlockingStream

MOST: Final = 1 << 30
"""Bytes that one blob may have: it is kept below the daemon's own state, which is not to be filled."""
STEP: Final = 256 << 10
PATIENCE: Final = 60.0
"""Seconds that a client may take for a step."""

_SAFE: Final = (
    # A public blob is anybody's bytes under our name: a browser is to run nothing of it.
    ("Content-Security-Policy", "sandbox"),
    ("X-Content-Type-Options", "nosniff"),
)


class Refusal(Exception):
    """A request that XenAPI has no error for: an HTTP status with a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def add_doors(doors: Doors, access: Access) -> None:
    served = Blobs(access)
    doors.add("GET", "/blob", OnThread(served.get))
    doors.add("PUT", "/blob", OnThread(served.put))


class Blobs:
    """Serves blobs by `ref` or `uuid`."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.db = access.pipeline.db
        self.machine = access.pipeline.machine

    def get(self, request: Request, stream: BlockingStream) -> None:
        """Send a blob's bytes; of a public one to anybody."""

        def serve() -> None:
            row = self._row(request)
            if row.public:
                self._send(row, request, stream)
                return
            with self._transfer(request):
                self._send(row, request, stream)

        _answered(request, stream, serve)

    def put(self, request: Request, stream: BlockingStream) -> None:
        """Replace a blob's bytes by the request's body, whose length has to be given."""

        def serve() -> None:
            with self._transfer(request, "put_blob"):
                row = self._row(request)
                length = _length(request)
                self._require_storage()
                if request.expects_continue:
                    stream.sendall(CONTINUE)
                self._store(row, _body(stream, length))
            stream.sendall(whole_reply(request, Reply(200)))

        _answered(request, stream, serve)

    def _row(self, request: Request) -> Blob:
        """Raises Refusal, HANDLE_INVALID, UUID_INVALID."""
        ref, uuid = request.query.get("ref"), request.query.get("uuid")
        if ref:
            return self.db.get(Blob, ref)
        if uuid:
            return self.db.by_uuid(Blob, uuid)
        raise Refusal(400, "ref or uuid is missing")

    def _require_storage(self) -> None:
        """Raises Refusal where this host's binary storage is off."""
        if not self.machine.keeps_blobs:
            raise Refusal(404, "this host keeps no blobs: its binary storage is off")

    def _send(self, row: Blob, request: Request, stream: BlockingStream) -> None:
        self._require_storage()
        try:
            file = blobs.files(self.machine).path(row.uuid).open("rb")
        except FileNotFoundError:
            raise Refusal(404, "nothing has been put into this blob yet") from None
        with file:
            size = file.seek(0, 2)
            file.seek(0)
            request.keep_alive = False
            date = b"Date: %b\r\n" % formatdate(usegmt=True).encode()
            reply = Reply(200, (), _content_type(row.mime_type), _SAFE)
            stream.settimeout(PATIENCE)
            stream.sendall(b"".join(reply_bytes(request, reply, size, date)))
            while part := file.read(STEP):
                stream.sendall(part)

    def _store(self, row: Blob, parts: Iterator[bytes]) -> None:
        files = blobs.files(self.machine)
        try:
            size = files.write(row.uuid, parts)
        except (ConnectionError, TimeoutError):  # the client's side
            raise
        except OSError as error:
            raise Failure("INTERNAL_ERROR", f"The blob was not stored: {error.strerror}") from error
        with self.db.transaction():
            exists = self.db.find(Blob, row.ref) is not None
            kept = exists and self.machine.keeps_blobs
            if kept:
                self.db.write(row, {"size": size, "last_updated": now()})
        if not kept:  # it was destroyed meanwhile, or all of them were
            files.remove(row.uuid)
            self._require_storage()
            raise Failure("HANDLE_INVALID", "blob", row.ref)
        self.access.pipeline.durability.block()

    @contextmanager
    def _transfer(self, request: Request, action: str = "") -> Iterator[None]:
        """A transfer of somebody who may; the task that `task_id` names ends with it.

        Raises SESSION_INVALID, SESSION_AUTHENTICATION_FAILED, RBAC_PERMISSION_DENIED.
        """
        task = request.query.get("task_id", "")
        with (
            self.access.session_of(credentials(request)) as session,
            self.access.reported(request.origin, session, task),
        ):
            if action:
                self.access.require(session, action, request.query)
            yield


def _answered(request: Request, stream: BlockingStream, serve: Callable[[], None]) -> None:
    """Serve a request; what is refused is answered, as long as nothing else has been."""
    try:
        serve()
    except Refusal as refusal:
        stream.sendall(whole_reply(request, error_page(refusal.status, str(refusal))))
    except Failure as failure:
        stream.sendall(whole_reply(request, reply_to_error(failure, request)))


def _length(request: Request) -> int:
    """How many bytes the body has. Raises Refusal."""
    untrusted = request.header("content-length")
    if not (untrusted.isascii() and untrusted.isdigit()):
        raise Refusal(411, "the length of the body is missing")
    if len(untrusted) > 12 or int(untrusted) > MOST:
        raise Refusal(413, f"a blob has {MOST} bytes at most")
    return int(untrusted)


def _body(stream: BlockingStream, length: int) -> Iterator[bytes]:
    """The request's body. Raises ConnectionError where the client goes before its end, TimeoutError where it stops."""
    stream.settimeout(PATIENCE)
    left = length
    while left:
        part = stream.recv(min(STEP, left))
        if not part:
            raise ConnectionError("the client has gone")
        left -= len(part)
        yield part


def _content_type(untrusted: str) -> bytes:
    """A blob's type as a header may carry it."""
    plain = untrusted.isascii() and untrusted.isprintable() and 0 < len(untrusted) < 256
    return untrusted.encode() if plain else blobs.MIME_TYPE.encode()
