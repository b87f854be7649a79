"""The doors of transfers: disks and VMs as streams, under a task that shows how far they are and can be cancelled.

What keeps a transfer from beginning is an HTTP error. After its 200 the task tells how it went; an export that fails
then ends with a reset connection, so that nobody takes half of it for the whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

from kronos.api.vdi import streaming
from kronos.api.vm import exporting, importing
from kronos.api.vm.new_disks import new_disks
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.datamodel.types import NULL, STRING
from kronos.db.record import Record
from kronos.db.records import SR, VDI, VM, Pool, Session
from kronos.db.records import Task as TaskRow
from kronos.dispatch import roles
from kronos.dispatch.call import Call
from kronos.dispatch.task import Task
from kronos.server.access import Access
from kronos.server.replies import CONTINUE, whole_reply
from kronos.server.routing import BULK, Doors, OnThread, Reply, Request, credentials, error_page, failure_page
from kronos.server.streams import BlockingStream
from kronos.storage.faults import as_failures
from kronos.transfer.stream import BadStream, Gone, Reader, announced

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Record)

PATIENCE: Final = 900.0
"""Seconds that a client may leave a transfer standing."""
LINGER: Final = 5.0
"""Seconds in which what a client still sends is read, so that it sees the reply."""
_SCRATCH: Final = 256 << 10
_FORBIDDEN: Final = ("IMPORT_ERROR_CANNOT_HANDLE_CHUNKED", 403)
_COMPRESSION: Final = {"true": "gzip", "gzip": "gzip", "zstd": "zstd"}


class Exchange:
    """One request at work: its query, its body as a source, and the reply as a sink."""

    def __init__(self, request: Request, stream: BlockingStream) -> None:
        self.request = request
        self._stream = stream
        self.begun = False
        self.status = 0
        """The HTTP status of a refusal, where it does not follow from the error."""

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query

    def flag(self, name: str, usual: bool = False) -> bool:
        text = self.query.get(name)
        return usual if text is None else text.lower() in ("true", "1", "")

    @property
    def is_probe(self) -> bool:
        """Whether nothing is sent: clients look with such a request where they would be redirected to."""
        return self.request.header("content-length") == "0" and not self.query.get("task_id")

    def reader(self) -> Reader:
        """The body. Raises IMPORT_ERROR for a length that is none."""
        try:
            return Reader(self, announced(self.request.header("content-length")))
        except BadStream as error:
            self.status = 400
            raise Failure("IMPORT_ERROR", str(error)) from error

    def begin(
        self, task: Task | None, content_type: str, *, length: int | None = None, filename: str = ""
    ) -> None:
        """Send the head of a good reply. Raises CLIENT_ERROR."""
        lines = ["HTTP/1.1 200 OK", "Connection: close", "Cache-Control: no-cache, no-store"]
        lines += [f"task-id: {task.ref}"] if task is not None else []
        lines += [f"Content-Type: {content_type}"]
        lines += [f"Content-Length: {length}"] if length is not None else []
        lines += [f'Content-Disposition: attachment; filename="{filename}"'] if filename else []
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.begun = True
        try:
            self.sendall((CONTINUE if self.request.expects_continue else b"") + head)
        except Gone as error:
            raise Failure("CLIENT_ERROR", str(error)) from error

    def sendall(self, data: bytes | bytearray | memoryview, /) -> None:
        try:
            self._stream.sendall(data)
        except OSError as error:
            raise Gone(f"the client has gone: {error}") from error

    def recv_into(self, buffer: memoryview, /) -> int:
        return self._stream.recv_into(buffer)

    def refuse(self, failure: Failure) -> None:
        """What a client is told of a transfer that has not begun."""
        reply: Reply = failure_page(failure.code, failure.params)
        if self.status:
            reply = error_page(self.status, f"{failure.code}: {', '.join(failure.params)}", reply.headers)
        try:
            self._stream.sendall(whole_reply(self.request, reply))
            self.end()
        except OSError as error:
            log.debug("a client left before it was refused: %s", error)

    def end(self) -> None:
        """The reply is complete; wait a moment for the client to see it."""
        scratch = memoryview(bytearray(_SCRATCH))
        deadline = time.monotonic() + LINGER
        try:
            self._stream.shutdown_write()
            while (left := deadline - time.monotonic()) > 0 and self._stream.readable(left):
                if not self._stream.recv_into(scratch):
                    return
        except OSError:
            pass  # it has what it wanted

    def break_off(self) -> None:
        self._stream.reset()

    def abort(self) -> None:
        """End what waits for the client, from another thread."""
        self._stream.abort()


Work = Callable[[Call, Exchange], str]
"""Makes a transfer; returns the task's result, XML."""


