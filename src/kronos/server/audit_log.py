"""The door to the audit log: everything since a moment, as text."""

from __future__ import annotations

import re
from typing import Final

from kronos.datamodel.errors import Failure
from kronos.server.access import Access
from kronos.server.replies import reply_to_error, whole_reply
from kronos.server.routing import Doors, OnThread, Request, credentials
from kronos.server.streams import BlockingStream
from kronos.system.audit_file import AuditFile

PATH: Final = "/audit_log"
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
    b"cache-control: no-cache, no-store\r\nconnection: close\r\n\r\n"
)
_MOMENT: Final = re.compile(r"\d{4}-?\d\d-?\d\d(?:[T ]\d\d(?::\d\d){0,2}(?:\.\d{1,3})?)?Z?")


def add_doors(doors: Doors, access: Access, audit: AuditFile) -> None:
    """Serve the log on its path."""
    doors.add("GET", PATH, OnThread(AuditDoor(access, audit).serve))


class AuditDoor:
    """Sends the log, those parts of it that were put aside first."""

    def __init__(self, access: Access, audit: AuditFile) -> None:
        self.access = access
        self.audit = audit

    def serve(self, request: Request, stream: BlockingStream) -> None:
        """`since` is a moment, `20261121T17:40:00.123` or `2026-11-21T17:40:00.123Z` or the beginning of one.

        Raises nothing: SESSION_INVALID becomes 401, RBAC_PERMISSION_DENIED 403.
        """
        try:
            with (
                self.access.session_of(credentials(request)) as session,
                self.access.reported(request.origin, session, request.query.get("task_id", "")),
            ):
                self.access.require(session, "get_audit_log", request.query)
                since = log_moment(request.query.get("since", ""))
                stream.sendall(_HEAD)
                for piece in self.audit.since(since):
                    stream.sendall(piece)
        except Failure as failure:
            stream.sendall(whole_reply(request, reply_to_error(failure, request)))


def log_moment(untrusted_since: str) -> str:
    """A moment as the log's lines begin; an empty one, or what is none, is the beginning of time."""
    return re.sub("[-Z]", "", untrusted_since).replace(" ", "T") if _MOMENT.fullmatch(untrusted_since) else ""
