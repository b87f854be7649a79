from __future__ import annotations

import pytest

from kronos.db.records import PCI, PGPU, SM, VGPU, VM, VMSS, VTPM, VUSB, VGPU_type, VM_appliance, VM_metrics
from kronos.rules.operations.vm import LISTED, OPERATIONS, POWER_STATES


def test_every_operation_of_the_enum_has_its_power_states():
    assert set(POWER_STATES) == set(OPERATIONS)


@pytest.mark.parametrize(
    ("state", "operations"),
    [
        (
            "Halted",
            "start start_on make_into_template changing_VCPUs destroy export clone copy snapshot migrate_send",
        ),
        ("Paused", "unpause hard_reboot hard_shutdown shutdown snapshot get_boot_record"),
        ("Suspended", "resume resume_on csvm hard_shutdown destroy export checkpoint snapshot"),
        (
            "Running",
            "pause suspend clean_shutdown clean_reboot pool_migrate hard_reboot hard_shutdown call_plugin",
        ),
    ],
)
def test_a_plain_vm_may_start_what_its_state_allows(world, state, operations):
    vm = world.vm(state)
    assert {name: world.refused(vm, name) for name in operations.split()} == dict.fromkeys(operations.split())


@pytest.mark.parametrize(
    ("state", "operation", "expected"),
    [
        ("Running", "start", "halted"),
        ("Halted", "clean_shutdown", "running"),
        ("Halted", "hard_reboot", "paused, running"),
        ("Halted", "hard_shutdown", "paused, suspended, running"),
        ("Paused", "destroy", "halted, suspended"),
        ("Paused", "migrate_send", "halted, suspended, running"),
        ("Suspended", "clone", "halted"),
        ("Running", "import", ""),
    ],
)
def test_a_wrong_power_state_is_told_in_lower_case_with_the_expected_ones(world, state, operation, expected):
    vm = world.vm(state)
    assert world.refused(vm, operation) == ["VM_BAD_POWER_STATE", vm.ref, expected, state.lower()]


def test_a_halted_vm_lists_what_it_may_start_in_the_order_of_the_enum(world):
    assert world.vm().allowed_operations == tuple(
        "snapshot clone copy start start_on migrate_send changing_dynamic_range changing_static_range"
        " changing_shadow_memory changing_NVRAM make_into_template export metadata_export destroy create_vtpm".split()
    )


def test_a_running_guest_with_drivers_lists_what_it_may_start(world):
    vm = world.vm("Running")
    world.agent(vm, PV_drivers_version={"major": "9", "minor": "2"})
    assert vm.allowed_operations == tuple(
        "snapshot checkpoint pause clean_shutdown clean_reboot hard_shutdown hard_reboot suspend pool_migrate"
        " migrate_send changing_dynamic_range changing_VCPUs_live metadata_export sysprep".split()
    )


def test_operations_that_are_never_listed_may_still_start(world):
    vm = world.vm()
    assert "power_state_reset" not in LISTED
    assert world.refused(vm, "power_state_reset") is None


# --- order of checks -------------------------------------------------------------------------------------------------


def test_a_blocked_operation_is_told_before_the_power_state(world):
    vm = world.vm("Running", blocked_operations={"start": "under maintenance"})
    assert world.refused(vm, "start") == ["OPERATION_BLOCKED", vm.ref, "under maintenance"]


def test_the_power_state_is_told_before_another_operation(world):
    vm = world.vm("Running", current_operations={"T1": "suspend"})
    assert world.refused(vm, "start")[0] == "VM_BAD_POWER_STATE"


def test_another_operation_is_told_before_the_template(world):
    vm = world.vm(is_a_template=True, current_operations={"T1": "clone"})
    assert world.refused(vm, "start") == ["OTHER_OPERATION_IN_PROGRESS", "VM", vm.ref, "clone", "T1"]


def test_a_missing_feature_is_told_before_the_disks(world):
    vm = world.vm("Running")
    world.agent(vm, other={"data-cant-suspend-reason": "UEFI"})
    world.vbd(vm, world.vdi(on_boot="reset"))
    assert world.refused(vm, "suspend") == ["VM_NON_SUSPENDABLE", vm.ref, "UEFI"]


