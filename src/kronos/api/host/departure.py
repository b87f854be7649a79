"""host.prepare_for_poweroff: its VMs are put away before the machine goes down.

xapi-domains.service calls it when systemd stops it, which is before libvirt, Xen's services and this daemon.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import wait

from kronos.api.host.power import UNTIL_REBOOT
from kronos.datamodel.errors import Failure
from kronos.db.records import VM, Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.dispatch.task import Task
from kronos.dispatch.workers import only_waiting
from kronos.rules import evacuation
from kronos.rules.departure import Wish, stages, wish
from kronos.rules.surroundings import LIVE
from kronos.system import hardware

log = logging.getLogger(__name__)

RESUMES = "suspended_with_host"
"""Local key: the uuids of VMs that are to go on at the next boot; those that were paused have a `!` behind."""


@message("host.prepare_for_poweroff")
def prepare_for_poweroff(call: Call, host: str) -> None:
    """Put away the VMs of this host as they wish (`rules.departure`), the last to start first, and take no more until
    the machine has booted again. Whatever fails, none of them runs when this returns."""
    row = call.db.get(Host, host)
    pool = call.db.all(Pool)[0]
    keys = call.machine.keys
    row.enabled = False
    keys.put(UNTIL_REBOOT, hardware.boot_id())
    wishes = {vm: wish(vm, pool) for vm in evacuation.residents(call.db, row)}
    for vm in [vm for vm, wanted in wishes.items() if wanted is None]:
        log.info("VM %s (%s) is left running, as its other_config says", vm.uuid, vm.name_label)
    going = [vm for vm, wanted in wishes.items() if wanted is not None]
    resumed = [f"{vm.uuid}{'!' * (vm.power_state == 'Paused')}" for vm in going if _suspends(wishes[vm])]
    # Before the first is suspended, or one would be forgotten by a daemon that is killed.
    keys.put(RESUMES, " ".join(resumed))
    done = 0
    for group in stages(going):
        ended = [
            call.pipeline.task_workers.submit(_put_away, call, vm, found)
            for vm in group
            if (found := wishes[vm]) is not None
        ]
        with only_waiting():
            wait(ended)
        done += len(group)
        call.task.progress(done / len(going))
    for vm in going:
        if vm.power_state in LIVE:  # it came back meanwhile, or was never heard of
            _cut(call, vm)


def _suspends(wanted: Wish | None) -> bool:
    return wanted is not None and wanted.action == "suspend"


def _put_away(call: Call, vm: VM, wanted: Wish) -> None:
    """Do what is wanted for a VM, and where that fails, what is next to it: shutting down, cutting its power."""
    name = f"VM {vm.uuid} ({vm.name_label})"
    try:
        if wanted.action == "migrate" and _moved(call, vm, name):
            return
        if wanted.action == "suspend" and _suspended(call, vm, wanted.limit, name):
            return
        if vm.power_state == "Running" and _shut_down(call, vm, wanted.limit, name):
            return
    except Exception:  # whatever it is, the machine goes down
        log.exception("%s", name)
    _cut(call, vm)


def _moved(call: Call, vm: VM, name: str) -> bool:
    target = evacuation.plan(call.db, call.db.get(Host, vm.resident_on))[vm.ref]
    try:
        if isinstance(target, Failure):
            raise target
        _perform(call, "VM.pool_migrate", vm, target, {"live": "true"})
    except Failure as failure:
        log.warning("%s cannot move to another host, and is shut down instead: %s", name, failure)
        return False
    log.info("%s has moved to another host", name)
    return True


def _suspended(call: Call, vm: VM, limit: int, name: str) -> bool:
    """Suspend it. What else is under way with it gets `limit` seconds to end; the writing takes what it takes."""
    log.info("%s is suspended", name)
    try:
        if vm.power_state == "Paused":
            _perform(call, "VM.unpause", vm, limit=limit)
        _perform(call, "VM.suspend", vm, limit=limit)
    except Failure as failure:
        log.warning("%s cannot be suspended, and is shut down instead: %s", name, failure)
        return False
    return True


def _shut_down(call: Call, vm: VM, limit: int, name: str) -> bool:
    """Ask the guest to, and wait for at most `limit` seconds. False where it still runs then."""
    log.info("%s is asked to shut down within %d s", name, limit)
    try:
        _perform(call, "VM.clean_shutdown", vm, limit=limit)
    except Failure as failure:
        log.warning("%s did not shut down: %s", name, failure.code)
    return vm.power_state == "Halted"


def _cut(call: Call, vm: VM) -> None:
    if vm.power_state not in LIVE:
        return
    log.warning("VM %s (%s) is shut down by force", vm.uuid, vm.name_label)
    try:
        _perform(call, "VM.hard_shutdown", vm)
    except Failure as failure:
        log.error("VM %s still runs: %s", vm.uuid, failure)


def _perform(call: Call, name: str, vm: VM, *arguments: object, limit: int = 0) -> None:
    """A part of this call that is cancelled after `limit` seconds, where there is a limit and the VM still runs."""
    task = Task(call.db, name)
    timer = threading.Timer(limit, lambda: task.cancel() if vm.power_state in LIVE else None)
    timer.daemon = True
    if limit:
        timer.start()
    try:
        call.pipeline.perform(call.origin, call.session, name, (vm.ref, *arguments), task, part=True)
    finally:
        timer.cancel()
