"""VM's power: start, pause, suspend, resume, shut down, reboot.

Each step that takes something pushes its undoing on an ExitStack; the record changes last.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

from kronos.api.vdi.copying import RAW
from kronos.api.vm import booting, firmware, guest, passing, state
from kronos.api.vm.backing import attach, attach_disks, bring_up_networks, secure_ports
from kronos.api.vm.naming import named_by_reference
from kronos.api.vm.new_disks import NewDisks, last_use, new_disks
from kronos.api.vm.settings import note_overhead
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import SR, VBD, VDI, VM, Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.dispatch.workers import only_waiting
from kronos.hypervisor.base import DirectKernel, Domain
from kronos.rules import domain as domains
from kronos.rules import placement
from kronos.storage.base import Attachment

log = logging.getLogger(__name__)

CLEAN_SHUTDOWN_PATIENCE = 20 * 60.0
"""Seconds that a guest may take to shut itself down before the call fails; the guest is left as it is."""

ASK_AGAIN = 10.0
"""Seconds after which a guest that did not react is asked once more: one that still booted heard nothing."""


def _vm(call: Call, ref: str) -> VM:
    return call.db.get(VM, ref)


# --- starting --------------------------------------------------------------------------------------------------------


@message("VM.start", holds="start")
def start(call: Call, vm: str, start_paused: bool, force: bool) -> None:
    """Boot a halted VM on the host that placement picks.

    Raises NO_HOSTS_AVAILABLE, HOST_NOT_ENOUGH_FREE_MEMORY, VM_REQUIRES_SR, VM_REQUIRES_NETWORK.
    """
    row = _vm(call, vm)
    boot(call, row, lambda: placement.choose(call.db, row), paused=start_paused)


@message("VM.start_on", holds="start_on")
def start_on(call: Call, vm: str, host: str, start_paused: bool, force: bool) -> None:
    """Boot a halted VM on one host. Raises what keeps it from running there."""
    row, there = _vm(call, vm), call.db.get(Host, host)
    boot(call, row, lambda: placement.assert_can_boot_here(call.db, row, there), paused=start_paused)


def boot(call: Call, vm: VM, place: Callable[[], object] = bool, *, paused: bool) -> None:
    """Attach what a VM needs and let it run here, if `place` finds room; on a failure everything is let go again."""
    db = call.db
    disks = [vbd for vbd in (db.get(VBD, ref) for ref in vm.VBDs) if not vbd.empty]
    with (
        named_by_reference(vm),
        call.pipeline.holds.hold_all(disks, "attach", call.task),
        booting.files(call.machine, vm) as files,
        ExitStack() as undo,
    ):
        reserve(call, vm, place, undo)
        devices = (*vm.VBDs, *vm.VIFs, *vm.VUSBs)
        described = describe(call, vm, undo, lambda attached: booting.load(call, vm, attached, files))
        call.task.progress(0.5)
        domid = call.machine.hypervisor.start(described, paused=paused)
        undo.pop_all()
        state.started(db, call.machine, vm, domid, paused=paused, devices=devices)
    linger(call, vm.start_delay)


def reserve(call: Call, vm: VM, place: Callable[[], object], undo: ExitStack) -> None:
    """Count the VM's memory as taken while it is on its way here, in one step with finding that there is room for it:
    two starts must not be promised the same. A reboot keeps it so while the VM is down."""
    with call.db.transaction():
        place()
        note_overhead(call, vm)
        vm.scheduled_to_be_resident_on = call.machine.host_ref
        passing.reserve(call.db, vm, call.host)
    undo.callback(passing.release, call.db, vm)
    undo.callback(setattr, vm, "scheduled_to_be_resident_on", NULL)


def linger(call: Call, seconds: int) -> None:
    """Wait after a start or an end as the VM's record asks for; a cancellation ends that, and what was done stays."""
    if not seconds:
        return
    woken = threading.Event()
    call.task.on_cancel(woken.set)
    with only_waiting():
        woken.wait(min(seconds, threading.TIMEOUT_MAX))


Load = Callable[[Mapping[str, Attachment]], DirectKernel | None]
"""Finds what a VM boots on its attached disks, by VDI reference, or elsewhere; None where its record says it all."""


