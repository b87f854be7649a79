"""Metrics: every five seconds, one look at everything that is measured of the host, its VMs and SRs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import PBD, PIF, SR, VBD, VDI, VIF, VM, Host, Pool, VM_guest_metrics, VM_metrics
from kronos.dispatch.machine import Machine
from kronos.hypervisor.disk_facts import DiskStatistics
from kronos.hypervisor.usage import Usage
from kronos.metrics.archive import STEP
from kronos.metrics.keeping import Key
from kronos.network.names import emulated, port_name
from kronos.rules.devices import disk_name, disk_number
from kronos.rules.metrics import guests, host
from kronos.rules.metrics.rates import rate
from kronos.system import counters
from kronos.system.counters import Counters

log = logging.getLogger(__name__)

LATE = 0.2
"""Seconds after the end of a step at which it is measured: a clock that is slewed must not have it done before."""
TIDIED = 12
"""Rounds between two looks for archives of objects that are no more."""
EXTREMES = "create_min_max_in_new_VM_RRDs"
"""The pool's other_config key that has new VMs' archives keep minima and maxima."""
DiskPairs = dict[str, dict[str, tuple[DiskStatistics, DiskStatistics]]]


@dataclass(slots=True)
class Reading:
    """What one look found, at a moment of the monotonic clock."""

    moment: float
    counters: Counters
    usages: Mapping[str, Usage] = field(default_factory=dict)


class Metrics:
    """Measures on a thread of its own, and has archives saved."""

    def __init__(self, db: Database, machine: Machine) -> None:
        self.db = db
        self.machine = machine
        self.keeping = machine.metrics
        self._before: Reading | None = None
        self._rounds = 0
        self._complained = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Measure no more; every archive is in its file when this returns."""
        self._closed.set()
        self._thread.join(1.0)  # unless the layer below keeps it
        self.keeping.backup()

    def _keep(self) -> None:
        while not self._closed.is_set():
            try:
                self.round(time.time())
                self._complained = False
            except Failure as failure:
                self._complain(failure)
            except Exception as error:  # noqa: BLE001 - the next round is to come all the same
                self._complain(error, exc_info=True)
            self._closed.wait(STEP - (time.time() - LATE) % STEP)

    def _complain(self, error: Exception, *, exc_info: bool = False) -> None:
        """The log is not to have the same in it every five seconds."""
        if not self._complained:
            self._complained = True
            log.warning("Metrics are not measured: %s", error, exc_info=exc_info)

    def round(self, now: float) -> None:
        """Measure once, at a time in seconds since 1970."""
        reading = self._look()
        before, self._before = self._before, reading
        disks = self._guests(now, before, reading)
        self._host(now, before, reading, disks)
        self._storage(now)
        if self._rounds % TIDIED == 0:
            self._tidy()
        self._rounds += 1
        self.keeping.save_due()

    def _look(self) -> Reading:
        counted = counters.read()
        moment = time.monotonic()
        usages: list[Usage] = []
        row = self.db.get(Host, self.machine.host_ref)
        if any(ref != row.control_domain for ref in row.resident_VMs):
            with suppress(Failure):  # while libvirt is away nothing is known of VMs, and the host goes on
                usages = self.machine.hypervisor.usages()
        return Reading(moment, counted, {usage.uuid: usage for usage in usages})

    # VMs

    def _guests(self, now: float, before: Reading | None, reading: Reading) -> DiskPairs:
        """Measure all VMs; what their disks did, by SR uuid."""
        by_sr: DiskPairs = {}
        extremes = self._pool_wants_extremes()
        seen = set()
        for uuid, usage in reading.usages.items():
            vm = self._vm(uuid)
            if vm is None:
                continue
            seen.add(Key("vm", uuid))
            old = before.usages.get(uuid) if before is not None else None
            known, places = self._surroundings(vm)
            traffic = before.counters.traffic if before is not None else {}
            found = guests.values(old, usage, known, traffic, reading.counters.traffic)
            self.keeping.take(Key("vm", uuid), now, found, extremes=extremes)
            if old is not None and old.domid == usage.domid:
                for number, sr in places.items():
                    if number in old.disks and number in usage.disks:
                        pairs = by_sr.setdefault(sr, {})
                        pairs[f"{uuid}.{number}"] = old.disks[number], usage.disks[number]
        zero = self._control_domain(now, before, reading)
        for key in self.keeping.measured():
            if key.owner == "vm" and key not in seen and key != zero:
                self.keeping.rest(key)
        return by_sr

    def _vm(self, uuid: str) -> VM | None:
        with suppress(Failure):
            return self.db.by_uuid(VM, uuid)
        return None  # somebody else's

    def _surroundings(self, vm: VM) -> tuple[guests.Surroundings, dict[int, str]]:
        """What the records say, and the SRs of its disks by device number."""
        db = self.db
        disks, places, interfaces = {}, {}, {}
        for vbd in (db.find(VBD, ref) for ref in vm.VBDs):
            number = disk_number(vbd.userdevice) if vbd is not None else None
            if vbd is None or number is None or not vbd.currently_attached or vbd.empty:
                continue
            disks[number] = vbd.device if vbd.device.isalpha() else disk_name(number)
            vdi = db.find(VDI, vbd.VDI)
            sr = db.find(SR, vdi.SR) if vdi is not None else None
            if sr is not None:
                places[number] = sr.uuid
        for vif in (db.find(VIF, ref) for ref in vm.VIFs):
            if vif is not None and vif.currently_attached and vif.device.isdigit():
                with suppress(Failure):
                    name = port_name(vm.uuid, int(vif.device))
                    interfaces[vif.device] = tuple(
                        each for each in (name, emulated(name)) if each is not None
                    )
        metrics = db.find(VM_metrics, vm.metrics)
        told = db.find(VM_guest_metrics, vm.guest_metrics)
        free = told.memory.get("free", "") if told is not None and told.live else ""
        memory = metrics.memory_actual if metrics is not None else vm.memory_target
        plain = free.isascii() and free.isdigit() and len(free) < 16
        target = vm.memory_target
        return guests.Surroundings(memory, target, int(free) if plain else None, disks, interfaces), places

    def _control_domain(self, now: float, before: Reading | None, reading: Reading) -> Key | None:
        row = self.db.find(VM, self.db.get(Host, self.machine.host_ref).control_domain)
        if row is None:
            return None
        old = before.counters if before is not None else None
        seconds = reading.moment - before.moment if before is not None else 0.0
        metrics = self.db.find(VM_metrics, row.metrics)
        memory = metrics.memory_actual if metrics is not None else row.memory_target
        found = host.control_domain(old, reading.counters, seconds, memory, row.memory_target)
        self.keeping.take(Key("vm", row.uuid), now, found)
        return Key("vm", row.uuid)

    def _pool_wants_extremes(self) -> bool:
        pool = next(iter(self.db.all(Pool)), None)
        return pool is not None and pool.other_config.get(EXTREMES) == "true"

    # The host and its SRs

    def _host(self, now: float, before: Reading | None, reading: Reading, disks: DiskPairs) -> None:
        row = self.db.get(Host, self.machine.host_ref)
        old = before.counters if before is not None else None
        seconds = reading.moment - before.moment if before is not None else 0.0
        for pbd in self._plugged():
            sr = self.db.find(SR, pbd.SR)
            if sr is not None and sr.content_type != "iso":
                disks.setdefault(sr.uuid, {})
        found = host.values(
            old, reading.counters, seconds, self._host_surroundings(row, before, reading, disks)
        )
        self.keeping.take(Key("host", row.uuid), now, found, extremes=True)

    def _host_surroundings(
        self, row: Host, before: Reading | None, reading: Reading, disks: DiskPairs
    ) -> host.Surroundings:
        db = self.db
        total, free = reading.counters.memory_total, reading.counters.memory_available
        processors = self.machine.hypervisor.physical_processors()
        used = 0.0
        if processors is not None:  # the control domain sees a part of the machine alone
            physical = self.machine.hypervisor.physical_memory()
            if physical is not None:
                total, free = physical.total >> 10, physical.free >> 10
            used = _processors(before, reading)
        pifs = [pif for pif in db.all(PIF) if pif.host == row.ref and pif.VLAN < 0]
        running = [usage for usage in reading.usages.values() if usage.running]
        vms = [vm for vm in (self._vm(usage.uuid) for usage in running) if vm is not None]
        return host.Surroundings(
            memory_total=total,
            memory_free=free,
            nics=[pif.device for pif in pifs],
            physical={pif.device for pif in pifs if pif.physical},
            sessions=len(db.tables["session"].rows),
            tasks=len(db.tables["task"].rows),
            running_domains=len(running) + 1,
            reclaimed=sum(vm.memory_dynamic_max - vm.memory_target for vm in vms),
            reclaimable=sum(vm.memory_target - vm.memory_dynamic_min for vm in vms),
            processors=processors,
            guest_processors=used,
            disks=disks,
        )

    def _plugged(self) -> list[PBD]:
        return [
            pbd for pbd in self.db.all(PBD) if pbd.host == self.machine.host_ref and pbd.currently_attached
        ]

    def _storage(self, now: float) -> None:
        plugged = set()
        for pbd in self._plugged():
            sr = self.db.find(SR, pbd.SR)
            if sr is not None:
                plugged.add(Key("sr", sr.uuid))
                size, used = self._space(sr)
                found = {
                    "physical_size": size,
                    "physical_utilisation": used,
                    "virtual_allocation": sr.virtual_allocation,
                }
                self.keeping.take(Key("sr", sr.uuid), now, found, extremes=True)
        for key in self.keeping.measured():
            if key.owner == "sr" and key not in plugged:
                self.keeping.rest(key)

    def _space(self, sr: SR) -> tuple[int, int]:
        """Its size and what is used of it: as its driver sees it now where that costs nothing, else by the records."""
        driver = self.machine.storage.get(sr.uuid)
        with suppress(Failure, OSError):
            found = driver.space_now() if driver is not None else None
            if found is not None:
                return found
        return sr.physical_size, sr.physical_utilisation

    def _tidy(self) -> None:
        """Remove the archives of VMs and SRs that are gone."""
        known = {Key("vm", row.uuid) for row in self.db.all(VM)}
        known |= {Key("sr", row.uuid) for row in self.db.all(SR)}
        known |= {Key("host", row.uuid) for row in self.db.all(Host)}
        self.keeping.forget(known)


def _processors(before: Reading | None, reading: Reading) -> float:
    """How many processors all VMs together kept busy."""
    total = 0.0
    for uuid, usage in reading.usages.items():
        old = before.usages.get(uuid) if before is not None else None
        if old is not None and old.domid == usage.domid and usage.processor >= old.processor:
            total += rate(old.processor / 1e9, usage.processor / 1e9, usage.moment - old.moment)
    return total
