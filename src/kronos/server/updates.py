"""The doors of updates: /updates tells what the lists that were fetched last have, /bundle takes a repository."""

from __future__ import annotations

import json

from kronos.api import bundles, updates
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.db.records import Pool
from kronos.dispatch.call import Call
from kronos.server.access import Access
from kronos.server.replies import reply_to_error, whole_reply
from kronos.server.routing import Doors, OnThread, Reply, Request, credentials
from kronos.server.streams import BlockingStream
from kronos.server.transfers import Exchange, Transfers, refuse_chunked


def add_doors(doors: Doors, access: Access, transfers: Transfers) -> None:
    def serve(request: Request, stream: BlockingStream) -> None:
        stream.settimeout(60.0)
        stream.sendall(whole_reply(request, _listed(request, access)))

    doors.add("GET", "/updates", OnThread(serve))
    facts = model().http_actions["put_bundle"]
    doors.add(
        facts["method"], facts["uri"], OnThread(transfers.door("put_bundle", "Sync bundle", take_bundle))
    )


def take_bundle(call: Call, exchange: Exchange) -> str:
    """PUT /bundle: a tar file of a repository, which becomes that of the enabled bundle repository."""
    refuse_chunked(exchange)
    pool, reader = call.db.all(Pool)[0], exchange.reader()
    with call.pipeline.holds.hold(pool, "sync_bundle", call.task):
        repository = bundles.enabled(call, pool)
        exchange.begin(call.task, "application/octet-stream")
        bundles.take(call, pool, repository, reader)
    return ""


def _listed(request: Request, access: Access) -> Reply:
    try:
        with access.session_of(credentials(request)) as session:
            access.require(session, "get_updates")
            hosts = [ref for ref in request.query.get("host_refs", "").split(",") if ref]
            found = updates.listing(access.pipeline.db, access.pipeline.machine, hosts)
    except Failure as failure:
        return reply_to_error(failure, request)
    return Reply(200, (json.dumps(found).encode(),), b"application/json")
