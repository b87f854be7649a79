"""VM clone, copy, snapshot, revert and provision: a VM made from another, or from what a template asks for."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable

from kronos.api.vm import images, state
from kronos.api.vm.lifecycle import power_off, throw_away
from kronos.api.vm.new_disks import NewDisks, new_disks
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL, now
from kronos.db.records import SR, VBD, VDI, VIF, VM, VBD_metrics, VM_metrics
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.network.mac import mac_of_seed
from kronos.rules import cloning, provisioning
from kronos.rules.cloning import Kind

MakeDisk = Callable[[NewDisks, VDI], VDI]


@message("VM.clone", holds="clone")
def clone(call: Call, vm: str, new_name: str) -> str:
    """A copy of a VM whose disks share what is common with the original's."""
    return duplicate(call, call.db.get(VM, vm), new_name, "clone", NewDisks.clone)


@message("VM.copy", holds="copy")
def copy(call: Call, vm: str, new_name: str, sr: str) -> str:
    """A copy of a VM with disks of its own, in one SR or, for NULL, each in its original's."""
    into = call.db.find(SR, sr)
    if sr != NULL and into is None:
        raise Failure("HANDLE_INVALID", "SR", sr)

    def copied(disks: NewDisks, vdi: VDI) -> VDI:
        return disks.copy(vdi, into or call.db.get(SR, vdi.SR))

    return duplicate(call, call.db.get(VM, vm), new_name, "copy", copied)


@message("VM.snapshot", holds="snapshot")
def snapshot(call: Call, vm: str, new_name: str, ignore_vdis: tuple[str, ...]) -> str:
    """A VM's disks and settings as they are now; `ignore_vdis` are left out of it."""
    source = call.db.get(VM, vm)
    return duplicate(call, source, new_name, "snapshot", NewDisks.snapshot, ignore_vdis)


def duplicate(
    call: Call, source: VM, name: str, kind: Kind, make_disk: MakeDisk, left_out: tuple[str, ...] = ()
) -> str:
    """Make a VM from another: first the disks, then all records in one step. A crash in between leaves nothing."""
    db = call.db
    with new_disks(call, str(uuids.uuid4())) as made_disks:
        made: dict[str, str] = {}
        sources = [db.get(VBD, ref) for ref in source.VBDs]
        disks = [vbd for vbd in sources if vbd.type == "Disk" and vbd.VDI not in (NULL, *left_out)]
        for count, vbd in enumerate(disks):
            made[vbd.ref] = make_disk(made_disks, db.get(VDI, vbd.VDI)).ref
            call.task.progress((count + 1) / (len(disks) + 1))
        kept = [vbd for vbd in sources if vbd not in disks or vbd.ref in made]
        return _records(call, source, name, kind, kept, made)


def _records(call: Call, source: VM, name: str, kind: Kind, vbds: list[VBD], made: dict[str, str]) -> str:
    db = call.db
    seed = str(uuids.uuid4())
    fields = cloning.cloned_vm(
        source.stored(),
        source.ref,
        kind,
        name,
        mac_seed=seed,
        generation_id=f"{uuids.uuid4().int >> 64}:{uuids.uuid4().int >> 64}",
        time=now(),
    )
    if kind in ("clone", "copy") and fields["power_state"] == "Suspended":
        fields["power_state"] = "Halted"
    with db.transaction():
        vm = db.create(VM, **fields, domid=-1, metrics=db.create(VM_metrics, install_time=now()).ref)
        for vbd in vbds:
            vdi = made.get(vbd.ref, vbd.VDI if vbd.type == "CD" else NULL)
            if vbd.type == "Disk" and vdi == NULL:
                continue
            db.create(
                VBD, **cloning.cloned_vbd(vbd.stored(), vm.ref, vdi), metrics=db.create(VBD_metrics).ref
            )
        for vif in (db.get(VIF, each) for each in source.VIFs):
            mac = mac_of_seed(seed, int(vif.device))
            db.create(VIF, **cloning.cloned_vif(vif.stored(), vm.ref, kind, mac=mac))
        if kind == "snapshot":
            source.parent = vm.ref
    return vm.ref


