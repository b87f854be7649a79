"""VMs that start with their host, once after each boot of it: those that were suspended when it went down, and, in a
pool that has auto_poweron, the halted ones that have it too."""

from __future__ import annotations

import logging
from pathlib import Path

from kronos.api.host.departure import RESUMES
from kronos.background.starts import resume_or_tell, start_or_tell
from kronos.db.records import VM, Pool
from kronos.dispatch.pipeline import Pipeline
from kronos.rules.departure import rank
from kronos.system import hardware
from kronos.system.files import write_whole

log = logging.getLogger(__name__)

KEY = "auto_poweron"
_RECORD = "booted"
_FAILED = "VM_START_FAILED"


def start_after_boot(pipeline: Pipeline, state: Path) -> None:
    """Start them one after the other if the host has booted since this was last done. `state` remembers the boot.

    In the order of VM.order, each with its start_delay. A daemon that is killed meanwhile goes on when it runs again.
    One that cannot be started is told by a message VM_START_FAILED, and the others are started all the same.
    """
    record, boot = state / _RECORD, hardware.boot_id()
    if _read(record) == boot:
        return
    keys = pipeline.machine.keys
    suspended = set(keys.get(RESUMES).split())
    powers_on = any(pool.other_config.get(KEY) == "true" for pool in pipeline.db.all(Pool))
    for vm in sorted(pipeline.db.all(VM), key=lambda vm: (rank(vm.order), vm.uuid)):
        if vm.power_state == "Suspended" and not suspended.isdisjoint({vm.uuid, f"{vm.uuid}!"}):
            log.info("VM %s goes on with its host", vm.uuid)
            paused = f"{vm.uuid}!" in suspended
            resume_or_tell(pipeline, vm, _FAILED, "The VM could not be resumed with its host", paused=paused)
        elif powers_on and _starts(vm):
            log.info("VM %s is started with its host", vm.uuid)
            start_or_tell(pipeline, vm, _FAILED, "The VM could not be started with its host")
    keys.put(RESUMES, "")
    write_whole(record, boot.encode())


def _read(record: Path) -> str:
    try:
        return record.read_text()
    except FileNotFoundError:
        return ""


def _starts(vm: VM) -> bool:
    is_guest = not (vm.is_a_template or vm.is_a_snapshot or vm.is_control_domain)
    return is_guest and vm.power_state == "Halted" and vm.other_config.get(KEY) == "true"