# --- concurrency -----------------------------------------------------------------------------------------------------


def test_several_other_operations_are_told_in_braces(world):
    vm = world.vm(current_operations={"T1": "clone", "T2": "copy"})
    assert world.refused(vm, "start") == [
        "OTHER_OPERATION_IN_PROGRESS",
        "VM",
        vm.ref,
        "{clone,copy}",
        "{T1,T2}",
    ]


@pytest.mark.parametrize(
    ("state", "running", "operation", "may"),
    [
        ("Halted", "clone", "copy", True),
        ("Halted", "clone", "export", True),
        ("Halted", "clone", "snapshot", False),
        ("Running", "snapshot", "checkpoint", True),
        ("Running", "snapshot", "pause", False),
        ("Running", "clean_shutdown", "hard_shutdown", True),
        ("Running", "hard_shutdown", "hard_shutdown", False),
        ("Running", "clean_reboot", "hard_reboot", True),
        ("Running", "hard_shutdown", "hard_reboot", False),
        ("Running", "hard_reboot", "hard_reboot", False),
        ("Running", "hard_reboot", "hard_shutdown", True),
        ("Running", "migrate_send", "clean_shutdown", True),
        ("Running", "migrate_send", "metadata_export", True),
        ("Running", "migrate_send", "pause", False),
        ("Running", "get_boot_record", "get_boot_record", True),
        ("Running", "snapshot_with_quiesce", "snapshot", True),
    ],
)
def test_what_may_run_beside_another_operation(world, state, running, operation, may):
    vm = world.vm(state, current_operations={"T1": running})
    refused = world.refused(vm, operation)
    assert refused is None if may else refused[0] == "OTHER_OPERATION_IN_PROGRESS"


def test_what_may_run_during_a_migration_may_not_beside_a_second_operation(world):
    vm = world.vm("Running", current_operations={"T1": "migrate_send", "T2": "metadata_export"})
    assert world.refused(vm, "clean_shutdown")[0] == "OTHER_OPERATION_IN_PROGRESS"


# --- templates and snapshots -----------------------------------------------------------------------------------------


def test_a_template_is_not_started(world):
    vm = world.vm(is_a_template=True)
    assert world.refused(vm, "start") == ["VM_IS_TEMPLATE", vm.ref, "start"]
    assert world.refused(vm, "provision") is None


@pytest.mark.parametrize(
    "fields", [{"is_default_template": True}, {"other_config": {"default_template": "true"}}]
)
def test_only_templates_of_ones_own_are_destroyed(world, fields):
    assert world.refused(world.vm(is_a_template=True), "destroy") is None
    vm = world.vm(is_a_template=True, **fields)
    assert world.refused(vm, "destroy") == ["VM_IS_TEMPLATE", vm.ref, "destroy"]


def test_a_snapshot_is_reverted_cloned_and_destroyed_but_never_started(world):
    vm = world.vm(is_a_template=True, is_a_snapshot=True)
    assert {
        name: world.refused(vm, name) for name in ("revert", "clone", "destroy", "export")
    } == dict.fromkeys(("revert", "clone", "destroy", "export"))
    assert world.refused(vm, "start") == ["VM_IS_SNAPSHOT", vm.ref, "start"]


def test_only_templates_are_provisioned_and_only_snapshots_reverted(world):
    vm = world.vm()
    assert world.refused(vm, "provision") == ["PROVISION_ONLY_ALLOWED_ON_TEMPLATE"]
    assert world.refused(vm, "revert") == ["REVERT_ONLY_ALLOWED_ON_SNAPSHOT"]


def test_a_suspended_vm_is_cloned_where_the_pool_says_so(world):
    vm = world.vm("Suspended")
    world.pool.other_config = {"allow_clone_suspended_vm": "true"}
    assert world.refused(vm, "clone") is None


def test_a_suspended_snapshot_is_cloned(world):
    vm = world.vm("Suspended", is_a_template=True, is_a_snapshot=True)
    assert world.refused(vm, "clone") is None
    paused = world.vm("Paused", is_a_template=True, is_a_snapshot=True)
    assert world.refused(paused, "clone")[2] == "halted, suspended"