@message("VM.provision", holds="provision")
def provision(call: Call, vm: str) -> None:
    """Turn a clone of a template into a VM: make the disks that it asks for.

    Raises UUID_INVALID ["SR", uuid] where a disk names no SR, PERMISSION_DENIED for a post-install script.
    """
    row = call.db.get(VM, vm)
    if "postinstall" in row.other_config:
        # Such a script runs as root on the host: only an administrator's directory could allow one, and there is none.
        raise Failure("PERMISSION_DENIED", "Post-install scripts are not allowed on this host")
    wanted = provisioning.parse(row.other_config["disks"]) if "disks" in row.other_config else []
    with new_disks(call, row.uuid) as made_disks:
        made: list[VDI] = []
        for count, disk in enumerate(wanted):
            made.append(_provision_disk(call, row, disk, made_disks))
            if count == 0 and images.is_asked_for(row):
                images.put_on(call, made[0])
            call.task.progress((count + 1) / (len(wanted) + 1))
        _provisioned(call, row, list(zip(wanted, made, strict=True)))


def _provision_disk(call: Call, vm: VM, disk: provisioning.ProvisionedDisk, made_disks: NewDisks) -> VDI:
    sr = call.db.by_uuid(SR, disk.sr)
    record = {
        "name_label": disk.device,
        "name_description": "Created by template provisioner",
        "virtual_size": disk.size,
        "type": disk.type,
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "sm_config": {"_sm_vm_hint": vm.uuid},
    }
    return made_disks.create(sr, record)


def _provisioned(call: Call, vm: VM, disks: list[tuple[provisioning.ProvisionedDisk, VDI]]) -> None:
    db = call.db
    with db.transaction():
        for disk, vdi in disks:
            db.create(
                VBD,
                VM=vm.ref,
                VDI=vdi.ref,
                userdevice=disk.device,
                bootable=disk.bootable,
                mode="RW",
                type="Disk",
                unpluggable=disk.type != "system",
                other_config={"owner": ""},
                metrics=db.create(VBD_metrics).ref,
            )
        kept = {key: value for key, value in vm.other_config.items() if key not in ("disks", "postinstall")}
        db.write(vm, {"is_a_template": False, "is_default_template": False, "other_config": kept})


@message("VM.revert", holds="revert")
def revert(call: Call, snapshot: str) -> None:
    """Bring a VM back to one of its snapshots: its disks are replaced by clones of the snapshot's.

    Raises VM_REVERT_FAILED [snapshot, vm] where the VM that it was taken of is gone.
    """
    db = call.db
    source = db.get(VM, snapshot)
    vm = db.find(VM, source.snapshot_of)
    if vm is None:
        raise Failure("VM_REVERT_FAILED", snapshot, source.snapshot_of)
    if vm.power_state == "Suspended":
        throw_away(call, vm)
    elif vm.power_state != "Halted":
        power_off(call, vm)
    state.halted(db, call.machine, vm)
    with new_disks(call, vm.uuid) as made_disks:
        made: dict[str, str] = {}
        for vbd in (db.get(VBD, ref) for ref in source.VBDs):
            if vbd.type == "Disk" and not vbd.empty:
                made[vbd.ref] = made_disks.clone(db.get(VDI, vbd.VDI)).ref
        replaced = _revert_records(call, vm, source, made)
    for vdi in replaced:
        if not db.get(VDI, vdi).VBDs:
            call.invoke("VDI.destroy", vdi)


def _revert_records(call: Call, vm: VM, source: VM, made: dict[str, str]) -> list[str]:
    """The records of the snapshot in place of the VM's own; returns the disks that the VM had."""
    db = call.db
    taken = source.stored()
    with db.transaction():
        mine = [db.get(VBD, ref) for ref in vm.VBDs]
        replaced = [vbd.VDI for vbd in mine if vbd.type == "Disk" and vbd.VDI != NULL]
        for row in [*mine, *(db.get(VIF, ref) for ref in vm.VIFs)]:
            db.delete(row)
        for vbd in (db.get(VBD, ref) for ref in source.VBDs):
            vdi = made.get(vbd.ref, vbd.VDI)
            metrics = db.create(VBD_metrics).ref
            db.create(VBD, **cloning.cloned_vbd(vbd.stored(), vm.ref, vdi), metrics=metrics)
            if vdi in made.values():
                db.get(VDI, vdi).snapshot_of = NULL
        for vif in (db.get(VIF, ref) for ref in source.VIFs):
            db.create(VIF, **cloning.cloned_vif(vif.stored(), vm.ref, "snapshot", mac=vif.MAC))
        db.write(vm, {name: taken[name] for name in cloning.VM_KEPT - {"ha_restart_priority"}})
        vm.parent = source.ref
    return replaced
