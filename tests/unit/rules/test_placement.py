from __future__ import annotations

import pytest

from kronos.datamodel.errors import Failure
from kronos.db.records import PBD, PIF, PUSB, SR, VUSB, Host_metrics, Network, USB_group, VM_group
from kronos.rules import memory, placement

GIB = 1 << 30


def told(world, vm, host=None):
    """What keeps the VM from running on the host, None where nothing does."""
    try:
        placement.assert_can_boot_here(world.db, vm, host or world.host)
    except Failure as failure:
        return failure.description
    return None


def test_a_plain_vm_runs_on_a_plain_host(world):
    vm = world.vm()
    world.vbd(vm, world.vdi())
    world.vif(vm)
    assert told(world, vm) is None
    assert placement.choose(world.db, vm) == world.host.ref


# --- one host --------------------------------------------------------------------------------------------------------


def test_a_host_that_is_down_runs_nothing(world):
    world.db.get(Host_metrics, world.host.metrics).live = False
    assert told(world, world.vm()) == ["HOST_NOT_LIVE"]


def test_a_disabled_host_runs_control_domains_alone(world):
    world.host.enabled = False
    assert told(world, world.vm()) == ["HOST_DISABLED", world.host.ref]
    assert told(world, world.vm(is_control_domain=True)) is None


def test_a_disabled_host_runs_the_domains_that_make_it_work(world):
    world.host.enabled = False
    assert told(world, world.vm(other_config={"is_system_domain": "true"})) is None


def test_a_control_domain_runs_on_its_own_host(world):
    other = world.new_host()
    vm = world.vm(is_control_domain=True, affinity=other.ref)
    assert told(world, vm)[0] == "OPERATION_NOT_ALLOWED"
    assert told(world, vm, other) is None


def test_every_disk_is_within_reach(world):
    vm = world.vm()
    world.cd(vm)
    world.vbd(vm, world.vdi())
    world.pbd.currently_attached = False
    assert told(world, vm) == ["VM_REQUIRES_SR", vm.ref, world.sr.ref]


def test_so_is_the_saved_memory_of_a_suspended_vm(world):
    sr = world.db.create(SR)
    vm = world.vm("Suspended", suspend_VDI=world.vdi(SR=sr.ref).ref)
    assert told(world, vm) == ["VM_REQUIRES_SR", vm.ref, sr.ref]
    vm.power_state = "Halted"
    assert told(world, vm) is None


def test_a_network_with_interfaces_elsewhere_is_out_of_reach(world):
    other = world.new_host()
    network = world.db.create(Network, managed=True)
    world.db.create(PIF, network=network.ref, host=other.ref)
    vm = world.vm()
    world.vif(vm, network=network.ref)
    assert told(world, vm) == ["VM_REQUIRES_NETWORK", vm.ref, network.ref]
    assert told(world, vm, other) is None


def test_an_internal_network_is_where_its_first_vm_runs(world):
    other = world.new_host()
    network = world.db.create(Network, managed=True)
    vm, first = world.vm(), world.vm("Running", resident_on=other.ref)
    world.vif(vm, network=network.ref)
    assert told(world, vm) is None
    world.vif(first, network=network.ref)
    assert told(world, vm)[0] == "VM_REQUIRES_NETWORK"
    assert told(world, vm, other) is None


@pytest.mark.parametrize(
    "fields", [{"managed": False}, {"other_config": {"assume_network_is_shared": "true"}}]
)
def test_an_internal_network_may_be_said_to_be_everywhere(world, fields):
    network = world.db.create(Network, **{"managed": True} | fields)
    vm = world.vm()
    world.vif(vm, network=network.ref)
    world.vif(world.vm("Running", resident_on=world.new_host().ref), network=network.ref)
    assert told(world, vm) is None


def test_a_usb_device_pins_a_vm_to_its_host(world):
    vm, other = world.vm(), world.new_host()
    group = world.db.create(USB_group)
    world.db.create(PUSB, USB_group=group.ref, host=other.ref, passthrough_enabled=True)
    vusb = world.db.create(VUSB, VM=vm.ref, USB_group=group.ref)
    text = f"VUSB {vusb.ref} is not available on Host {world.host.ref}"
    assert told(world, vm) == ["OPERATION_NOT_ALLOWED", text]
    assert told(world, vm, other) is None


def test_hvm_guests_need_the_processors_help(world):
    world.host.capabilities = ("xen-3.0-x86_64",)
    vm = world.vm()
    assert told(world, vm) == ["VM_HVM_REQUIRED", vm.ref]
    assert told(world, world.vm(domain_type="pv")) is None


def test_newer_virtual_hardware_needs_a_newer_host(world):
    vm = world.vm(hardware_platform_version=3)
    assert told(world, vm) == [
        "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION", world.host.ref, "[0; 1; 2]", vm.ref, "3",
    ]  # fmt: skip


