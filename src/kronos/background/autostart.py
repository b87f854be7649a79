"""VMs that start with their host: those with auto_poweron, in a pool that has it, once after each boot of the host."""

from __future__ import annotations

import logging
from pathlib import Path

from kronos.background.starts import start_or_tell
from kronos.db.records import VM, Pool
from kronos.dispatch.pipeline import Pipeline
from kronos.system import hardware
from kronos.system.files import write_whole

log = logging.getLogger(__name__)

KEY = "auto_poweron"
_RECORD = "booted"


def start_after_boot(pipeline: Pipeline, state: Path) -> None:
    """Start them one after the other if the host has booted since this was last done. `state` remembers the boot.

    In the order of VM.order, each with its start_delay. A daemon that is killed meanwhile goes on when it runs again.
    One that cannot be started is told by a message VM_START_FAILED, and the others are started all the same.
    """
    record, boot = state / _RECORD, hardware.boot_id()
    if _read(record) == boot:
        return
    if any(pool.other_config.get(KEY) == "true" for pool in pipeline.db.all(Pool)):
        chosen = [vm for vm in pipeline.db.all(VM) if _starts(vm)]
        for vm in sorted(chosen, key=lambda vm: (vm.order, vm.uuid)):
            log.info("VM %s is started with its host", vm.uuid)
            start_or_tell(pipeline, vm, "VM_START_FAILED", "The VM could not be started with its host")
    write_whole(record, boot.encode())


def _read(record: Path) -> str:
    try:
        return record.read_text()
    except FileNotFoundError:
        return ""


def _starts(vm: VM) -> bool:
    is_guest = not (vm.is_a_template or vm.is_a_snapshot or vm.is_control_domain)
    return is_guest and vm.power_state == "Halted" and vm.other_config.get(KEY) == "true"
