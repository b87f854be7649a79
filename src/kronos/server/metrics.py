"""The doors to metrics: /rrd_updates with the newest rows of many archives, and the dumps of single ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.db.records import SR, VM, Host
from kronos.metrics import documents
from kronos.metrics.archive import Archive
from kronos.metrics.keeping import Key
from kronos.rules.metrics import selection
from kronos.server.access import Access
from kronos.server.replies import reply_to_error, whole_reply
from kronos.server.routing import Doors, OnThread, Reply, Request, credentials, error_page
from kronos.server.streams import BlockingStream

PATIENCE: Final = 60.0
"""Seconds that a client may take to read on."""


def add_doors(doors: Doors, access: Access) -> None:
    """Serve each path."""
    made = MetricsDoors(access)
    for action, answer in (
        ("rrd_updates", made.updates),
        ("host_rrd", made.host),
        ("vm_rrd", made.vm),
        ("sr_rrd", made.sr),
    ):
        facts = model().http_actions[action]
        doors.add(facts["method"], facts["uri"], OnThread(made.door(action, answer)))


class MetricsDoors:
    """Answers from the archives of this host. Raises nothing: SESSION_INVALID becomes 401, RBAC_PERMISSION_DENIED 403,
    UUID_INVALID 404."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.db = access.pipeline.db
        self.machine = access.pipeline.machine

    def door(
        self, action: str, answer: Callable[[Request], Reply]
    ) -> Callable[[Request, BlockingStream], None]:
        def serve(request: Request, stream: BlockingStream) -> None:
            stream.settimeout(PATIENCE)
            try:
                with (
                    self.access.session_of(credentials(request)) as session,
                    self.access.reported(request.origin, session, request.query.get("task_id", "")),
                ):
                    self.access.require(session, action, request.query)
                    reply = answer(request)
            except Failure as failure:
                reply = reply_to_error(failure, request)
            stream.sendall(whole_reply(request, reply))

        return serve

    def updates(self, request: Request) -> Reply:
        """GET /rrd_updates?start=…: rows since then, newest first."""
        try:
            asked = selection.parsed(request.fields)
        except selection.NoStart:
            return error_page(400, "the query has no start")
        keeping = self.machine.metrics
        keys = selection.wanted(asked, sorted(keeping.measured()))
        export = selection.export(asked, keeping.archives(keys, asked.level))
        if _wants_json(request):
            return Reply(200, (documents.xport_json(export),), b"application/json")
        return Reply(200, (documents.xport_xml(export),), b"text/xml")

    def host(self, request: Request) -> Reply:
        """GET /host_rrd: this host's."""
        return self._dump(request, Key("host", self.db.get(Host, self.machine.host_ref).uuid))

    def vm(self, request: Request) -> Reply:
        """GET /vm_rrd?uuid=…, also of a VM that is halted."""
        uuid = request.query.get("uuid")
        return _unnamed() if uuid is None else self._dump(request, Key("vm", self.db.by_uuid(VM, uuid).uuid))

    def sr(self, request: Request) -> Reply:
        """GET /sr_rrd?uuid=…"""
        uuid = request.query.get("uuid")
        return _unnamed() if uuid is None else self._dump(request, Key("sr", self.db.by_uuid(SR, uuid).uuid))

    def _dump(self, request: Request, key: Key) -> Reply:
        archive: Archive | None = self.machine.metrics.archive(key)
        if archive is None:
            return error_page(404, f"nothing was measured of {key.uuid} yet")
        if _wants_json(request):
            return Reply(200, (documents.dump_json(archive),), b"application/json")
        return Reply(200, (documents.dump_xml(archive),), b"text/xml")


def _unnamed() -> Reply:
    return error_page(400, "the query has no uuid")


def _wants_json(request: Request) -> bool:
    return selection.prefers_json(request.header("accept"), request.query)
