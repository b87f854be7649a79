"""What VBDs, VIFs and VUSBs share: a device is plugged into a running VM that is not on its way down."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kronos.db.database import Database
from kronos.db.records import VM, VM_guest_metrics
from kronos.rules.operations.obstacle import Obstacle, bar
from kronos.rules.surroundings import has_drivers

PLUGGED = frozenset({"plug", "unplug"})
_GOING_DOWN = frozenset({"clean_shutdown", "hard_shutdown", "suspend", "pause"})


def power_state(
    vm: VM,
    ref: str,
    *,
    attached: bool,
    unplugging: Collection[str] = ("unplug",),
    others: Collection[str] = (),
) -> Obstacle:
    """Only a running VM takes and gives devices; `others` are further operations that need it to run."""
    if vm.power_state != "Running":
        barred = {"plug", *unplugging, *others}
        return bar(barred, "VM_BAD_POWER_STATE", vm.ref, "running", vm.power_state.lower())
    if attached:
        return bar({"plug"}, "DEVICE_ALREADY_ATTACHED", ref)
    return bar(unplugging, "DEVICE_ALREADY_DETACHED", ref)


def going_down(vm: VM) -> Iterator[Obstacle]:
    """Nothing is plugged while the VM goes down, falls asleep or is paused."""
    for name in vm.current_operations.values():
        if name in _GOING_DOWN:
            text = f"Current operation on VM:{vm.ref} is {name}"
            yield bar(PLUGGED, "OPERATION_NOT_ALLOWED", text)


def hot_plug(db: Database, vm: VM, device: str, barred: Collection[str]) -> Iterator[Obstacle]:
    """An HVM guest takes part in hot-plug: it says so for `device` (VBD, VIF), or has drivers that can.

    Call it for a running VM of domain type hvm only.
    """
    guest = db.find(VM_guest_metrics, vm.guest_metrics)
    claim = "unspecified"
    if guest is not None:
        claim = guest.can_use_hotplug_vbd if device == "VBD" else guest.can_use_hotplug_vif
    if claim == "no":
        yield bar(barred, "OPERATION_NOT_ALLOWED", f"VM states it does not support {device} hotplug.")
    elif claim == "unspecified" and not has_drivers(guest) and not (guest and guest.PV_drivers_detected):
        yield bar(barred, "VM_MISSING_PV_DRIVERS", vm.ref)
