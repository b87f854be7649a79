"""The doors at which a host's state goes out and in: its database, backups, reports and logs."""

from __future__ import annotations

from typing import Final

from kronos.api.host import report
from kronos.api.pool import recovery
from kronos.api.vdi import streaming
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.dispatch.call import Call
from kronos.server.replies import CONTINUE
from kronos.server.routing import Doors, OnThread
from kronos.server.transfers import Exchange, Transfers, Work

BINARY: Final = "application/octet-stream"


def send_database(call: Call, exchange: Exchange) -> str:
    """GET /pool/xmldbdump."""
    exchange.begin(call.task, "text/xml", filename="database.xml")
    recovery.send_database(call, exchange)
    return ""


def take_database(call: Call, exchange: Exchange) -> str:
    """PUT /pool/xmldbdump; `dry_run=true` only looks whether it could be taken. Raises RESTORE_…."""
    body = recovery.body_of(exchange, _length(exchange))
    _go_on(exchange)
    recovery.restore_database(call, body, dry_run=exchange.flag("dry_run"))
    exchange.begin(call.task, BINARY, length=0)
    return ""


def send_backup(call: Call, exchange: Exchange) -> str:
    """GET /host_backup."""
    exchange.begin(call.task, "application/x-tar", filename=f"{_named(call)}-backup.tar")
    recovery.send_backup(call, exchange)
    return ""


def take_backup(call: Call, exchange: Exchange) -> str:
    """PUT /host_restore. Raises RESTORE_…."""
    body = recovery.body_of(exchange, _length(exchange))
    _go_on(exchange)
    recovery.restore_backup(call, body)
    exchange.begin(call.task, BINARY, length=0)
    return ""


def send_report(call: Call, exchange: Exchange) -> str:
    """GET /system-status: `entries` names what is told, `output` is tar, tar.bz2 or zip; `list` lists the entries."""
    if "list" in exchange.query:
        text = report.capabilities().encode()
        exchange.begin(call.task, "application/xml", length=len(text))
        exchange.sendall(text)
        return ""
    form = exchange.query.get("output", "tar")
    form = form if form in report.TYPES else "tar"
    name = f"system_status-{_named(call)}.{form}"
    exchange.begin(call.task, report.TYPES[form], filename=name)
    entries = report.wanted(exchange.query.get("entries", ""))
    report.write_archive(call, entries, form, recovery.OutOf(exchange))
    return ""


def send_logs(call: Call, exchange: Exchange) -> str:
    """GET /host_logs_download: the daemon's and the kernel's log in a tar file."""
    exchange.begin(call.task, report.TYPES["tar.bz2"], filename=f"{_named(call)}-logs.tar.bz2")
    entries = [report.ENTRIES[key] for key in ("xapi-log", "system-logs")]
    report.write_archive(call, entries, "tar.bz2", recovery.OutOf(exchange))
    return ""


def _named(call: Call) -> str:
    """The host's name as it may stand in a header."""
    name = call.host.hostname
    return (
        "".join(letter for letter in name if letter.isascii() and (letter.isalnum() or letter in ".-"))
        or "host"
    )


def _go_on(exchange: Exchange) -> None:
    """Tell a client that waits for it to send its body."""
    if exchange.request.expects_continue:
        exchange.sendall(CONTINUE)


def _length(exchange: Exchange) -> int | None:
    """The length that the client announces. Raises INTERNAL_ERROR with HTTP's 400 for one that does not."""
    length = exchange.request.header("content-length")
    if not (length.isascii() and length.isdigit() and len(length) < 13):
        exchange.status = 400
        raise Failure("INTERNAL_ERROR", "the length of the body is missing")
    return int(length)


def add_doors(doors: Doors, transfers: Transfers) -> None:
    """Serve each path."""
    for action, label, work in WORKS:
        facts = model().http_actions[action]
        doors.add(facts["method"], facts["uri"], OnThread(transfers.door(action, label, _told(work))))


def _told(work: Work) -> Work:
    """A work whose client may go away in the middle."""

    def done(call: Call, exchange: Exchange) -> str:
        with streaming.told(call):
            return work(call, exchange)

    return done


WORKS: Final[tuple[tuple[str, str, Work], ...]] = (
    ("get_pool_xml_db_sync", "Dumping database as XML", send_database),
    ("put_pool_xml_db_sync", "Reading database as XML", take_database),
    ("get_host_backup", "Downloading host backup", send_backup),
    ("put_host_restore", "Uploading host backup", take_backup),
    ("get_system_status", "Retrieving system status", send_report),
    ("get_host_logs_download", "Downloading host logs", send_logs),
)
