"""Which operations a VBD may start: attaching and plugging, and changing the disc in a CD drive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kronos.db.database import Database
from kronos.db.records import VBD, VDI, VM
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated, first
from kronos.rules.operations.plugging import going_down, hot_plug, power_state
from kronos.rules.surroundings import domain_type

OPERATIONS = LISTED = enumerated("vbd_operations")
EVERY = frozenset(OPERATIONS)
_PAUSES = frozenset({"pause", "unpause"})
_EXCLUSIVE = EVERY - _PAUSES
_UNPLUGS = frozenset({"unplug", "unplug_force"})
_PLUGS = _UNPLUGS | {"plug"}
_CHANGES = frozenset({"insert", "eject"})
_TAKES = frozenset({"attach", "insert", "plug"})


def obstacles(db: Database, vbd: VBD, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations from starting, in the order in which clients are told of it.

    Who else uses the disk is looked at only for a call (not `strict`): of a disc that every VM has, each change
    would otherwise change every VM's allowed_operations.
    """
    vm = db.find(VM, vbd.VM)
    if vm is None:
        yield bar(EVERY, "HANDLE_INVALID", "VM", vbd.VM)
        return
    if vbd.current_operations:
        yield from _busy(vbd.ref, vbd.current_operations)
    if not vbd.unpluggable:
        yield bar(_UNPLUGS, "VBD_NOT_UNPLUGGABLE", vbd.ref)
    is_cd, empty = vbd.type == "CD", vbd.empty
    if not is_cd:
        yield bar(_CHANGES, "VBD_NOT_REMOVABLE_MEDIA", vbd.ref)
    if empty:
        yield bar({"eject"}, "VBD_IS_EMPTY", vbd.ref)
    else:
        yield bar({"insert"}, "VBD_NOT_EMPTY", vbd.ref)
    state = vm.power_state
    others = _PAUSES if state != "Paused" else ()
    attached = vbd.currently_attached or vbd.reserved
    yield power_state(vm, vbd.ref, attached=attached, unplugging=_UNPLUGS, others=others)
    yield from going_down(vm)
    if state == "Running" and domain_type(db, vm) == "hvm":
        yield from hot_plug(db, vm, "VBD", _PLUGS)
        if is_cd:
            text = "HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected"
            yield bar(_PLUGS, "OPERATION_NOT_ALLOWED", text)
    if is_cd and state == "Suspended":
        yield bar(_CHANGES, "VM_BAD_POWER_STATE", vm.ref, "halted, running", "suspended")
    if not empty:
        yield from _disk(db, vbd, vm, strict=strict)


def _busy(ref: str, current: Mapping[str, str]) -> Iterator[Obstacle]:
    """Pausing and unpausing may overlap with themselves; a reboot unpauses while it attaches."""
    for barred, besides in (
        (_EXCLUSIVE, ()),
        ({"pause"}, _PAUSES),
        ({"unpause"}, _PAUSES | {"attach"}),
    ):
        found = first(current, besides=besides)
        if found is not None:
            task, name = found
            yield bar(barred, "OTHER_OPERATION_IN_PROGRESS", "VBD", ref, name, task)


def _disk(db: Database, vbd: VBD, vm: VM, *, strict: bool) -> Iterator[Obstacle]:
    vdi = db.find(VDI, vbd.VDI)
    if vdi is None:
        yield bar(_TAKES, "HANDLE_INVALID", "VDI", vbd.VDI)
        return
    if not vdi.managed:
        yield bar(EVERY, "VDI_NOT_MANAGED", vbd.ref)
    found = first(vdi.current_operations, besides=("mirror", "copy"))
    if found is not None:
        task, name = found
        yield bar(_TAKES, "OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref, name, task)
    # A suspended VM's disks are attached in name only: somebody else may have them by the time it wakes.
    if strict or vbd.currently_attached and vm.power_state != "Suspended":
        return
    writes = vbd.mode == "RW"
    if writes and "copy" in vdi.current_operations.values():
        # Whoever copies or exports a disk reads it, as another VM would.
        yield bar(_TAKES, "VDI_IN_USE", vdi.ref)
    if not vdi.sharable and not vm.is_control_domain:
        modes = {other.mode for other in _users(db, vdi) if other is not vbd}
        if "RW" in modes or writes and modes:
            yield bar(_TAKES, "VDI_IN_USE", vdi.ref)
    if writes and vdi.read_only:
        yield bar(_TAKES, "VDI_READONLY", vdi.ref)


def _users(db: Database, vdi: VDI) -> Iterator[VBD]:
    """The VBDs that use a disk now. A suspended VM does not, and control domains know how to share."""
    for ref in vdi.VBDs:
        vbd = db.find(VBD, ref)
        if vbd is None or not (vbd.currently_attached or vbd.reserved or vbd.current_operations):
            continue
        vm = db.find(VM, vbd.VM)
        if vm is not None and vm.power_state != "Suspended" and not vm.is_control_domain:
            yield vbd