def describe(call: Call, vm: VM, undo: ExitStack, load: Load) -> Domain:
    """The VM as the hypervisor is to run it, with everything that it needs attached."""
    attachments = attach_disks(call, vm, undo)
    loaded = load(attachments)
    bring_up_networks(call, vm)
    secure_ports(call, vm, undo)
    return domains.describe(
        call.db,
        vm,
        attachments,
        kernels=call.machine.kernels,
        resolve=Path.resolve,
        loaded=loaded,
        usb=passing.usb(call, vm),
        pci=passing.pci(call.db, vm),
        kept=firmware.begin(call, vm),
    )


# --- pausing ---------------------------------------------------------------------------------------------------------


@message("VM.pause", holds="pause")
def pause(call: Call, vm: str) -> None:
    """Stop a running VM's processors."""
    row = _vm(call, vm)
    with named_by_reference(row):
        call.machine.hypervisor.pause(row.uuid)
        state.look(call.db, call.machine, row)


@message("VM.unpause", holds="unpause")
def unpause(call: Call, vm: str) -> None:
    """Let a paused VM go on."""
    row = _vm(call, vm)
    with named_by_reference(row):
        call.machine.hypervisor.unpause(row.uuid)
        state.look(call.db, call.machine, row)
    # One that was resumed or started paused could not answer before.
    guest.refresh_later(call.db, call.machine, row)


# --- suspending ------------------------------------------------------------------------------------------------------


@message("VM.suspend", holds="suspend")
def suspend(call: Call, vm: str) -> None:
    """Write a running VM's memory to a new VDI on its suspend SR, and end the run.

    Raises VM_NO_SUSPEND_SR [vm].
    """
    row = _vm(call, vm)
    row.ha_always_run = False
    save(call, row)


def save(call: Call, row: VM) -> None:
    """Suspend a VM to a new VDI; on a failure it runs on, and the VDI is gone. Raises VM_NO_SUSPEND_SR [vm]."""
    with named_by_reference(row), new_disks(call, row.uuid) as disks, ExitStack() as undo:
        image = new_image(call, row, disks)
        attachment = attach(call, image, writable=True, undo=undo)
        # From here on the guest may be gone: should this daemon be killed, the next one looks whether all was written.
        row.suspend_VDI = image.ref
        undo.callback(setattr, row, "suspend_VDI", NULL)
        call.pipeline.durability.block()
        call.task.progress(0.1)
        call.machine.hypervisor.suspend(row.uuid, attachment.path)
        undo.pop_all()
        state.suspended(call.db, call.machine, row, image)


def new_image(call: Call, row: VM, disks: NewDisks) -> VDI:
    """A disk for a VM's memory, on its suspend SR. Raises VM_NO_SUSPEND_SR [vm]."""
    # The saved state is a little more than the memory: devices and the page tables of the format.
    size = row.memory_static_max + row.memory_static_max // 64 + (64 << 20)
    return disks.create(
        suspend_sr(call, row),
        {
            "name_label": "Suspend image",
            "name_description": f"Suspend image of {row.name_label}",
            "virtual_size": size,
            "type": "suspend",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "sm_config": RAW,
        },
    )


def suspend_sr(call: Call, vm: VM) -> SR:
    """Where a VM's memory goes: its own suspend SR, its host's, the pool's, or the pool's default SR."""
    pool = call.db.all(Pool)[0]
    for ref in (vm.suspend_SR, call.host.suspend_image_sr, pool.suspend_image_SR, pool.default_SR):
        sr = call.db.find(SR, ref)
        if sr is not None:
            return sr
    raise Failure("VM_NO_SUSPEND_SR", vm.ref)


@message("VM.resume", holds="resume")
def resume(call: Call, vm: str, start_paused: bool, force: bool) -> None:
    """Bring a suspended VM back on the host that placement picks."""
    row = _vm(call, vm)
    wake(call, row, lambda: placement.choose(call.db, row), paused=start_paused)


@message("VM.resume_on", holds="resume_on")
def resume_on(call: Call, vm: str, host: str, start_paused: bool, force: bool) -> None:
    """Bring a suspended VM back on one host."""
    row, there = _vm(call, vm), call.db.get(Host, host)
    wake(call, row, lambda: placement.assert_can_boot_here(call.db, row, there), paused=start_paused)


