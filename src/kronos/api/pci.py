"""PCI: whether the host's own kernel may use a device, or leaves it for guests.

That is settled when the kernel finds the device, at a boot: taking a driver off a device that is in use would take the
disk or the network with it. What was asked for stands in a rule of udev's, a line for each device.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from kronos.api.host.surroundings import asked_of_the_system
from kronos.datamodel.errors import Failure
from kronos.db.records import PCI, PGPU
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.system import pci

RULES: Final = Path("etc/udev/rules.d/60-xapi-pci.rules")
_LINE = re.compile(r'^ACTION=="add", SUBSYSTEM=="pci", KERNEL=="([^"]+)", ATTR', re.MULTILINE)
_HEAD = "# PCI devices that xapi keeps for guests, from the next boot on: xe pci-disable-dom0-access\n"


@message("PCI.disable_dom0_access")
def disable_dom0_access(call: Call, self: str) -> str:
    """Leave a device for guests from the next boot on; how it is now, and will be."""
    return keep(call, call.db.get(PCI, self), for_guests=True)


@message("PCI.enable_dom0_access")
def enable_dom0_access(call: Call, self: str) -> str:
    """Let the host's own kernel use a device from the next boot on; how it is now, and will be."""
    return keep(call, call.db.get(PCI, self), for_guests=False)


@message("PCI.get_dom0_access_status")
def get_dom0_access_status(call: Call, self: str) -> str:
    """Whether the host's own kernel may use a device, and whether that changes at the next boot."""
    return status(call, call.db.get(PCI, self))


@message("PGPU.disable_dom0_access")
def disable_display(call: Call, self: str) -> str:
    """PCI.disable_dom0_access, of an adapter."""
    return _keep_display(call, self, for_guests=True)


@message("PGPU.enable_dom0_access")
def enable_display(call: Call, self: str) -> str:
    """PCI.enable_dom0_access, of an adapter."""
    return _keep_display(call, self, for_guests=False)


def _keep_display(call: Call, ref: str, *, for_guests: bool) -> str:
    adapter = call.db.get(PGPU, ref)
    adapter.dom0_access = keep(call, call.db.get(PCI, adapter.PCI), for_guests=for_guests)
    return adapter.dom0_access


def keep(call: Call, row: PCI, *, for_guests: bool) -> str:
    """Write down whom a device is for. Raises OPERATION_NOT_ALLOWED where this daemon is not the system's service."""
    _assert_here(call, row)
    wanted = _kept(call)
    changed = wanted | {row.pci_id} if for_guests else wanted - {row.pci_id}
    if changed != wanted:
        driver = "pciback" if call.machine.hypervisor.type == "XEN" else "vfio-pci"
        lines = (
            f'ACTION=="add", SUBSYSTEM=="pci", KERNEL=="{address}", ATTR{{driver_override}}="{driver}"\n'
            for address in sorted(changed)
        )
        with asked_of_the_system():
            call.machine.outside.write(call.machine.root / RULES, _HEAD + "".join(lines))
    return status(call, row)


def status(call: Call, row: PCI) -> str:
    """XenAPI's word for how a device is now and will be after a boot."""
    _assert_here(call, row)
    now, later = row.driver_name in pci.FOR_GUESTS, row.pci_id in _kept(call)
    if now:
        return "disabled" if later else "enable_on_reboot"
    return "disable_on_reboot" if later else "enabled"


def _kept(call: Call) -> frozenset[str]:
    try:
        return frozenset(_LINE.findall((call.machine.root / RULES).read_text()))
    except FileNotFoundError:
        return frozenset()


def _assert_here(call: Call, row: PCI) -> None:
    if row.host != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", row.host)
