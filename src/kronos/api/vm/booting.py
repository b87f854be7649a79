"""Booting by a loader: VMs whose kernel is found at each start, by eliloader where they are being installed and by
pygrub's rules on their own disk after that."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kronos.boot.eliloader import loading, plan
from kronos.boot.eliloader.loading import Boot, Circumstances, Image
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.guest_disk.loader import BootUnreadable
from kronos.boot.stand_in import stand_in
from kronos.datamodel.errors import Failure
from kronos.db.records import VM
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.workers import only_waiting
from kronos.hypervisor.base import DirectKernel
from kronos.rules import boot as rules
from kronos.storage.base import Attachment

_KERNEL_OF_RESUMED = "resumed"


def place(machine: Machine) -> Path:
    """Where loaders put kernels and RAM disks, a directory a VM: on disk, for half a gigabyte is no matter for /run."""
    return machine.state / "boot"


@contextmanager
def files(machine: Machine, vm: VM) -> Iterator[Path]:
    """A directory for what a start of the VM needs, made by whoever needs it; what is in it goes when it has begun."""
    directory = place(machine) / vm.uuid
    shutil.rmtree(directory, ignore_errors=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def load(call: Call, vm: VM, attached: Mapping[str, Attachment], directory: Path) -> DirectKernel | None:
    """What a loader finds for the VM to boot now; None for a VM that has none.

    Raises BOOTLOADER_FAILED [vm, text], TASK_CANCELLED.
    """
    if not rules.by_loader(call.db, vm):
        return None
    loader = rules.loader(vm)
    # Guests' processes read the files, and nobody lists them.
    directory.mkdir(mode=0o711, parents=True)
    try:
        with only_waiting():
            if loader == "pygrub":
                return _from_disk(call, vm, attached, directory)
            return _installing(call, vm, attached, directory)
    except (InstallFailed, BootUnreadable) as error:
        call.task.check()
        text = error.lines if isinstance(error, InstallFailed) else str(error)
        raise Failure("BOOTLOADER_FAILED", vm.ref, text) from error


def load_for_resume(call: Call, vm: VM, directory: Path) -> DirectKernel | None:
    """A kernel for the machine of a guest that has its own in its memory; None for a VM without a loader."""
    if not rules.by_loader(call.db, vm):
        return None
    directory.mkdir(mode=0o711, parents=True)
    kernel = directory / _KERNEL_OF_RESUMED
    kernel.write_bytes(stand_in())
    return DirectKernel(kernel)


def _from_disk(call: Call, vm: VM, attached: Mapping[str, Attachment], directory: Path) -> DirectKernel:
    image = _image(call, vm, attached, cd=False)
    if image is None:
        raise BootUnreadable("the VM has no disk")
    return _installed(vm, loading.from_disk(image, directory, vm.PV_bootloader_args))


def _installed(vm: VM, found: Boot) -> DirectKernel:
    # As pygrub has them: PV_legacy_args where the guest's own configuration says nothing, PV_args behind either.
    arguments = [found.arguments or vm.PV_legacy_args, vm.PV_args]
    return DirectKernel(found.kernel, found.ramdisk, " ".join(each for each in arguments if each))


def _installing(call: Call, vm: VM, attached: Mapping[str, Attachment], directory: Path) -> DirectKernel:
    wanted = plan.read(vm.other_config)
    from_cd = wanted.source is None and not wanted.own_disk
    image = _image(call, vm, attached, cd=from_cd)
    found = loading.load(wanted, image, directory, _circumstances(call, from_cd=from_cd))
    call.task.check()
    if found.remember:
        # Needed by the boots after this one, and harmless to this one should it fail.
        vm.PV_bootloader_args = found.remember
    if wanted.own_disk:
        return _installed(vm, found)
    arguments = " ".join(each for each in (vm.PV_args, found.arguments) if each)
    return DirectKernel(found.kernel, found.ramdisk, arguments)


def _circumstances(call: Call, *, from_cd: bool) -> Circumstances:
    wanted: tuple[str, ...] = ()
    if call.machine.hypervisor.type == "XEN":
        # What an installer reaches its packages by; it fetches whatever else it needs.
        wanted = ("xen_blkfront",) if from_cd else ("xen_netfront",)
    return Circumstances(wanted, call.machine.state / "drivers", on_cancel=call.task.on_cancel)


def _image(call: Call, vm: VM, attached: Mapping[str, Attachment], *, cd: bool) -> Image | None:
    vbd = rules.loaded_from(call.db, vm, cd=cd)
    if vbd is None:
        return None
    attachment = attached[vbd.VDI]
    return Image(attachment.path, attachment.format)
