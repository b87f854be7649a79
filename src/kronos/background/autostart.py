"""VMs that start with their host: those with auto_poweron, in a pool that has it, once after each boot of the host."""

from __future__ import annotations

import logging
import time
from itertools import groupby
from pathlib import Path

from kronos.datamodel.errors import Failure
from kronos.db.records import VM, Pool
from kronos.dispatch.pipeline import Pipeline
from kronos.system import hardware
from kronos.system.files import write_whole

log = logging.getLogger(__name__)

KEY = "auto_poweron"
_RECORD = "booted"


def start_after_boot(pipeline: Pipeline, state: Path) -> None:
    """Start them one after the other if the host has booted since this was last done. `state` remembers the boot.

    In the order of VM.order; what waits for a VM with a VM.start_delay waits so many seconds after its start. A daemon
    that is killed meanwhile goes on when it runs again. Those that cannot be started are told by a message.
    """
    record, boot = state / _RECORD, hardware.boot_id()
    if _read(record) == boot:
        return
    if any(pool.other_config.get(KEY) == "true" for pool in pipeline.db.all(Pool)):
        chosen = [vm for vm in pipeline.db.all(VM) if _starts(vm)]
        for _, together in groupby(sorted(chosen, key=lambda vm: (vm.order, vm.uuid)), lambda vm: vm.order):
            delays = [vm.start_delay for vm in together if _start(pipeline, vm)]
            time.sleep(max(delays, default=0))
    write_whole(record, boot.encode())


def _read(record: Path) -> str:
    try:
        return record.read_text()
    except FileNotFoundError:
        return ""


def _starts(vm: VM) -> bool:
    is_guest = not (vm.is_a_template or vm.is_a_snapshot or vm.is_control_domain)
    return is_guest and vm.power_state == "Halted" and vm.other_config.get(KEY) == "true"


def _start(pipeline: Pipeline, vm: VM) -> bool:
    log.info("VM %s is started with its host", vm.uuid)
    try:
        pipeline.perform_internal("Async.VM.start", vm.ref, False, False)
        return True
    except Failure as failure:
        if failure.code not in ("HANDLE_INVALID", "VM_BAD_POWER_STATE"):  # somebody else was quicker
            log.warning("VM %s could not be started with its host: %s", vm.uuid, failure)
            body = f"The VM could not be started with its host: {failure}"
            pipeline.perform_internal("message.create", "VM_START_FAILED", 3, "VM", vm.uuid, body)
        return False
