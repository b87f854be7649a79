"""VM clone, copy, snapshot, revert and provision: a VM made from another, or from what a template asks for."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack

from kronos.api.vdi import branching, volumes
from kronos.api.vm import firmware, images, passing, state
from kronos.api.vm.lifecycle import power_off, throw_away
from kronos.api.vm.new_disks import NewDisks, new_disks, replacing
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL, now
from kronos.db.database import Database
from kronos.db.records import SR, VBD, VDI, VGPU, VIF, VM, VBD_metrics, VM_metrics
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.network.mac import mac_of_seed
from kronos.rules import cloning, provisioning, snapshots
from kronos.rules.cloning import Kind
from kronos.storage.faults import as_failures

MakeDisk = Callable[[NewDisks, VDI], VDI]

SCHEDULER = "__dom0__vmss"
"""Who snapshots by schedule: the user of the daemon's own session for that, as clients know it."""


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


@message("VM.csvm", holds="csvm")
def csvm(call: Call, vm: str) -> str:
    """A clone of a suspended VM, with its memory: a message from before VM.clone."""
    source = call.db.get(VM, vm)
    return duplicate(call, source, f"{source.name_label}-cloned-suspended", "clone", NewDisks.clone)


def duplicate(
    call: Call, source: VM, name: str, kind: Kind, make_disk: MakeDisk, left_out: tuple[str, ...] = ()
) -> str:
    """Make a VM from another: first the disks and the saved memory, if the kind has it, then all records in one step. A
    crash in between leaves nothing."""
    uuid = str(uuids.uuid4())
    with new_disks(call, uuid) as disks:
        made = made_of(call, source, disks, make_disk, left_out)
        image = _memory_of(call, source, uuid, kind, disks)
        firmware.refresh(call, source)
        return add_records(call, source, uuid, name, kind, made, image)


Made = Mapping[str, str]
"""The disks that were made, by the VBDs of their sources."""


def made_of(
    call: Call, source: VM, disks: NewDisks, make_disk: MakeDisk, left_out: Collection[str] = ()
) -> Made:
    """Make the disks of a VM from those of another."""
    vbds = [call.db.get(VBD, ref) for ref in source.VBDs]
    wanted = [vbd for vbd in vbds if vbd.type == "Disk" and vbd.VDI not in (NULL, *left_out)]
    made: dict[str, str] = {}
    for count, vbd in enumerate(wanted):
        made[vbd.ref] = make_disk(disks, call.db.get(VDI, vbd.VDI)).ref
        call.task.progress((count + 1) / (len(wanted) + 1))
    return made


def _memory_of(call: Call, source: VM, uuid: str, kind: Kind, disks: NewDisks) -> VDI | None:
    """A copy of a suspended VM's memory for what is made of it. What is made of a checkpoint begins without."""
    image = call.db.find(VDI, source.suspend_VDI)
    if image is None or source.is_a_snapshot or cloning.power_state(source.power_state, kind) != "Suspended":
        return None
    copied = disks.copy(image, call.db.get(SR, image.SR))
    if kind not in cloning.SNAPSHOTS:
        with volumes.opened(call, copied, writable=True) as opened, as_failures():
            call.machine.hypervisor.readdress(opened.path, source.uuid, uuid)
    return copied


def add_records(
    call: Call, source: VM, uuid: str, name: str, kind: Kind, made: Made, image: VDI | None, state: str = ""
) -> str:
    """The records of a VM made from another, which was in `state` then, and suspended with `image` if there is one."""
    db = call.db
    seed = str(uuids.uuid4())
    fields = cloning.cloned_vm(
        {**source.stored(), "power_state": state or source.power_state},
        source.ref,
        kind,
        name,
        mac_seed=seed,
        generation_id=_generation(),
        time=now(),
        metadata=snapshots.metadata(source) if kind in cloning.SNAPSHOTS else "",
    )
    suspended = image is not None
    fields |= {"power_state": "Suspended", "suspend_VDI": image.ref} if image else {"power_state": "Halted"}
    if kind in cloning.SNAPSHOTS and call.session is not None:
        fields["is_vmss_snapshot"] = call.session.pool and call.session.auth_user_name == SCHEDULER
    with db.transaction():
        metrics = db.create(VM_metrics, install_time=now())
        vm = db.create(VM, **fields, uuid=uuid, domid=-1, metrics=metrics.ref)
        for vbd in (db.get(VBD, ref) for ref in source.VBDs):
            vdi = made.get(vbd.ref, vbd.VDI if vbd.type == "CD" else NULL)
            if vbd.type == "Disk" and vdi == NULL:
                continue
            cloned = cloning.cloned_vbd(vbd.stored(), vm.ref, vdi, attached=suspended)
            db.create(VBD, **cloned, metrics=db.create(VBD_metrics).ref)
        for vif in (db.get(VIF, each) for each in source.VIFs):
            mac = mac_of_seed(seed, int(vif.device))
            db.create(VIF, **cloning.cloned_vif(vif.stored(), vm.ref, kind, mac=mac, attached=suspended))
        firmware.copy_tpms(db, source, vm)
        passing.copy(db, source, vm)
        if kind in cloning.SNAPSHOTS:
            source.parent = vm.ref
    return vm.ref