def wake(call: Call, vm: VM, place: Callable[[], object], *, paused: bool) -> None:
    """Restore a VM's memory from its suspend VDI, if `place` finds room, and destroy that."""
    db = call.db
    image = db.find(VDI, vm.suspend_VDI)
    if image is None:
        raise Failure("VM_HAS_NO_SUSPEND_VDI", vm.ref)
    disks = [vbd for vbd in (db.get(VBD, ref) for ref in vm.VBDs) if not vbd.empty]
    with (
        named_by_reference(vm),
        call.pipeline.holds.hold_all(disks, "attach", call.task),
        last_use(call, vm, image),
        booting.files(call.machine, vm) as files,
        ExitStack() as undo,
    ):
        reserve(call, vm, place, undo)
        described = describe(call, vm, undo, lambda _: booting.load_for_resume(call, vm, files))
        with ExitStack() as image_open:
            attachment = attach(call, image, writable=False, undo=image_open)
            call.task.progress(0.3)
            domid = call.machine.hypervisor.resume(described, attachment.path, paused=paused)
        undo.pop_all()
        state.started(db, call.machine, vm, domid, paused=paused)
        call.pipeline.durability.block()
        drop(call, image)


def drop(call: Call, image: VDI) -> None:
    """Destroy saved memory that no VM needs any more. Where that fails the VDI stays, for its owner to remove."""
    if call.db.referrers("VM", "suspend_VDI", image.ref):
        return  # a checkpoint's, too
    try:
        call.invoke("VDI.destroy", image.ref)
    except Failure as failure:
        log.warning("Suspend image %s: %s", image.uuid, failure)


# --- ending ----------------------------------------------------------------------------------------------------------


@message("VM.clean_shutdown", holds="clean_shutdown")
def clean_shutdown(call: Call, vm: str) -> None:
    """Ask the guest to shut down and wait until it has. Raises VM_SHUTDOWN_TIMEOUT, TASK_CANCELLED."""
    row = _vm(call, vm)
    row.ha_always_run = False
    ask_until(call, row, call.machine.hypervisor.shutdown, lambda: row.power_state == "Halted")
    linger(call, row.shutdown_delay)


@message("VM.hard_shutdown", holds="hard_shutdown")
def hard_shutdown(call: Call, vm: str) -> None:
    """Cut a VM's power; of a suspended one, throw the saved memory away."""
    row = _vm(call, vm)
    row.ha_always_run = False
    cancel_others(call, row)
    if row.power_state == "Suspended":
        throw_away(call, row)
    else:
        power_off(call, row)
        state.halted(call.db, call.machine, row)
        linger(call, row.shutdown_delay)


@message("VM.shutdown", holds="shutdown")
def shutdown(call: Call, vm: str) -> None:
    """Shut down cleanly if the guest obeys within its shutdown_delay, or a minute where it has none; else by force."""
    row = _vm(call, vm)
    row.ha_always_run = False
    if row.power_state == "Running":
        try:
            ask_until(
                call,
                row,
                call.machine.hypervisor.shutdown,
                lambda: row.power_state == "Halted",
                patience=float(row.shutdown_delay or 60),
            )
        except Failure as failure:
            if failure.code == "TASK_CANCELLED":
                raise
        else:
            linger(call, row.shutdown_delay)
            return
    if row.power_state == "Suspended":
        throw_away(call, row)
    elif row.power_state != "Halted":
        power_off(call, row)
        state.halted(call.db, call.machine, row)
        linger(call, row.shutdown_delay)


def power_off(call: Call, vm: VM) -> None:
    """End a VM's run. That it has ended meanwhile is as good."""
    try:
        with named_by_reference(vm):
            call.machine.hypervisor.destroy(vm.uuid)
    except Failure as failure:
        if failure.code != "VM_BAD_POWER_STATE":
            raise


def throw_away(call: Call, vm: VM) -> None:
    """A suspended VM is Halted, and its saved memory destroyed."""
    image = call.db.find(VDI, vm.suspend_VDI)
    with last_use(call, vm, image) if image is not None else nullcontext():
        state.halted(call.db, call.machine, vm)
        call.pipeline.durability.block()
        if image is not None:
            drop(call, image)


