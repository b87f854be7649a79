"""VM import: the VMs of an XVA archive, with their disks, or with disks that are here already.

What is made is noted in an intent before there is anything of it, and undone when the import fails or the daemon is
killed. Until then the VMs are there to be seen, with `import` among their operations, so that nobody starts one.
"""

from __future__ import annotations

import logging
import re
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from kronos.api.vdi import streaming
from kronos.api.vm import firmware, records
from kronos.api.vm.new_disks import NewDisks
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import SR, VBD, VDI, VIF, VM, VTPM, Network, VM_metrics
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.rules import unpacking
from kronos.rules.unpacking import Description, Object
from kronos.transfer import archive, compression, value
from kronos.transfer.archive import Streamed, UnexpectedMember, WrongChecksum
from kronos.transfer.stream import PrematureEnd, Reader

log = logging.getLogger(__name__)

INTENT: Final = "import"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Options:
    """How to import. `restore` keeps uuids and addresses; `force` lets wrong checksums pass and keeps what was made.

    With `metadata` the disks are found rather than made: by `disks`, from old uuid to new one, or where they were.
    """

    restore: bool = False
    force: bool = False
    metadata: bool = False
    dry_run: bool = False
    disks: Mapping[str, str] = field(default_factory=dict)


def import_archive(call: Call, reader: Reader, sr: SR | None, options: Options) -> tuple[str, ...]:
    """Make the VMs of an archive, their disks in `sr`, which matters only where those are made. The VMs' references.

    Raises IMPORT_ERROR [text] and its kin, IMPORT_INCOMPATIBLE_VERSION, DUPLICATE_MAC_SEED [seed],
    VM_TO_IMPORT_IS_NOT_NEWER_VERSION, VM_BAD_POWER_STATE, what VDI.create raises, TASK_CANCELLED.
    """
    with _told(call):
        plain = compression.decompressed(reader)
        description = unpacking.read(value.parse(archive.read_description(plain)))
    _check(call, description, options)
    if options.dry_run:
        _Import(call, description, options, sr).find_disks()
        return ()
    with _unfinished(call, options) as (undo, note):
        work = _Import(call, description, options, sr)
        try:
            work.make(undo, note)
            if not options.metadata:
                _signal(call)
                with _told(call):
                    total = sum(each["virtual_size"] for each in work.streamed)
                    progress = streaming.Progress(call, total)
                    archive.receive(plain, work.streams(), progress, force=options.force)
            call.task.check()
        except BaseException:
            work.release()  # what a forced import leaves is to be of use
            raise
        return work.finish()


@contextmanager
def _told(call: Call) -> Iterator[None]:
    """As `streaming.told`, with the errors that imports have of their own."""
    with streaming.told(call):
        try:
            yield
        except (PrematureEnd, UnexpectedMember, WrongChecksum) as error:
            raise _failure(error) from error


def _failure(error: Exception) -> Failure:
    if isinstance(error, PrematureEnd):
        return Failure("IMPORT_ERROR_PREMATURE_EOF")
    if isinstance(error, UnexpectedMember):
        return Failure("IMPORT_ERROR_UNEXPECTED_FILE", error.expected, error.found)
    log.warning("Import: the checksum of %s is wrong", error)
    return Failure("IMPORT_ERROR_SOME_CHECKSUMS_FAILED")


@contextmanager
def _unfinished(call: Call, options: Options) -> Iterator[tuple[ExitStack, Callable[[str, str], None]]]:
    """What is made inside stays only when the block ends well."""
    with (
        call.machine.intents.declared(f"{INTENT}-{uuids.uuid4()}", {"kind": INTENT}) as note,
        ExitStack() as undo,
    ):
        try:
            yield undo, note
        except Failure as failure:
            if options.force and failure.code.startswith("IMPORT_ERROR"):
                log.warning("A forced import failed (%s); what it made is left", failure)
                undo.pop_all()
            raise
        call.pipeline.durability.block()
        undo.pop_all()


