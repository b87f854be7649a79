"""VM's settings: what each setter takes, what it changes beside, and how it refuses."""

from __future__ import annotations

import pytest

from kronos.api.vm import lifecycle
from kronos.datamodel.types import NULL
from kronos.db.records import VM, VMSS, VM_appliance, VM_metrics


def test_the_processors_of_the_next_start_are_set_while_the_vm_runs(host):
    """Clients do that beside VM.set_VCPUs_number_live."""
    vm = host.halted_vm(VCPUs_max=4)
    host("VM.start", vm.ref, False, False)
    host("VM.set_VCPUs_at_startup", vm.ref, 3)
    assert vm.VCPUs_at_startup == 3


@pytest.mark.parametrize(
    ("name", "value"), [("VCPUs_max", 0), ("VCPUs_max", 1), ("VCPUs_at_startup", 0), ("VCPUs_at_startup", 5)]
)
def test_numbers_of_processors_that_do_not_go_together_are_invalid(host, name, value):
    vm = host.halted_vm(VCPUs_max=4, VCPUs_at_startup=2)
    refused = host.refused(f"VM.set_{name}", vm.ref, value)
    assert (refused[0], refused[2:]) == ("INVALID_VALUE", [str(value)])
    assert (vm.VCPUs_max, vm.VCPUs_at_startup) == (4, 2)


@pytest.mark.parametrize("name", ["start_delay", "shutdown_delay", "order"])
def test_a_delay_or_place_below_nothing_is_invalid(host, name):
    vm = host.halted_vm()
    refused = host.refused(f"VM.set_{name}", vm.ref, -1)
    assert (refused[0], refused[2:]) == ("INVALID_VALUE", ["-1"])


def test_a_shadow_multiplier_below_one_is_invalid(host):
    vm = host.halted_vm()
    refused = host.refused("VM.set_HVM_shadow_multiplier", vm.ref, 0.5)
    assert refused == ["INVALID_VALUE", "multiplier", "0.5"]


def test_a_vm_runs_as_something(host):
    vm = host.halted_vm()
    refused = host.refused("VM.set_domain_type", vm.ref, "unspecified")
    assert refused == ["INVALID_VALUE", "domain_type", "unspecified"]


def test_a_default_template_is_marked_in_both_ways(host):
    vm = host.halted_vm()
    host("VM.set_is_default_template", vm.ref, True)
    assert (vm.is_a_template, vm.is_default_template) == (True, True)
    assert vm.other_config["default_template"] == "true"
    host("VM.set_is_default_template", vm.ref, False)
    assert (vm.is_a_template, vm.is_default_template) == (True, False)
    assert vm.other_config["default_template"] == "false"


def test_a_running_vm_does_not_become_a_default_template(host):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    assert host.refused("VM.set_is_default_template", vm.ref, True)[0] == "VM_BAD_POWER_STATE"
    assert not vm.is_default_template


@pytest.mark.parametrize("kind", ["is_a_template", "is_a_snapshot", "is_control_domain"])
def test_only_vms_proper_are_in_an_appliance(xapi, kind):
    vm, appliance = xapi.db.create(VM, **{kind: True}), xapi.db.create(VM_appliance)
    assert xapi.refused("VM.set_appliance", vm.ref, appliance.ref)[0] == "OPERATION_NOT_ALLOWED"
    assert appliance.VMs == ()


def test_a_running_vm_is_protected_as_soon_as_its_priority_says_so(host):
    vm = host.halted_vm()
    host("VM.set_ha_restart_priority", vm.ref, "restart")
    assert not vm.ha_always_run
    host("VM.start", vm.ref, False, False)
    assert vm.ha_always_run
    host("VM.set_ha_restart_priority", vm.ref, "best-effort")
    assert not vm.ha_always_run


def test_the_old_way_to_protect_a_vm_is_a_priority(host):
    vm = host.halted_vm()
    host("VM.set_ha_always_run", vm.ref, True)
    assert vm.ha_restart_priority == "restart"
    host("VM.set_ha_always_run", vm.ref, False)
    assert vm.ha_restart_priority == ""


@pytest.mark.parametrize("name", ["hard_shutdown", "clean_shutdown", "shutdown", "suspend"])
def test_a_vm_that_is_ended_by_a_call_is_not_to_run_always(host, name):
    vm = host.halted_vm(ha_restart_priority="restart")
    host("VM.start", vm.ref, False, False)
    host(f"VM.{name}", vm.ref)
    assert (vm.ha_always_run, vm.ha_restart_priority) == (False, "restart")


def test_the_control_domain_is_not_reset(xapi):
    vm = xapi.db.create(VM, is_control_domain=True, power_state="Running")
    assert xapi.refused("VM.power_state_reset", vm.ref) == ["CANNOT_RESET_CONTROL_DOMAIN", vm.ref]


def test_a_vm_made_of_a_whole_record_is_neither_blocked_nor_scheduled_as_the_other_was(host):
    schedule = host.db.create(VMSS)
    vm = host.halted_vm(blocked_operations={"destroy": "no"}, snapshot_schedule=schedule.ref)
    assert (vm.blocked_operations, vm.snapshot_schedule) == ({}, NULL)


def test_a_vm_whose_memory_was_destroyed_has_none(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    host("VM.suspend", vm.ref)
    host("VDI.destroy", vm.suspend_VDI)
    assert (vm.power_state, vm.suspend_VDI) == ("Suspended", NULL)


@pytest.mark.parametrize("obeys", [True, False])
def test_a_shutdown_waits_for_the_guest_and_after_it_as_long_as_its_delay_says(host, monkeypatch, obeys):
    waits: list[float] = []
    monkeypatch.setattr(lifecycle, "linger", lambda call, seconds: waits.append(seconds))
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    waits.clear()
    vm.shutdown_delay = 1
    if not obeys:
        monkeypatch.setattr(host.hypervisor, "shutdown", lambda uuid: None)
    host("VM.shutdown", vm.ref)
    assert (vm.power_state, waits) == ("Halted", [1])


def test_a_vm_that_must_stay_is_said_to_as_long_as_it_runs_so(host):
    """It is the machine that it was started with that cannot move, whatever is set meanwhile."""
    vm = host.halted_vm(platform={"nomigrate": "true"})
    host("VM.start", vm.ref, False, False)
    metrics = host.db.get(VM_metrics, vm.metrics)
    assert (metrics.nomigrate, metrics.nested_virt) == (True, False)
    assert "suspend" not in vm.allowed_operations
    vm.platform = {}
    assert "suspend" not in vm.allowed_operations
    host("VM.suspend", vm.ref)
    host("VM.resume", vm.ref, False, False)
    assert metrics.nomigrate
    host("VM.hard_reboot", vm.ref)
    assert "suspend" in vm.allowed_operations


def test_the_record_says_what_the_host_needs_beside_the_guests_memory(host):
    vm = host.halted_vm()
    seen = []
    for change, *values in (("VCPUs_max", 32), ("memory", 1 << 30)):
        host(f"VM.set_{change}", vm.ref, *values)
        assert vm.memory_overhead == host("VM.compute_memory_overhead", vm.ref)
        seen.append(vm.memory_overhead)
    assert 0 < seen[0] < seen[1]


def test_a_vm_with_a_hosts_bios_strings_prefers_that_host(host):
    vm = host.halted_vm()
    host.host.bios_strings = {"bios-vendor": "somebody"}
    host("VM.copy_bios_strings", vm.ref, host.host.ref)
    assert (vm.bios_strings, vm.affinity) == ({"bios-vendor": "somebody"}, host.host.ref)
