"""Packing: what an archive says of VMs, and under which names.

Each object gets an id, `Ref:<n>`, that stands for its reference throughout the archive. References to what is not in
it become NULL, and what concerns this host alone is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kronos.datamodel.model import model
from kronos.datamodel.types import BOOL, DATETIME, EPOCH, NULL, STRING, RefType, SetType, escape
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import SR, VBD, VDI, VIF, VM, VTPM, Host, Network, Secret, VM_guest_metrics, VM_metrics

EXPORT_VERSION: Final = 2
# What every importer since 2013 takes: fields that it does not know it passes over.
API_MAJOR, API_MINOR = 1, 20
"""The version of the toolstack that archives bear."""

_ORDER: Final = ("host", "VM", "VM_metrics", "VM_guest_metrics", "VBD", "VIF", "network", "VDI", "SR", "VTPM")
_OF_THIS_HOST: Final = frozenset(
    "license_params external_auth_type external_auth_service_name external_auth_configuration logging"
    " supported_bootloaders cpu_configuration other_config capabilities software_version sched_policy ha_statefiles"
    " ha_network_peers tags".split()
)
_OF_SNAPSHOTS: Final = ("is_a_snapshot", "snapshot_of", "snapshots", "snapshot_time", "parent", "children")
TPM_FIELDS: Final = {
    "VM": "vTPM'_VM",
    "uuid": "vTPM'_uuid",
    "is_unique": "vTPM'_is_unique",
    "is_protected": "vTPM'_is_protected",
    "contents": "vTPM'_content",
}
"""What the parts of a TPM are called in archives."""
_OPERATIONS: Final = ("current_operations", "allowed_operations")


@dataclass
class Packed:
    """What an archive holds: an id for each reference, the rows, the disks whose content goes along, and what is in
    TPMs, by reference."""

    ids: dict[str, str] = field(default_factory=dict)
    rows: list[Record] = field(default_factory=list)
    disks: list[tuple[str, VDI]] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)

    def add(self, row: Record | None) -> bool:
        """Give a row an id; False for one that has one already, or is not there."""
        if row is None or row.ref in self.ids:
            return False
        self.ids[row.ref] = f"Ref:{len(self.ids)}"
        self.rows.append(row)
        return True


def pack(
    db: Database, vms: Iterable[VM], *, snapshots: bool = False, left_out: frozenset[str] = frozenset()
) -> Packed:
    """What an archive of these VMs holds; `left_out` are kinds of devices, in lower case (`vif`, `vbd`)."""
    packed = Packed()
    for vm in vms:
        _pack_vm(db, packed, vm, snapshots=snapshots, left_out=left_out)
    return packed


def _pack_vm(db: Database, packed: Packed, vm: VM, *, snapshots: bool, left_out: frozenset[str]) -> None:
    if not packed.add(vm):
        return
    if "vif" not in left_out:
        for vif in (db.get(VIF, ref) for ref in vm.VIFs):
            packed.add(vif)
            packed.add(db.find(Network, vif.network))
    if "vbd" not in left_out:
        for vbd in (db.get(VBD, ref) for ref in vm.VBDs):
            _pack_vbd(db, packed, vbd)
    if "vtpm" not in left_out:
        for vtpm in (db.get(VTPM, ref) for ref in vm.VTPMs):
            packed.add(vtpm)
            secret = db.find(Secret, vtpm.contents)
            packed.secrets[vtpm.ref] = secret.value if secret is not None else ""
    packed.add(db.find(VM_metrics, vm.metrics))
    packed.add(db.find(VM_guest_metrics, vm.guest_metrics))
    packed.add(db.find(Host, vm.resident_on))
    packed.add(db.find(Host, vm.affinity))
    if snapshots:
        for other in (*vm.snapshots, vm.parent):
            found = db.find(VM, other)
            if found is not None:
                _pack_vm(db, packed, found, snapshots=False, left_out=left_out)


def _pack_vbd(db: Database, packed: Packed, vbd: VBD) -> None:
    packed.add(vbd)
    vdi = db.find(VDI, vbd.VDI)
    if vbd.empty or vdi is None or not packed.add(vdi):
        return
    sr = db.get(SR, vdi.SR)
    packed.add(sr)
    if vbd.type != "CD" and sr.content_type != "iso":
        packed.disks.append((packed.ids[vdi.ref], vdi))


def describe(
    packed: Packed, host: Host, *, date: str, snapshots: bool = False, running: bool = False
) -> bytes:
    """The archive's description, an XML-RPC value. `running` keeps power states and what is attached."""
    ordered = sorted(packed.rows, key=lambda row: _ORDER.index(row.kind.name))
    objects = []
    for row in ordered:
        if isinstance(row, VTPM):
            shown = _tpm(packed, row)
        else:
            record = _record(packed, row, snapshots=snapshots, running=running)
            shown = model().classes[row.kind.name].record.xml(record)
        names = {"class": STRING.xml(row.kind.name), "id": STRING.xml(packed.ids[row.ref])}
        objects.append(_struct(names | {"snapshot": shown}))
    whole = {
        "version": _version(host, date),
        "objects": f"<value><array><data>{''.join(objects)}</data></array></value>",
    }
    return _struct(whole).encode()