@message("VM.clean_reboot", holds="clean_reboot")
def clean_reboot(call: Call, vm: str) -> None:
    """Ask the guest to reboot and wait until it does. Raises VM_SHUTDOWN_TIMEOUT, TASK_CANCELLED."""
    row = _vm(call, vm)
    before = state.metrics_of(call.db, row).start_time

    def rebooted() -> bool:
        return row.power_state != "Running" or state.metrics_of(call.db, row).start_time != before

    with ExitStack() as undo:
        reserve(call, row, bool, undo)
        ask_until(call, row, call.machine.hypervisor.reboot, rebooted)
        if row.power_state == "Halted":
            # A guest that cannot reboot by itself has halted: start it again as it is described now.
            boot(call, row, paused=False)


@message("VM.hard_reboot", holds="hard_reboot")
def hard_reboot(call: Call, vm: str) -> None:
    """Cut a VM's power and boot it again, with whatever changed in its record.

    Raises what would keep it from booting, and then it runs on.
    """
    row, here = _vm(call, vm), call.host
    cancel_others(call, row)
    with ExitStack() as undo:
        # There is room: it has its memory already, and keeps it.
        check = partial(placement.assert_can_boot_here, call.db, row, here, with_memory=False)
        reserve(call, row, check, undo)
        power_off(call, row)
        state.halted(call.db, call.machine, row)
        boot(call, row, paused=False)


@message("VM.power_state_reset")
def power_state_reset(call: Call, vm: str) -> None:
    """Write down that a VM is Halted, whatever it was: for a host that is lost. One that runs here is ended.

    The memory of a suspended one goes, as with hard_shutdown: a Halted VM cannot be given it back, and nothing else
    would refer to it any more. That its SR does not answer is only logged.
    """
    row = _vm(call, vm)
    if row.is_control_domain:
        raise Failure("CANNOT_RESET_CONTROL_DOMAIN", row.ref)
    if row.uuid in {status.uuid for status in call.machine.hypervisor.statuses()}:
        power_off(call, row)
    if row.power_state == "Suspended":
        throw_away(call, row)
        return
    row.suspend_VDI = NULL
    state.halted(call.db, call.machine, row)


def cancel_others(call: Call, vm: VM) -> None:
    """A forced operation ends the gentle ones that are in its way."""
    for ref in [ref for ref in vm.current_operations if ref != call.task.ref]:
        running = call.pipeline.tasks.running.get(ref)
        if running is not None:
            running.cancel()


def ask_until(
    call: Call,
    vm: VM,
    ask: Callable[[str], None],
    reached: Callable[[], bool],
    patience: float = CLEAN_SHUTDOWN_PATIENCE,
) -> None:
    """Ask a guest for something, now and then again, and wait until the VM's records say that it was done.

    Raises what the first asking does, VM_SHUTDOWN_TIMEOUT [vm, seconds], TASK_CANCELLED.
    """
    woken = threading.Event()
    call.task.on_cancel(woken.set)
    with call.db.watching(woken.set, vm, state.metrics_of(call.db, vm)):
        with named_by_reference(vm):
            ask(vm.uuid)
        asked = time.monotonic()
        deadline = asked + patience
        while True:
            call.task.check()
            if reached():
                return
            clock = time.monotonic()
            if clock >= deadline:
                raise Failure("VM_SHUTDOWN_TIMEOUT", vm.ref, str(int(patience)))
            if clock >= asked + ASK_AGAIN:
                _ask_again(call, vm, ask)
                asked = time.monotonic()
            with only_waiting():
                woken.wait(max(0.0, min(asked + ASK_AGAIN, deadline) - time.monotonic()))
            woken.clear()


def _ask_again(call: Call, vm: VM, ask: Callable[[str], None]) -> None:
    try:
        if any(
            each.uuid == vm.uuid and each.domid != vm.domid for each in call.machine.hypervisor.statuses()
        ):
            return  # it has rebooted, which its record is about to say; asked again it would do so again
        ask(vm.uuid)
    except Failure as failure:
        # It may just have ended, which its record is about to say.
        log.debug("VM %s is not asked again: %s", vm.uuid, failure)
