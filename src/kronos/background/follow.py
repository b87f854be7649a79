"""Follow: what happens to VMs behind our back — a guest that powers itself off, virsh — goes into the records."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from kronos.api.vm import guest, state
from kronos.background.reboots import Reboots
from kronos.background.reconcile import reconcile
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import now
from kronos.db.records import VBD, VIF, VM, VUSB
from kronos.dispatch.pipeline import Pipeline
from kronos.hypervisor.base import Event, EventKind
from kronos.rules.devices import disk_number, usb_number

log = logging.getLogger(__name__)


class Follow:
    """Writes the hypervisor's events into the records, in their order, on a thread of its own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.db = pipeline.db
        self.machine = pipeline.machine
        self.reboots = Reboots(pipeline)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    def start(self) -> None:
        """Listen first, then compare: nothing that happens in between is missed."""
        self._stop = self.machine.hypervisor.watch(self._events.put)
        reconcile(self.db, self.machine)
        self._thread.start()

    def close(self) -> None:
        self._stop()
        self._events.put(None)

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._apply(event)
            except Exception:  # one VM's trouble must not stop the others' events
                log.exception("Event %s", event)

    def _apply(self, event: Event) -> None:
        try:
            vm = self.db.by_uuid(VM, event.uuid)
        except Failure:
            return  # not ours
        match event.kind:
            case EventKind.HALTED | EventKind.CRASHED:
                self.reboots.halted(vm, event.reason)
            case EventKind.PAUSED | EventKind.RESUMED:
                state.look(self.db, self.machine, vm)
            case EventKind.REBOOTED:
                if event.value:
                    vm.domid = event.value
                self.db.write(state.metrics_of(self.db, vm), {"start_time": now(), "last_updated": now()})
                guest.forget(self.db, vm)
            case EventKind.AGENT_CONNECTED:
                guest.refresh_later(self.db, self.machine, vm)
            case EventKind.AGENT_DISCONNECTED:
                guest.forget(self.db, vm)
            case EventKind.DEVICE_REMOVED if event.device is not None:
                self._device_removed(vm, event.device.kind, event.device.number)
            case EventKind.MEMORY_CHANGED:
                self.db.write(state.metrics_of(self.db, vm), {"memory_actual": event.value})
            case _:
                pass

    def _device_removed(self, vm: VM, kind: str, number: int) -> None:
        """A device is gone from the guest: an unplug that took its time, or one that somebody else asked for."""
        found: list[VBD | VIF | VUSB]
        if kind == "disk":
            vbds = [self.db.get(VBD, ref) for ref in vm.VBDs]
            found = [vbd for vbd in vbds if disk_number(vbd.userdevice) == number]
        elif kind == "usb":
            vusbs = [self.db.get(VUSB, ref) for ref in vm.VUSBs]
            found = [vusb for vusb in vusbs if usb_number(vusb.uuid) == number]
        else:
            found = [vif for vif in (self.db.get(VIF, ref) for ref in vm.VIFs) if vif.device == str(number)]
        for device in found:
            state.device_gone(self.db, self.machine, vm, device)
