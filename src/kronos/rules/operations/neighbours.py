"""Whose allowed_operations follow from a change of a row: itself, and neighbours along its references.

A Set(Ref) that mirrors a reference counts as changed when rows join or leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import PBD, SM, SR, VBD, VDI, VM, Host_metrics, Pool


class Reach(NamedTuple):
    """When one of `fields` changes, the allowed_operations of `rows` may."""

    fields: frozenset[str]
    rows: Callable[[Database, Any], Iterable[Record]]


def _found(db: Database, *refs: str) -> Iterator[Record]:
    return (row for ref in refs if (row := db.rows.get(ref)) is not None)


def _itself(db: Database, row: Record) -> Iterable[Record]:
    return (row,) if db.rows.get(row.ref) is row else ()


def _devices(db: Database, vm: VM) -> Iterator[Record]:
    return _found(db, *vm.VBDs, *vm.VIFs, *vm.VUSBs)


def _with_devices(db: Database, vm: VM) -> Iterator[Record]:
    yield vm
    yield from _devices(db, vm)


def _of_metrics(field: str) -> Callable[[Database, Record], Iterator[Record]]:
    """From a VM's metrics to the VM and its devices."""

    def rows(db: Database, metrics: Record) -> Iterator[Record]:
        for ref in db.referrers("VM", field, metrics.ref):
            yield from _with_devices(db, db.get(VM, ref))

    return rows


def _vms_of_disk(db: Database, vdi: VDI) -> Iterator[Record]:
    for ref in vdi.VBDs:
        vbd = db.find(VBD, ref)
        if vbd is not None:
            yield from _found(db, vbd.VM)


def _of_pbd(db: Database, pbd: PBD) -> Iterator[Record]:
    """The SR, and its disks when this is its first PBD to be attached or its last to be detached."""
    sr = db.find(SR, pbd.SR)
    if sr is None:
        return
    yield sr
    attached = [
        other for ref in sr.PBDs if (other := db.find(PBD, ref)) is not None and other.currently_attached
    ]
    if not attached or attached == [pbd]:
        yield from _found(db, *sr.VDIs)


def _of_type(db: Database, driver: SM) -> Iterator[Record]:
    for ref in db.referrers("SR", "type", driver.type):
        sr = db.get(SR, ref)
        yield sr
        yield from _found(db, *sr.VDIs)


def _host_of_metrics(db: Database, metrics: Host_metrics) -> Iterator[Record]:
    return _found(db, *db.referrers("host", "metrics", metrics.ref))


def _of_availability(db: Database, pool: Pool) -> Iterator[Record]:
    """The disks that high availability stands on, which their type tells, whether or not the pool uses them."""
    disks = [ref for kind in ("ha_statefile", "redo_log") for ref in db.referrers("VDI", "type", kind)]
    return _found(db, *disks)


def _cluster_and_pool(db: Database, cluster: Record) -> Iterator[Record]:
    yield from _itself(db, cluster)
    yield from db.all(Pool)


def _reach(fields: str, rows: Callable[[Database, Any], Iterable[Record]]) -> Reach:
    return Reach(frozenset(fields.split()), rows)


_OWN_OPERATIONS = "current_operations"

REACHES: dict[str, tuple[Reach, ...]] = {
    "VM": (
        _reach(
            f"{_OWN_OPERATIONS} power_state blocked_operations is_a_template is_default_template is_a_snapshot"
            " other_config metrics guest_metrics platform is_control_domain resident_on VBDs VUSBs VGPUs VTPMs"
            " attached_PCIs appliance protection_policy snapshot_schedule",
            _itself,
        ),
        _reach(
            f"{_OWN_OPERATIONS} power_state metrics guest_metrics domain_type HVM_boot_policy is_control_domain",
            _devices,
        ),
        _reach("power_state", lambda db, vm: _found(db, *vm.VTPMs)),
        _reach("power_state appliance", lambda db, vm: _found(db, vm.appliance)),
    ),
    "VM_metrics": (_reach("nomigrate nested_virt current_domain_type", _of_metrics("metrics")),),
    "VM_guest_metrics": (
        _reach(
            "other PV_drivers_version PV_drivers_detected can_use_hotplug_vbd can_use_hotplug_vif",
            _of_metrics("guest_metrics"),
        ),
    ),
    "VBD": (
        _reach(
            f"{_OWN_OPERATIONS} unpluggable type empty currently_attached reserved VDI",
            _itself,
        ),
        _reach(
            f"{_OWN_OPERATIONS} currently_attached reserved mode VDI",
            lambda db, vbd: _found(db, vbd.VDI),
        ),
        _reach("VDI", lambda db, vbd: _found(db, vbd.VM)),
    ),
    "VIF": (_reach(f"{_OWN_OPERATIONS} currently_attached reserved network", _itself),),
    "VUSB": (
        _reach(f"{_OWN_OPERATIONS} currently_attached", _itself),
        _reach("VM", lambda db, vusb: _found(db, vusb.VM)),
    ),
    "VTPM": (_reach("VM", lambda db, vtpm: _found(db, vtpm.ref, vtpm.VM)),),
    "VGPU": (_reach("type resident_on PCI", lambda db, gpu: _found(db, gpu.VM)),),
    "VDI": (
        _reach(
            f"{_OWN_OPERATIONS} SR VBDs type is_a_snapshot cbt_enabled sharable on_boot",
            _itself,
        ),
        _reach(f"{_OWN_OPERATIONS} managed", lambda db, vdi: _found(db, *vdi.VBDs)),
        _reach("on_boot sm_config", _vms_of_disk),
        _reach("managed type SR", lambda db, vdi: _found(db, vdi.SR)),
    ),
    "PBD": (_reach("currently_attached SR", _of_pbd),),
    "SR": (
        _reach(f"{_OWN_OPERATIONS} type is_tools_sr PBDs VDIs", _itself),
        _reach("type is_tools_sr", lambda db, sr: _found(db, *sr.VDIs)),
    ),
    "SM": (_reach("type features", _of_type),),
    "VM_appliance": (_reach(f"{_OWN_OPERATIONS} VMs", _itself),),
    "host": (_reach(f"{_OWN_OPERATIONS} enabled metrics power_on_mode", _itself),),
    "host_metrics": (_reach("live", _host_of_metrics),),
    "pool": (
        _reach(f"{_OWN_OPERATIONS} ha_enabled ha_cluster_stack other_config", _itself),
        _reach(f"{_OWN_OPERATIONS} ha_enabled", _of_availability),
    ),
    "Cluster": (_reach(_OWN_OPERATIONS, _cluster_and_pool),),
    "Cluster_host": (_reach(f"{_OWN_OPERATIONS} joined", _itself),),
}