def _signal(call: Call) -> None:
    """Tell clients that wait for it that the VMs are there, and may be given other networks."""
    row = call.task.row
    if row is not None:
        row.other_config = row.other_config | {"object_creation": "complete"}


# --- before anything is made -----------------------------------------------------------------------------------------


def _check(call: Call, description: Description, options: Options) -> None:
    vms = unpacking.virtual_machines(description)
    if not vms:
        raise unpacking.wrong("the archive holds no VM")
    for vm in vms:
        if vm["power_state"] == "Suspended" and not options.force:
            text = f"{vm['name_label']!r} is suspended: its memory cannot be resumed here. `force` imports it halted"
            raise unpacking.wrong(text)
        if options.restore:
            if not _UUID.fullmatch(vm["uuid"]):
                raise unpacking.wrong(f"{vm.id} has the uuid {vm['uuid'][:80]!r}")
            _check_seed(call, vm)
            _replaced(call, vm, options)


def _check_seed(call: Call, vm: Object) -> None:
    """Two VMs with one seed would get the same addresses. Raises DUPLICATE_MAC_SEED."""
    seed = vm["other_config"].get("mac_seed")
    if seed is None or vm["is_a_snapshot"]:
        return
    for other in call.db.all(VM):
        same = other.other_config.get("mac_seed") == seed
        if same and not other.is_a_snapshot and other.uuid != vm["uuid"]:
            raise Failure("DUPLICATE_MAC_SEED", seed)


def _replaced(call: Call, vm: Object, options: Options) -> VM | None:
    """The VM in whose place one is restored. Raises VM_BAD_POWER_STATE, VM_TO_IMPORT_IS_NOT_NEWER_VERSION."""
    ref = call.db.tables["VM"].by_uuid(vm["uuid"])
    if ref is None:
        return None
    present = call.db.get(VM, ref)
    if present.is_control_domain or present.is_default_template:
        raise Failure("OPERATION_NOT_ALLOWED", f"{ref} cannot be replaced")
    if present.power_state != "Halted":
        raise Failure("VM_BAD_POWER_STATE", ref, "halted", present.power_state.lower())
    if present.version >= vm["version"] and not options.force:
        raise Failure("VM_TO_IMPORT_IS_NOT_NEWER_VERSION", ref, str(present.version), str(vm["version"]))
    return present


# --- making ----------------------------------------------------------------------------------------------------------