# --- what the guest says ---------------------------------------------------------------------------------------------


def test_a_guest_that_says_nothing_is_asked_to_shut_down_all_the_same_but_it_is_not_listed(world):
    vm = world.vm("Running")
    assert "clean_shutdown" not in vm.allowed_operations
    assert world.refused(vm, "clean_shutdown") is None


@pytest.mark.parametrize(
    ("feature", "operation"),
    [
        ("feature-shutdown", "clean_shutdown"),
        ("feature-poweroff", "clean_shutdown"),
        ("feature-shutdown", "clean_reboot"),
        ("feature-reboot", "clean_reboot"),
        ("feature-suspend", "suspend"),
        ("feature-suspend", "pool_migrate"),
        ("feature-vcpu-hotplug", "changing_VCPUs_live"),
    ],
)
def test_an_operation_is_listed_once_the_guest_tells_its_feature(world, feature, operation):
    vm = world.vm("Running")
    metrics = world.agent(vm)
    assert operation not in vm.allowed_operations
    metrics.other = {feature: "1"}
    assert operation in vm.allowed_operations


def test_drivers_imply_every_feature(world):
    vm = world.vm("Running")
    world.agent(vm, PV_drivers_version={"major": "9", "minor": "2"})
    assert {"clean_shutdown", "suspend", "changing_VCPUs_live"} <= set(vm.allowed_operations)


def test_a_paravirtual_guest_needs_no_feature(world):
    vm = world.vm("Running", domain_type="pvh")
    assert {"clean_shutdown", "suspend", "changing_VCPUs_live"} <= set(vm.allowed_operations)


def test_processors_are_not_hot_plugged_into_a_guest_that_does_not_say_it_can(world):
    vm = world.vm("Running")
    assert world.refused(vm, "changing_VCPUs_live") == ["VM_LACKS_FEATURE", vm.ref]


# --- what keeps a VM where it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["nomigrate", "nested_virt"])
def test_a_vm_that_was_started_pinned_is_not_listed_as_movable(world, field):
    vm = world.vm("Running", domain_type="pv")
    assert "pool_migrate" in vm.allowed_operations
    setattr(world.db.get(VM_metrics, vm.metrics), field, True)
    assert not {"suspend", "pool_migrate", "migrate_send"} & set(vm.allowed_operations)
    assert world.refused(vm, "pool_migrate") is None


def test_a_vm_without_metrics_is_pinned_by_its_platform(world):
    vm = world.vm(metrics="OpaqueRef:NULL", platform={"nested-virt": "true"})
    assert not {"migrate_send", "changing_dynamic_range"} & set(vm.allowed_operations)


def test_a_vm_with_a_device_of_its_host_does_not_move(world):
    vm = world.vm("Running", domain_type="pv")
    pci = world.db.create(PCI, host=world.host.ref)
    vm.attached_PCIs = (pci.ref,)
    assert world.refused(vm, "pool_migrate") == ["VM_HAS_PCI_ATTACHED", vm.ref]
    assert world.refused(vm, "snapshot") is None


@pytest.mark.parametrize(
    ("implementation", "metadata", "may"),
    [("nvidia", {"nvidia": "x"}, True), ("nvidia", {}, False), ("passthrough", {"nvidia": "x"}, False)],
)
def test_a_graphics_card_moves_where_its_maker_can_move_it(world, implementation, metadata, may):
    vm = world.vm("Running", domain_type="pv")
    kind = world.db.create(VGPU_type, implementation=implementation)
    card = world.db.create(PGPU, compatibility_metadata=metadata)
    world.db.create(VGPU, VM=vm.ref, type=kind.ref, resident_on=card.ref)
    assert world.refused(vm, "pool_migrate") == (None if may else ["VM_HAS_VGPU", vm.ref])
    vm.power_state = "Halted"
    assert world.refused(vm, "migrate_send") is None


