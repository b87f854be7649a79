"""PUSB, USB_group and VUSB: the host's USB devices, which of them guests may have, and which guest has which."""

from __future__ import annotations

import logging
from typing import Any, Final

from kronos.api import devices
from kronos.api.vm.naming import named_by_reference
from kronos.datamodel.errors import Failure
from kronos.db import records
from kronos.db.records import PUSB, VUSB, Host, USB_group
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules.devices import usb_number
from kronos.system import usb

log = logging.getLogger(__name__)

MOST: Final = 6
"""How many VUSBs a VM may have, as everywhere."""


@message("PUSB.scan")
def scan(call: Call, host: str) -> None:
    """Look for devices that were plugged in or pulled. Raises HOST_OFFLINE [host] for another host."""
    row = call.db.get(Host, host)
    if host != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", host)
    found = usb.devices(call.machine.root / usb.DEVICES.relative_to("/"))
    for vusb in devices.pulled(call.db, row, found):
        try:
            call.invoke("VUSB.unplug", vusb.ref)
        except Failure as failure:  # it has just ended, or goes on without the device until it does
            log.warning("VUSB %s, whose device was pulled: %s", vusb.uuid, failure)
    devices.refresh_usb(call.db, row, found)


@message("PUSB.set_passthrough_enabled")
def set_passthrough_enabled(call: Call, self: str, value: bool) -> None:
    """Whether guests may have a device; its VUSB goes when not. Raises USB_ALREADY_ATTACHED [pusb, vm]."""
    row = call.db.get(PUSB, self)
    with call.db.transaction():
        group = call.db.find(USB_group, row.USB_group)
        virtual = [call.db.get(VUSB, ref) for ref in group.VUSBs] if group is not None and not value else []
        for each in virtual:
            if each.currently_attached:
                raise Failure("USB_ALREADY_ATTACHED", row.ref, each.VM)
        for each in virtual:
            call.db.delete(each)
        row.passthrough_enabled = value


@message("USB_group.create")
def create_group(call: Call, name_label: str, name_description: str, other_config: dict[str, str]) -> str:
    """A group without devices."""
    fields: dict[str, Any] = {"name_label": name_label, "name_description": name_description}
    return call.db.create(USB_group, **fields, other_config=other_config).ref


@message("USB_group.destroy")
def destroy_group(call: Call, self: str) -> None:
    """Raises USB_GROUP_CONTAINS_VUSB [vusbs] for those that guests have now, USB_GROUP_CONTAINS_PUSB [pusbs]."""
    row = call.db.get(USB_group, self)
    with call.db.transaction():
        virtual = [call.db.get(VUSB, ref) for ref in row.VUSBs]
        attached = [each.ref for each in virtual if each.currently_attached]
        if attached:
            raise Failure("USB_GROUP_CONTAINS_VUSB", *attached)
        if row.PUSBs:
            raise Failure("USB_GROUP_CONTAINS_PUSB", *row.PUSBs)
        for each in virtual:
            call.db.delete(each)
        call.db.delete(row)


# --- what guests have ------------------------------------------------------------------------------------------------


@message("VUSB.create")
def create(call: Call, VM: str, USB_group: str, other_config: dict[str, str]) -> str:
    """Give a VM, from its next start on, the device of a group.

    Raises TOO_MANY_VUSBS [most], USB_GROUP_CONFLICT [group] where another VUSB stands for that, OPERATION_NOT_ALLOWED
    for a VM that high availability is to restart elsewhere.
    """
    db = call.db
    with db.transaction():
        vm, group = db.get(records.VM, VM), db.get(records.USB_group, USB_group)
        if len(vm.VUSBs) >= MOST:
            raise Failure("TOO_MANY_VUSBS", str(MOST))
        if group.VUSBs:
            raise Failure("USB_GROUP_CONFLICT", group.ref)
        if vm.ha_restart_priority == "restart":
            text = (
                f"VM {vm.ref} is to be restarted on another host by high availability, where its VUSB is not"
            )
            raise Failure("OPERATION_NOT_ALLOWED", text)
        return db.create(VUSB, VM=vm.ref, USB_group=group.ref, other_config=other_config).ref


@message("VUSB.unplug", holds="unplug")
def unplug(call: Call, self: str) -> None:
    """Take a USB device out of a running VM: it is the host's again, until the VM's next start.

    Raises DEVICE_ALREADY_DETACHED, DEVICE_DETACH_REJECTED [type, vusb, text], DEVICE_DETACH_TIMEOUT [type, vusb].
    """
    row = call.db.get(VUSB, self)
    vm = call.db.get(records.VM, row.VM)
    with named_by_reference(vm):
        call.machine.hypervisor.unplug_usb(vm.uuid, usb_number(row.uuid))
    row.currently_attached = False


@message("VUSB.destroy")
def destroy(call: Call, self: str) -> None:
    """Take a USB device away from a VM. Raises OPERATION_NOT_ALLOWED while the VM has it."""
    row = call.db.get(VUSB, self)
    with call.db.transaction():
        if row.currently_attached:
            vm = call.db.get(records.VM, row.VM)
            raise Failure("OPERATION_NOT_ALLOWED", f"VUSB '{row.uuid}' still attached to '{vm.uuid}'")
        call.db.delete(row)
