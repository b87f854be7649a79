"""Images of this host's own that a new VM's first disk may begin with."""

from __future__ import annotations

from kronos.api.vdi import volumes
from kronos.boot import system_vm
from kronos.db.records import VDI, VM
from kronos.dispatch.call import Call
from kronos.storage.faults import as_failures
from kronos.system.conversion import convert

KEY = "image"
"""VM.other_config's key. Its value is one of the names that are known here, never a path: any operator may write it."""


def is_asked_for(vm: VM) -> bool:
    """Whether a VM wants an image on its first disk."""
    return vm.other_config.get(KEY) == system_vm.IMAGE


def put_on(call: Call, vdi: VDI) -> None:
    """Write the system VM's image, which is made first if need be, onto a new disk. Raises INTERNAL_ERROR."""
    image = system_vm.system_vm(call.machine.state / "tiny-guest")
    with volumes.opened(call, vdi, writable=True) as target, as_failures():
        convert(image, "qcow2", target.path, target.format, target_is_zero=True, progress=call.task.progress)
