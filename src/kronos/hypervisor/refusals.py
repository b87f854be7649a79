"""What libvirt refuses, as the XenAPI error that says it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from kronos.datamodel.errors import Failure

_NO_MEMORY = re.compile(r"cannot set up guest memory|Cannot allocate memory", re.IGNORECASE)
_NO_TRAY = re.compile(r"tray of device .* is not open|is locked", re.IGNORECASE)
_IN_USE = re.compile(r"target \S+ already exists|non unique alias", re.IGNORECASE)
_NO_DEVICE = re.compile(r"no device found with alias|device not found|disk '\w+' not found", re.IGNORECASE)
_NO_COMMAND = re.compile(
    r"agent command .* (has not been found|has been disabled)", re.IGNORECASE | re.DOTALL
)
_NO_SLOT = re.compile(r"No more available PCI slots", re.IGNORECASE)


def _text(error: libvirt.libvirtError) -> str:
    return (error.get_error_message() or str(error)).strip()


def failure_of(error: libvirt.libvirtError, uuid: str, *, expected: str = "running") -> Failure:
    """The Failure for an error that a call about VM `uuid` met; `expected` is the state the call wanted."""
    code, text = error.get_error_code(), _text(error)
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return Failure("VM_BAD_POWER_STATE", uuid, expected, "halted")
    if code == libvirt.VIR_ERR_OPERATION_INVALID:
        return _invalid(uuid, text, expected)
    if code == libvirt.VIR_ERR_NO_SUPPORT or _NO_COMMAND.search(text):
        return Failure("VM_LACKS_FEATURE", uuid)
    if code in (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED):
        return Failure("VM_MISSING_PV_DRIVERS", uuid)
    if code == libvirt.VIR_ERR_DEVICE_MISSING or _NO_DEVICE.search(text):
        return Failure("DEVICE_ALREADY_DETACHED", uuid)
    if code == libvirt.VIR_ERR_NO_MEMORY or _NO_MEMORY.search(text):
        return Failure("HOST_NOT_ENOUGH_FREE_MEMORY", "", "")
    if _IN_USE.search(text):
        return Failure("DEVICE_ALREADY_ATTACHED", uuid)
    if _NO_TRAY.search(text):
        return Failure("VBD_TRAY_LOCKED", uuid)
    if _NO_SLOT.search(text):
        return Failure("OPERATION_NOT_ALLOWED", "The virtual machine has no free slot for another device")
    return Failure("INTERNAL_ERROR", f"libvirt: {text}")


def _invalid(uuid: str, text: str, expected: str) -> Failure:
    if "not running" in text or "is not active" in text:
        return Failure("VM_BAD_POWER_STATE", uuid, expected, "halted")
    if "already" in text and ("running" in text or "active" in text):
        return Failure("VM_BAD_POWER_STATE", uuid, expected, "running")
    if "is not paused" in text:
        return Failure("VM_BAD_POWER_STATE", uuid, "paused", "running")
    if "is paused" in text or "already suspended" in text:
        return Failure("VM_BAD_POWER_STATE", uuid, "running", "paused")
    return Failure("INTERNAL_ERROR", f"libvirt: {text}")


def already_exists(error: libvirt.libvirtError) -> bool:
    """Whether a start met a VM of the same uuid that is already there."""
    if error.get_error_code() == libvirt.VIR_ERR_DOM_EXIST:
        return True
    return re.search(r"domain (.* )?(is already active|already exists)", _text(error)) is not None


@contextmanager
def refusing(uuid: str, expected: str = "running") -> Iterator[None]:
    """Turn a libvirt error of the block into the Failure for it."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise failure_of(error, uuid, expected=expected) from error