def _tpm(packed: Packed, row: VTPM) -> str:
    """A TPM as archives show it: not as its record, whose contents would be a reference."""
    return _struct(
        {
            TPM_FIELDS["VM"]: STRING.xml(packed.ids[row.VM]),
            TPM_FIELDS["uuid"]: STRING.xml(row.uuid),
            TPM_FIELDS["is_unique"]: BOOL.xml(row.is_unique),
            TPM_FIELDS["is_protected"]: BOOL.xml(row.is_protected),
            TPM_FIELDS["contents"]: STRING.xml(packed.secrets[row.ref]),
        }
    )


def _version(host: Host, date: str) -> str:
    software = host.software_version
    texts = {
        "hostname": host.hostname,
        "date": date,
        "product_version": software.get("product_version", ""),
        "product_brand": software.get("product_brand", ""),
        "build_number": software.get("build_number", ""),
    }
    numbers = {"xapi_major": API_MAJOR, "xapi_minor": API_MINOR, "export_vsn": EXPORT_VERSION}
    members = {name: STRING.xml(text) for name, text in texts.items()}
    return _struct(
        members | {name: f"<value><int>{number}</int></value>" for name, number in numbers.items()}
    )


def _struct(members: Mapping[str, str]) -> str:
    inner = "".join(f"<member><name>{escape(name)}</name>{value}</member>" for name, value in members.items())
    return f"<value><struct>{inner}</struct></value>"


def _record(packed: Packed, row: Record, *, snapshots: bool, running: bool) -> dict[str, Any]:
    """A row as the archive shows it."""
    fields = row.kind.record.fields
    record = {name: _renamed(packed.ids, fields[name], value) for name, value in row.snapshot().items()}
    cls = row.kind.name
    dropped: list[str] = [name for name in _OPERATIONS if name in fields]
    if cls == "host":
        dropped += [name for name in _OF_THIS_HOST if name in fields]
    if cls == "VM" and not snapshots:
        dropped += _OF_SNAPSHOTS
    if cls in ("VBD", "VIF") and not running:
        dropped.append("currently_attached")
    record |= {name: fields[name].zero for name in dropped}
    if cls == "VM":
        if not running:
            record["power_state"] = "Halted"
        if not snapshots:
            record["snapshot_time"] = DATETIME.check(EPOCH)
    return record


def _renamed(ids: Mapping[str, str], kind: Any, value: Any) -> Any:
    if isinstance(kind, RefType):
        return ids.get(value, NULL)
    if isinstance(kind, SetType) and isinstance(kind.item, RefType):
        return tuple(ids[each] for each in value if each in ids)
    return value