def test_a_slice_of_a_graphics_card_is_not_a_device_of_its_own(world):
    vm = world.vm("Running", domain_type="pv")
    kind = world.db.create(VGPU_type, implementation="nvidia_sriov")
    card = world.db.create(PGPU, compatibility_metadata={"nvidia": "x"})
    piece = world.db.create(PCI, host=world.host.ref)
    world.db.create(VGPU, VM=vm.ref, type=kind.ref, resident_on=card.ref, PCI=piece.ref)
    vm.attached_PCIs = (piece.ref,)
    assert world.refused(vm, "pool_migrate") is None


def test_a_vm_with_a_usb_device_is_not_even_snapshotted(world):
    vm = world.vm("Running", domain_type="pv")
    world.db.create(VUSB, VM=vm.ref)
    assert world.refused(vm, "snapshot") == ["VM_HAS_VUSBS", vm.ref]


def test_disks_that_forget_at_each_boot_are_not_snapshotted(world):
    vm = world.vm("Running", domain_type="pv")
    disk = world.vdi(on_boot="reset")
    world.vbd(vm, disk)
    for operation in ("snapshot", "checkpoint", "suspend"):
        assert world.refused(vm, operation) == ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]
    assert world.refused(vm, "pool_migrate") is None
    disk.sm_config = {"caching": "true"}
    assert world.refused(vm, "pool_migrate") == ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]


# --- the rest --------------------------------------------------------------------------------------------------------


def test_the_control_domain_is_left_alone(world):
    vm = world.vm("Running", domain_type="pv", is_control_domain=True)
    world.host.control_domain = vm.ref
    text = "This operation is not allowed on a control domain"
    assert world.refused(vm, "pause") == ["OPERATION_NOT_ALLOWED", text]
    assert world.refused(vm, "changing_VCPUs") == [
        "OPERATION_NOT_ALLOWED",
        "This operation is not allowed on dom0",
    ]
    assert world.refused(vm, "changing_memory_live") is None


def test_a_control_domain_is_resized_while_it_runs(world):
    vm = world.vm("Running", domain_type="pv", is_control_domain=True)
    assert world.refused(vm, "changing_static_range") is None
    vm.power_state = "Paused"
    assert world.refused(vm, "changing_static_range")[2] == "halted, running"


def test_a_member_of_an_appliance_does_not_become_a_template(world):
    vm = world.vm()
    appliance = world.db.create(VM_appliance)
    vm.appliance = appliance.ref
    assert world.refused(vm, "make_into_template") == ["VM_IS_PART_OF_AN_APPLIANCE", vm.ref, appliance.ref]


def test_a_vm_with_a_snapshot_schedule_does_not_become_a_template(world):
    vm = world.vm()
    schedule = world.db.create(VMSS)
    vm.snapshot_schedule = schedule.ref
    assert world.refused(vm, "make_into_template")[0] == "VM_ASSIGNED_TO_SNAPSHOT_SCHEDULE"


def test_quiesced_snapshots_are_no_longer_made(world):
    vm = world.vm("Running")
    assert world.refused(vm, "snapshot_with_quiesce") == ["VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", vm.ref]


def test_a_second_tpm_is_refused(world):
    vm = world.vm()
    world.db.create(VTPM, VM=vm.ref)
    assert world.refused(vm, "create_vtpm") == ["VTPM_MAX_AMOUNT_REACHED", "1"]


def test_only_system_domains_offer_services(world):
    vm = world.vm()
    assert world.refused(vm, "query_services") == ["NOT_SYSTEM_DOMAIN", vm.ref]


def test_during_a_rolling_upgrade_only_old_operations_start(world):
    vm = world.vm()
    world.pool.other_config = {"rolling_upgrade_in_progress": "true"}
    assert world.refused(vm, "start") is None
    assert world.refused(vm, "snapshot") == ["NOT_SUPPORTED_DURING_UPGRADE"]


def test_dangling_references_are_no_obstacle(world):
    vm = world.db.create(
        VM, metrics="OpaqueRef:gone", guest_metrics="OpaqueRef:gone", appliance="OpaqueRef:gone"
    )
    world.vbd(vm, world.vdi()).VDI = "OpaqueRef:gone"
    world.db.delete(world.db.all(SM)[0])
    assert world.refused(vm, "start") is None