class Transfers:
    """Serves the transfers of this host."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.pipeline = access.pipeline

    def add_doors(self, doors: Doors) -> None:
        """Serve each path, with and without a slash behind it, as clients write it."""
        for action, label, work in (
            ("get_export_raw_vdi", "Exporting raw VDI", export_vdi),
            ("put_import_raw_vdi", "Importing raw VDI", import_vdi),
            ("get_export", "VM.export", export_vm),
            ("put_import", "VM.import", import_vm),
            ("get_export_metadata", "VM.export_metadata", export_metadata),
            ("put_import_metadata", "VM.metadata_import", import_metadata),
        ):
            facts = model().http_actions[action]
            door = OnThread(self.door(action, label, work), BULK)
            for path in (facts["uri"], f"{facts['uri']}/"):
                doors.add(facts["method"], path, door)

    def door(self, action: str, label: str, work: Work) -> Callable[[Request, BlockingStream], None]:
        def handle(request: Request, stream: BlockingStream) -> None:
            stream.settimeout(PATIENCE)
            exchange = Exchange(request, stream)
            try:
                with self.access.session_of(credentials(request)) as session:
                    if exchange.is_probe and request.method == b"PUT":
                        self.access.require(session, action, exchange.query)
                        exchange.begin(None, "application/octet-stream", length=0)
                    else:
                        self._run(session, exchange, action, label, work)
                exchange.end()
            except Failure as failure:
                log.info("%s: %s", request.path, failure)
                if not exchange.begun:
                    exchange.refuse(failure)
                elif request.method == b"GET" or not exchange.query.get("task_id"):
                    exchange.break_off()
                else:
                    exchange.end()  # the task tells

        return handle

    def _run(self, session: Session, exchange: Exchange, action: str, label: str, work: Work) -> None:
        pipeline, origin = self.pipeline, exchange.request.origin
        with self._task(session, exchange, label) as task:
            task.on_cancel(exchange.abort)
            message = model().messages["VM.import"]
            call = Call(pipeline.db, pipeline.machine, pipeline, origin, message, session, task)
            try:
                self.access.require(session, action, exchange.query)
                task.progress(0.0)
                with as_failures():
                    result = work(call, exchange)
                pipeline.durability.block()
                task.finish(result)
            except Failure as failure:
                task.fail(failure)
                raise
            except Exception as error:  # a defect: nobody is to wait for ever
                log.exception("%s failed", label)
                defect = Failure("INTERNAL_ERROR", f"{type(error).__name__}: {error}")
                task.fail(defect)
                raise defect from error

    @contextmanager
    def _task(self, session: Session, exchange: Exchange, label: str) -> Iterator[Task]:
        """The task that the client made for the transfer, or a new one."""
        tasks, db = self.pipeline.tasks, self.pipeline.db
        ref = exchange.query.get("task_id", "")
        if ref:
            row = db.get(TaskRow, ref)
            self._check_owner(session, row)
            task = Task(db, label, row)
            if row.status == "cancelled":
                raise Failure("TASK_CANCELLED", ref)
            if row.status != "pending" or tasks.running.setdefault(ref, task) is not task:
                raise Failure("OPERATION_NOT_ALLOWED", f"task {ref} is {row.status}, or another transfer's")
            db.write(row, {"allowed_operations": ("cancel",)})
        else:
            parent = exchange.query.get("subtask_of", NULL)
            host = self.pipeline.machine.host_ref
            known = parent if db.find(TaskRow, parent) is not None else NULL
            task = tasks.start(label, "", session.ref, host, subtask_of=known)
        try:
            yield task
        finally:
            tasks.ended(task)

    def _check_owner(self, session: Session, row: TaskRow) -> None:
        """Raises RBAC_PERMISSION_DENIED for another user's task."""
        owner = self.pipeline.db.find(Session, row.session)
        same = (
            owner is not None and bool(session.auth_user_sid) and owner.auth_user_sid == session.auth_user_sid
        )
        if row.session != session.ref and not same:
            roles.require(session, "task.destroy/any")