def test_a_host_has_room_for_the_vm_and_its_overhead(world):
    vm = world.vm()
    needed = memory.needed(world.db, vm, world.host)
    metrics = world.db.get(Host_metrics, world.host.metrics)
    metrics.memory_free = needed
    assert told(world, vm) is None
    metrics.memory_free = needed - 1
    assert told(world, vm) == ["HOST_NOT_ENOUGH_FREE_MEMORY", str(needed), str(needed - 1)]
    placement.assert_can_boot_here(world.db, vm, world.host, with_memory=False)


def test_a_vm_has_no_more_processors_than_its_host(world):
    assert told(world, world.vm(VCPUs_max=9)) == ["HOST_NOT_ENOUGH_PCPUS", "9", "8"]
    assert told(world, world.vm(VCPUs_max=9, platform={"vcpu-unrestricted": "true"})) is None


# --- the VM itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"VCPUs_max": 0}, ["INVALID_VALUE", "VCPUs_max", "0"]),
        ({"VCPUs_at_startup": 0}, ["INVALID_VALUE", "VCPUs-at-startup", "0"]),
        (
            {"VCPUs_at_startup": 3},
            ["VALUE_NOT_SUPPORTED", "VCPUs-at-startup", "3", "value greater than VCPUs-max"],
        ),
        ({"memory_static_min": 2 * GIB}, ["MEMORY_CONSTRAINT_VIOLATION"]),
        ({"HVM_shadow_multiplier": 0.5}, ["INVALID_VALUE", "HVM_shadow_multiplier", "0.5"]),
    ],
)
def test_a_vm_that_can_run_nowhere_is_told_so_and_not_that_hosts_are_missing(world, fields, expected):
    vm = world.vm(**fields)
    with pytest.raises(Failure) as caught:
        placement.choose(world.db, vm)
    assert caught.value.description == expected


@pytest.mark.parametrize("action", ["coredump_and_destroy", "coredump_and_restart", "rename_restart"])
def test_crashes_that_hvm_guests_cannot_have(world, action):
    assert told(world, world.vm(actions_after_crash=action))[:3] == [
        "VALUE_NOT_SUPPORTED", "VM.actions_after_crash", action,
    ]  # fmt: skip


# --- the choice ------------------------------------------------------------------------------------------------------


def refused(world, vm):
    with pytest.raises(Failure) as caught:
        placement.choose(world.db, vm)
    return caught.value.description


def test_without_a_fitting_host_there_is_none(world):
    world.host.enabled = False
    assert refused(world, world.vm()) == ["NO_HOSTS_AVAILABLE"]


def test_where_only_memory_is_missing_the_roomiest_host_says_how_much(world):
    roomy, _ = world.new_host(), world.new_host(enabled=False)
    for host, free in ((world.host, 100), (roomy, 200)):
        world.db.get(Host_metrics, host.metrics).memory_free = free
    vm = world.vm()
    assert refused(world, vm) == [
        "HOST_NOT_ENOUGH_FREE_MEMORY",
        str(memory.needed(world.db, vm, roomy)),
        "200",
    ]


def test_a_vm_goes_where_most_memory_is_free(world):
    roomy = world.new_host()
    world.vm("Running")
    assert placement.choose(world.db, world.vm()) == roomy.ref


def test_a_vm_goes_where_it_prefers_to_be(world):
    world.new_host()
    world.vm("Running")
    assert placement.choose(world.db, world.vm(affinity=world.host.ref)) == world.host.ref


def test_a_preference_that_cannot_be_met_is_only_that(world):
    other = world.new_host(enabled=False)
    assert placement.choose(world.db, world.vm(affinity=other.ref)) == world.host.ref


def test_vms_that_are_to_be_apart_are(world):
    empty = world.new_host()
    world.db.get(Host_metrics, empty.metrics).memory_free = 8 * GIB
    group = world.db.create(VM_group, placement="anti_affinity")
    world.vm("Running", groups=(group.ref,))
    assert placement.choose(world.db, world.vm()) == world.host.ref
    assert placement.choose(world.db, world.vm(groups=(group.ref,))) == empty.ref


def test_nothing_starts_on_a_host_that_is_being_emptied(world):
    world.host.current_operations = {"T1": "evacuate"}
    assert refused(world, world.vm()) == ["NO_HOSTS_AVAILABLE"]


def test_clients_can_ask_where_a_vm_could_run_and_why_not_elsewhere(world):
    other = world.new_host()
    world.db.create(PBD, SR=world.sr.ref, host=other.ref, currently_attached=False)
    vm = world.vm()
    world.vbd(vm, world.vdi())
    assert placement.possible_hosts(world.db, vm) == (world.host.ref,)
    found = placement.impediments(world.db, vm)[other.ref]
    assert found is not None and found.code == "VM_REQUIRES_SR"
