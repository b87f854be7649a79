"""The sum of what VMs were promised, against adding it all up again after every change."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import VM, Host, Host_metrics, VM_metrics
from kronos.rules import memory
from kronos.rules.memory import Limits
from kronos.rules.surroundings import domain_type

TOTAL = 1 << 45
which = st.integers(0, 9)


def added_up(db: Database, host: Host, policy: memory.Policy) -> int:
    left = TOTAL
    for vm in db.all(VM):
        if host.ref in (vm.resident_on, vm.scheduled_to_be_resident_on):
            hypervisor, kind = memory.hypervisor_of(host), domain_type(db, vm)
            if vm.is_control_domain and host.control_domain == vm.ref:
                left -= policy(Limits.of(vm)) if hypervisor == "XEN" else 0
            else:
                left -= policy(Limits.of(vm)) + memory.overhead(vm, hypervisor, kind)
    return left


class Starts(RuleBasedStateMachine):
    """VMs come, go, change, move and are undone, in any order."""

    @initialize()
    def make(self) -> None:
        self.db = Database()
        self.hosts = []
        for _ in range(2):
            metrics = self.db.create(Host_metrics, memory_total=TOTAL, memory_free=TOTAL)
            self.hosts.append(
                self.db.create(Host, metrics=metrics.ref, software_version={"hypervisor": "XEN"})
            )
        self.vms = []
        for number in range(3):
            self.add(number)

    @rule(number=which)
    def add(self, number: int) -> None:
        metrics = self.db.create(VM_metrics)
        size = (number + 1) << 24
        limits = dict.fromkeys(("memory_static_max", "memory_dynamic_max", "memory_dynamic_min"), size)
        self.vms.append(self.db.create(VM, metrics=metrics.ref, VCPUs_max=number + 1, **limits))

    @rule(
        number=which,
        host=st.integers(0, 2),
        field=st.sampled_from(["resident_on", "scheduled_to_be_resident_on"]),
    )
    def move(self, number: int, host: int, field: str) -> None:
        vm = self.vms[number % len(self.vms)]
        self.db.write(vm, {field: self.hosts[host].ref if host < 2 else NULL})

    @rule(number=which, size=st.integers(1, 64))
    def resize(self, number: int, size: int) -> None:
        self.db.write(self.vms[number % len(self.vms)], {"memory_dynamic_max": size << 20})

    @rule(number=which, state=st.sampled_from(["Running", "Halted"]), kind=st.sampled_from(["pv", "hvm"]))
    def run(self, number: int, state: str, kind: str) -> None:
        vm = self.vms[number % len(self.vms)]
        self.db.write(vm, {"power_state": state})
        self.db.write(self.db.get(VM_metrics, vm.metrics), {"current_domain_type": kind})

    @rule(number=which)
    def control(self, number: int) -> None:
        vm = self.vms[number % len(self.vms)]
        self.db.write(vm, {"is_control_domain": True})
        self.db.write(self.hosts[0], {"control_domain": vm.ref})

    @rule(hypervisor=st.sampled_from(["XEN", "KVM"]))
    def update(self, hypervisor: str) -> None:
        self.db.write(self.hosts[0], {"software_version": {"hypervisor": hypervisor}})

    @rule(number=which)
    def remove(self, number: int) -> None:
        if len(self.vms) > 1:
            self.db.delete(self.vms.pop(number % len(self.vms)))

    @rule(number=which)
    def undo(self, number: int) -> None:
        vm = self.vms[number % len(self.vms)]
        with pytest.raises(KeyError), self.db.transaction():
            self.db.write(vm, {"resident_on": self.hosts[0].ref, "memory_dynamic_max": 1 << 30})
            memory.free(self.db, self.hosts[0])
            self.db.delete(self.vms[0])
            raise KeyError

    @invariant()
    def the_sum_is_that_of_all(self) -> None:
        for host in self.hosts:
            for policy in (memory.dynamic_max, memory.static_max):
                wanted = max(0, added_up(self.db, host, policy))
                assert memory.free(self.db, host, policy) == wanted


TestStarts = Starts.TestCase
TestStarts.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_question_costs_what_has_changed_and_not_what_there_is(monkeypatch):
    db = Database()
    metrics = db.create(Host_metrics, memory_total=TOTAL, memory_free=TOTAL)
    host = db.create(Host, metrics=metrics.ref)
    vms = [db.create(VM, resident_on=host.ref, memory_dynamic_max=1 << 24) for _ in range(200)]
    memory.free(db, host)
    counted = []
    count = memory.overhead
    monkeypatch.setattr(memory, "overhead", lambda vm, *rest: counted.append(vm) or count(vm, *rest))
    vms[3].memory_dynamic_max = 2 << 24
    memory.free(db, host)
    assert counted == [vms[3]]


def test_deletions_that_the_database_forgot_do_not_stay_in_the_sum(monkeypatch):
    db = Database()
    metrics = db.create(Host_metrics, memory_total=TOTAL, memory_free=TOTAL)
    host = db.create(Host, metrics=metrics.ref)
    vm = db.create(VM, resident_on=host.ref, memory_dynamic_max=1 << 24)
    memory.free(db, host)
    db.delete(vm)
    db.deletions.clear()
    db.forgotten = db.generation
    assert memory.free(db, host) == TOTAL