# --- disks -----------------------------------------------------------------------------------------------------------


def export_vdi(call: Call, exchange: Exchange) -> str:
    vdi, base = _named(call, exchange, "vdi"), None
    form = _format(exchange, sending=True)
    if exchange.query.get("base"):
        base = _named(call, exchange, "base")
    with streaming.exported(call, vdi, form, base) as export:
        exchange.begin(call.task, export.content_type, length=export.length, filename=export.filename)
        sink = _LastByteLater(exchange, export.length)
        export.send(sink)
    with streaming.told(call):
        sink.finish()
    return ""


class _LastByteLater:
    """Keeps the last byte back: a client that has all takes the disk to be free again."""

    def __init__(self, exchange: Exchange, length: int) -> None:
        self._exchange = exchange
        self._left = length
        self._kept = b""

    def sendall(self, data: bytes | bytearray | memoryview, /) -> None:
        view = memoryview(data)
        self._left -= len(view)
        if not self._left and view:
            self._kept = bytes(view[-1:])
            view = view[:-1]
        self._exchange.sendall(view)

    def finish(self) -> None:
        self._exchange.sendall(self._kept)


def import_vdi(call: Call, exchange: Exchange) -> str:
    form = _format(exchange, sending=False)
    pieces = "chunked" in exchange.query and exchange.query["chunked"] != "false"
    if pieces and form != "raw" or exchange.request.header("transfer-encoding"):
        exchange.status = 404
        what = exchange.request.header("transfer-encoding") or form
        raise Failure("INTERNAL_ERROR", f"Cannot handle encoding: {what}")
    reader = exchange.reader()
    if "vdi" in exchange.query:
        vdi = _named(call, exchange, "vdi")
        with streaming.written(call, vdi) as disk:
            exchange.begin(call.task, "application/octet-stream")
            streaming.fill(call, vdi, disk, form, reader, pieces=pieces)
        return STRING.xml(vdi.ref)
    if form != "raw" or reader.left is None:
        exchange.status = 400
        raise Failure("INTERNAL_ERROR", "Not enough info supplied to import")
    sr = _sr(call, exchange)
    record: dict[str, object] = {
        "name_label": "Imported VDI",
        "name_description": "",
        "virtual_size": reader.left,
    }
    record |= {"type": "user", "sharable": False, "read_only": False, "other_config": {}}
    with new_disks(call, f"import.{call.task.ref.rpartition(':')[2]}") as new:
        vdi = new.create(sr, record)
        with streaming.written(call, vdi) as disk:
            exchange.begin(call.task, "application/octet-stream")
            streaming.fill(call, vdi, disk, form, reader)
    return STRING.xml(vdi.ref)


def _format(exchange: Exchange, *, sending: bool) -> str:
    form = exchange.query.get("format", "raw").lower()
    try:
        streaming.check_format(form, sending=sending)
    except Failure:
        exchange.status = 404
        raise
    return form


def _named(call: Call, exchange: Exchange, name: str) -> VDI:
    """The VDI that the query names, by reference or uuid. Raises VDI_MISSING, HANDLE_INVALID, UUID_INVALID."""
    return _row(call, VDI, exchange.query.get(name, ""))