class _Import:
    """One import at work: `made` are this pool's references by the archive's ids."""

    def __init__(self, call: Call, description: Description, options: Options, sr: SR | None) -> None:
        self.call = call
        self.description = description
        self.options = options
        self.sr = sr
        self.vms = unpacking.virtual_machines(description)
        self.streamed = [] if options.metadata else unpacking.streamed_disks(description)
        self.made: dict[str, str] = {}
        self._uuids: dict[str, str] = {}

    def make(self, undo: ExitStack, note: Callable[[str, str], None]) -> None:
        """Every record and empty disk."""
        self._make_networks(undo, note)
        self.find_disks()
        self._make_disks(undo, note)
        self._note_vms(note)
        for vm in self.vms:
            self._make_vm(vm, undo)
        for vbd in self.description.of("VBD"):
            self._make_vbd(vbd)
        for vif in self.description.of("VIF"):
            self._make_vif(vif)
        for vtpm in self.description.of("VTPM"):
            self._make_tpm(vtpm)
        self._link()

    def _own(self, device: Object) -> str | None:
        """The VM that a device is made for, None for one that belongs to no VM that is made."""
        self.description.get("VM", device["VM"])
        return self.made.get(device["VM"])

    def _make_networks(self, undo: ExitStack, note: Callable[[str, str], None]) -> None:
        """The networks of interfaces: those here of the same name or bridge, else new ones."""
        db, new = self.call.db, []
        wanted = {vm.id for vm in self.vms}
        for vif in self.description.of("VIF"):
            if vif["VM"] not in wanted or vif["network"] in self.made:
                continue
            network = self.description.get("network", vif["network"])
            found = db.by_name(Network, network["name_label"])
            found += [row for row in db.all(Network) if network["bridge"] and row.bridge == network["bridge"]]
            if found:
                self.made[network.id] = found[0].ref
                continue
            record = {
                name: network[name]
                for name in ("name_label", "name_description", "MTU", "other_config", "tags")
            }
            ref = self.call.invoke("network.create", record | {"bridge": "", "managed": True})
            undo.callback(self.call.invoke, "network.destroy", ref)
            new.append(db.get(Network, ref).uuid)
            note("networks", ",".join(new))
            self.made[network.id] = ref

    def find_disks(self) -> None:
        """Disks that are here already: ISO images in an SR for those, and with `metadata` all.

        Raises VDI_LOCATION_MISSING [sr, location].
        """
        streamed = {each.id for each in self.streamed}
        for vdi in self.description.of("VDI"):
            if vdi.id in streamed:
                continue
            iso = self.description.get("SR", vdi["SR"])["content_type"] == "iso"
            found = self._iso(vdi) if iso else self._present(vdi) if self.options.metadata else None
            if found is not None:
                self.made[vdi.id] = found.ref

    def _iso(self, vdi: Object) -> VDI | None:
        db = self.call.db
        libraries = [sr for sr in db.all(SR) if sr.content_type == "iso" and sr.type != "udev"]
        rows = (db.get(VDI, ref) for sr in libraries for ref in sr.VDIs)
        return next((row for row in rows if row.location == vdi["location"]), None)

    def _present(self, vdi: Object) -> VDI | None:
        db = self.call.db
        mapped = self.options.disks.get(vdi["uuid"])
        ref = db.tables["SR"].by_uuid(self.description.get("SR", vdi["SR"])["uuid"])
        if mapped is not None:
            return db.by_uuid(VDI, mapped)
        for row in (db.get(VDI, each) for each in (db.get(SR, ref).VDIs if ref is not None else ())):
            if vdi["location"] == row.location or vdi["uuid"] == row.uuid:
                return row
        if self.options.force:
            return None
        raise Failure("VDI_LOCATION_MISSING", ref or NULL, vdi["location"])

    def _make_disks(self, undo: ExitStack, note: Callable[[str, str], None]) -> None:
        new = NewDisks(self.call, undo, note)
        for vdi in self.streamed:
            if vdi["type"] != "suspend":
                assert self.sr is not None
                self.made[vdi.id] = new.create(self.sr, unpacking.vdi_fields(vdi)).ref

    def _note_vms(self, note: Callable[[str, str], None]) -> None:
        self._uuids = {vm.id: str(uuids.uuid4()) for vm in self.vms}
        note("vms", ",".join(self._uuids.values()))

    def _make_vm(self, vm: Object, undo: ExitStack) -> None:
        db = self.call.db
        hosts = {each.id: ref for each in self.description.of("host") if (ref := self._host(each))}
        fields = unpacking.vm_fields(
            vm,
            restore=self.options.restore,
            mac_seed=str(uuids.uuid4()),
            generation_id=f"{uuids.uuid4().int >> 64}:{uuids.uuid4().int >> 64}",
            hosts=hosts,
        )
        if self.call.task.row is not None:
            fields["other_config"] = fields["other_config"] | {"import_task": self.call.task.ref}
        with db.transaction():
            metrics = db.create(VM_metrics).ref
            busy = {self.call.task.ref: "import"}
            row = db.create(VM, uuid=self._uuids[vm.id], metrics=metrics, current_operations=busy, **fields)
        undo.callback(records.forget, self.call, row)
        self.made[vm.id] = row.ref

    def _host(self, host: Object) -> str | None:
        return self.call.db.tables["host"].by_uuid(host["uuid"])

    def _make_vbd(self, vbd: Object) -> None:
        vm = self._own(vbd)
        if vm is None:
            return
        vdi = NULL if vbd["empty"] else self.made.get(vbd["VDI"], NULL)
        if vdi == NULL and vbd["type"] != "CD":
            log.info("%s of an imported VM has no disk here, and is left out", vbd.id)
            return
        ref = self.call.invoke("VBD.create", unpacking.vbd_fields(vbd, vm, vdi))
        self._keep_uuid(VBD, vbd, ref)

    def _make_vif(self, vif: Object) -> None:
        vm = self._own(vif)
        if vm is None:
            return
        fields = unpacking.vif_fields(vif, vm, self.made[vif["network"]], restore=self.options.restore)
        self._keep_uuid(VIF, vif, self.call.invoke("VIF.create", fields))

    def _make_tpm(self, vtpm: Object) -> None:
        vm = self._own(vtpm)
        if vm is None:
            return
        row = self.call.db.get(VM, vm)
        if row.VTPMs:
            raise unpacking.wrong(f"{vtpm.id} is a second TPM of {vtpm['VM']}")
        made = firmware.add_tpm(self.call.db, row, unique=vtpm["is_unique"], contents=vtpm["contents"])
        made.is_protected = vtpm["is_protected"]
        self._keep_uuid(VTPM, vtpm, made.ref)

    def _keep_uuid(self, kind: type[VBD] | type[VIF] | type[VTPM], device: Object, ref: str) -> None:
        """A restored device keeps its uuid, unless one that is here has it."""
        db = self.call.db
        if not self.options.restore or not _UUID.fullmatch(device["uuid"]):
            return
        with db.transaction():
            if db.tables[device.cls].by_uuid(device["uuid"]) is None:
                db.write(db.get(kind, ref), {"uuid": device["uuid"]})

    def _link(self) -> None:
        """Snapshots and what they are of."""
        db = self.call.db
        with db.transaction():
            for vm in self.vms:
                of, parent = self.made.get(vm["snapshot_of"], NULL), self.made.get(vm["parent"], NULL)
                db.write(db.get(VM, self.made[vm.id]), {"snapshot_of": of, "parent": parent})

    # --- contents and end --------------------------------------------------------------------------------------

    def streams(self) -> list[Streamed]:
        """The disks that the archive fills."""
        found = []
        for vdi in self.streamed:
            ref = self.made.get(vdi.id)
            row = self.call.db.get(VDI, ref) if ref is not None else None
            opens = streaming.opener(self.call, row, writable=True) if row is not None else None
            found.append(Streamed(vdi.id, vdi["virtual_size"], opens))
        return found

    def finish(self) -> tuple[str, ...]:
        """The VMs are complete: those in whose place they are go, and they may be started."""
        db = self.call.db
        with db.transaction():
            if self.options.restore:
                for vm in self.vms:
                    row = db.get(VM, self.made[vm.id])
                    replaced = _replaced(self.call, vm, self.options)
                    if replaced is not None:
                        for snapshot in (db.get(VM, ref) for ref in replaced.snapshots):
                            snapshot.snapshot_of = row.ref
                        row.parent = replaced.parent
                        records.forget(self.call, replaced)
                    db.write(row, {"uuid": vm["uuid"]})
            self.release()
        vms = [vm for vm in self.vms if not vm["is_a_snapshot"]] or self.vms
        return tuple(self.made[vm.id] for vm in vms)

    def release(self) -> None:
        """The VMs are no longer being imported."""
        for vm in self.vms:
            row = self.call.db.find(VM, self.made.get(vm.id, NULL))
            if row is not None:
                left = {
                    ref: name for ref, name in row.current_operations.items() if ref != self.call.task.ref
                }
                self.call.db.write(row, {"current_operations": left})


def settle(db: Database, machine: Machine, facts: Mapping[str, str]) -> None:
    """Undo what a crash left of an import, the disks apart: VMs that were not finished, and their networks."""
    for uuid in filter(None, facts.get("vms", "").split(",")):
        ref = db.tables["VM"].by_uuid(uuid)
        if ref is not None:
            log.warning("VM %s was being imported when the daemon was killed", uuid)
            records.remove(db, machine, db.get(VM, ref))
    for uuid in filter(None, facts.get("networks", "").split(",")):
        ref = db.tables["network"].by_uuid(uuid)
        row = db.get(Network, ref) if ref is not None else None
        if row is not None and not row.VIFs and not row.PIFs:
            db.delete(row)