def _generation() -> str:
    return f"{uuids.uuid4().int >> 64}:{uuids.uuid4().int >> 64}"


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
        db.write(state.metrics_of(db, vm), {"install_time": now()})


@message("VM.revert", holds="revert")
def revert(call: Call, snapshot: str) -> None:
    """Bring a VM back to one of its snapshots: its disks are replaced by clones of the snapshot's. Disks that it got
    since, or that the snapshot left out, are taken away from it and stay. To a checkpoint it comes back Suspended, with
    a copy of the memory.

    Raises VM_REVERT_FAILED [snapshot, vm] where the VM that it was taken of is gone, or said to be itself.
    """
    db = call.db
    source = db.get(VM, snapshot)
    vm = db.find(VM, source.snapshot_of)
    if vm is None or vm is source:
        raise Failure("VM_REVERT_FAILED", snapshot, source.snapshot_of)
    with call.pipeline.holds.hold(vm, "reverting", call.task), ExitStack() as declared:
        with new_disks(call, str(uuids.uuid4())) as disks:
            made = made_of(call, source, disks, NewDisks.clone)
            saved = db.find(VDI, source.suspend_VDI)
            image = disks.copy(saved, db.get(SR, saved.SR)) if saved is not None else None
            # From here on nothing fails that could have been known before.
            if vm.power_state == "Suspended":
                throw_away(call, vm)
            elif vm.power_state != "Halted":
                power_off(call, vm)
            state.halted(db, call.machine, vm)
            declared.enter_context(replacing(call, vm, _replaced(db, vm, made)))
            replaced = _revert_records(call, vm, source, made, image)
        for vdi, successor in replaced.items():
            branching.succeed(db, call.machine, db.get(VDI, vdi), db.get(VDI, successor))
            if not db.get(VDI, vdi).VBDs:
                call.invoke("VDI.destroy", vdi)


def _replaced(db: Database, vm: VM, made: Made) -> dict[str, str]:
    """A VM's disks that clones of their snapshots take the place of, with these.

    Of a disk that is in no snapshot's place nobody has a copy: it is not among them.
    """
    successors = {db.get(VDI, db.get(VBD, ref).VDI).snapshot_of: clone for ref, clone in made.items()}
    had = [vbd.VDI for vbd in (db.get(VBD, ref) for ref in vm.VBDs) if vbd.type == "Disk" and vbd.VDI != NULL]
    return {vdi: successors[vdi] for vdi in had if vdi in successors}


def _revert_records(call: Call, vm: VM, source: VM, made: Made, image: VDI | None) -> dict[str, str]:
    """The records of the snapshot in place of the VM's own; the disks that it had, and those in their place."""
    db = call.db
    suspended = image is not None
    with db.transaction():
        replaced = _replaced(db, vm, made)
        mine = [db.get(VBD, ref) for ref in vm.VBDs]
        for row in [*mine, *(db.get(VIF, ref) for ref in vm.VIFs)]:
            db.delete(row)
        for vbd in (db.get(VBD, ref) for ref in source.VBDs):
            vdi = made.get(vbd.ref, vbd.VDI)
            cloned = cloning.cloned_vbd(vbd.stored(), vm.ref, vdi, attached=suspended)
            db.create(VBD, **cloned, metrics=db.create(VBD_metrics).ref)
            if vdi in made.values():
                db.get(VDI, vdi).snapshot_of = NULL
        for vif in (db.get(VIF, ref) for ref in source.VIFs):
            cloned = cloning.cloned_vif(vif.stored(), vm.ref, "snapshot", mac=vif.MAC, attached=suspended)
            db.create(VIF, **cloned)
        for vgpu in [db.get(VGPU, ref) for ref in vm.VGPUs]:
            db.delete(vgpu)
        passing.copy(db, source, vm)
        firmware.forget_tpms(db, vm)
        firmware.copy_tpms(db, source, vm)
        fields = snapshots.brought_back(db, source)
        if vm.generation_id:
            fields["generation_id"] = _generation()
        if image is not None:
            fields |= {"power_state": "Suspended", "suspend_VDI": image.ref}
        db.write(vm, fields | {"parent": source.ref})
    return replaced