def _row(call: Call, kind: type[R], named: str) -> R:
    found = call.db.find(kind, named)
    if found is not None:
        return found
    return (
        call.db.get(kind, named)
        if named.startswith("OpaqueRef:") or not named
        else call.db.by_uuid(kind, named)
    )


def _sr(call: Call, exchange: Exchange) -> SR:
    """The SR for new disks. Raises DEFAULT_SR_NOT_FOUND [sr], SR_OPERATION_NOT_SUPPORTED [sr]."""
    named = exchange.query.get("sr_id") or exchange.query.get("sr_uuid")
    if named:
        sr = _row(call, SR, named)
    else:
        ref = next(iter(call.db.all(Pool))).default_SR
        found = call.db.find(SR, ref)
        if found is None:
            raise Failure("DEFAULT_SR_NOT_FOUND", ref)
        sr = found
    if sr.content_type == "iso":
        exchange.status = 400
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr.ref)
    return sr


# --- VMs -------------------------------------------------------------------------------------------------------------


def export_vm(call: Call, exchange: Exchange) -> str:
    vm = _row(call, VM, exchange.query.get("ref", "") or exchange.query.get("uuid", ""))
    kind = _COMPRESSION.get(exchange.query.get("use_compression", "").lower(), "")
    with exporting.exported(call, vm, kind, running=exchange.flag("preserve_power_state")) as send:
        exchange.begin(call.task, "application/octet-stream", filename="export.xva")
        send(exchange)
    return ""


def import_vm(call: Call, exchange: Exchange) -> str:
    refuse_chunked(exchange)
    sr, reader = _sr(call, exchange), exchange.reader()
    options = importing.Options(restore=exchange.flag("restore"), force=exchange.flag("force"))
    exchange.begin(call.task, "application/octet-stream")
    return _vms(importing.import_archive(call, reader, sr, options))


def refuse_chunked(exchange: Exchange) -> None:
    """Raises IMPORT_ERROR_CANNOT_HANDLE_CHUNKED."""
    if exchange.request.header("transfer-encoding"):
        code, exchange.status = _FORBIDDEN
        raise Failure(code)


def _vms(refs: tuple[str, ...]) -> str:
    return str(model().messages["VM.import"].result.xml(refs))


def export_metadata(call: Call, exchange: Exchange) -> str:
    left_out = frozenset(exchange.query.get("excluded_device_types", "").lower().split(",")) - {""}
    unknown = left_out - {"vif", "vbd", "vgpu", "vtpm"}
    if unknown:
        raise Failure("INVALID_VALUE", "excluded_device_types", ",".join(sorted(unknown)))
    if exchange.flag("all"):
        dom0 = exchange.flag("include_dom0", True)
        vms = [
            vm for vm in call.db.all(VM) if not vm.is_default_template and (dom0 or not vm.is_control_domain)
        ]
        vms = [vm for vm in vms if vm.other_config.get("default_template") != "true"]
    else:
        vms = [_row(call, VM, exchange.query.get("ref", "") or exchange.query.get("uuid", ""))]
    with call.pipeline.holds.hold_all(vms, "metadata_export", call.task):
        text = exporting.metadata(
            call, vms, snapshots=exchange.flag("export_snapshots", True), left_out=left_out
        )
    exchange.begin(call.task, "application/octet-stream", length=len(text), filename="export.xva")
    with streaming.told(call):
        exchange.sendall(text)
    return ""


def import_metadata(call: Call, exchange: Exchange) -> str:
    refuse_chunked(exchange)
    options = importing.Options(
        restore=exchange.flag("restore"),
        force=exchange.flag("force"),
        metadata=True,
        dry_run=exchange.flag("dry_run"),
        disks={name[4:]: uuid for name, uuid in exchange.query.items() if name.startswith("vdi:")},
    )
    reader = exchange.reader()
    exchange.begin(call.task, "application/octet-stream")
    return _vms(importing.import_archive(call, reader, None, options))
