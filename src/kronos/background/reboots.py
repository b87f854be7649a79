"""Reboots that the hypervisor leaves to the toolstack: a guest that ended to begin anew is booted again.

So it is with guests whose kernel a loader finds: after an installation it is another one.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

from kronos.api.vm import state
from kronos.background.starts import start_or_tell
from kronos.datamodel.types import NULL
from kronos.db.records import VM
from kronos.dispatch.pipeline import Pipeline
from kronos.hypervisor.base import Reason
from kronos.rules import boot

log = logging.getLogger(__name__)

_KIND = "boot-again"


class Reboots:
    """Boots VMs again, each on a thread of its own. A reboot that a crash of this daemon cuts short is taken up."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.db = pipeline.db
        self.machine = pipeline.machine

    def halted(self, vm: VM, reason: Reason | None) -> None:
        """The hypervisor says that a VM has ended: write it down, and boot it again where that is what it wanted."""
        if not boot.starts_again(vm, reason):
            state.heard_halted(self.db, self.machine, vm)
            return
        with ExitStack() as declared:
            # Before the record says Halted: from then on nothing else knows that the guest is to go on.
            name, facts = f"{_KIND}-{vm.uuid}-{vm.domid}", {"kind": _KIND, "vm": vm.uuid}
            declared.enter_context(self.machine.intents.declared(name, facts))
            if state.heard_halted(self.db, self.machine, vm):
                self.pipeline.task_workers.submit(self._boot, vm, declared.pop_all())

    def take_up(self) -> None:
        """Boot those VMs again whose reboot a crash cut short, once their records say what runs."""
        for name, facts in self.machine.intents.left().items():
            if facts.get("kind") != _KIND:
                continue
            ref = self.db.tables["VM"].by_uuid(facts["vm"])
            vm = self.db.find(VM, ref) if ref is not None else None
            with ExitStack() as declared:
                # It may be cut short again.
                declared.callback(self.machine.intents.settle, name)
                if vm is not None and vm.power_state == "Halted":
                    self.pipeline.task_workers.submit(self._boot, vm, declared.pop_all())

    def _boot(self, vm: VM, declared: ExitStack) -> None:
        with declared:
            log.info("VM %s rebooted, and is booted again", vm.uuid)
            # Its place here is kept: that the host takes no VMs any more is not said of one that was here before.
            self._keep_place(vm, self.machine.host_ref)
            try:
                start_or_tell(
                    self.pipeline, vm, "VM_REBOOT_FAILED", "The VM rebooted and could not be booted again"
                )
            finally:
                self._keep_place(vm, NULL)

    def _keep_place(self, vm: VM, host: str) -> None:
        if vm.ref in self.db.rows:
            vm.scheduled_to_be_resident_on = host
