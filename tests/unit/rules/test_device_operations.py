from __future__ import annotations

import pytest

from kronos.db.records import PIF, VTPM, VUSB

DRIVERS = {"PV_drivers_version": {"major": "9", "minor": "2"}}


@pytest.fixture
def running(world):
    """A running guest with drivers, so that devices may come and go."""
    vm = world.vm("Running")
    world.agent(vm, **DRIVERS)
    return vm


# --- plugging --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["vbd", "vif"])
def test_a_device_is_plugged_into_a_running_vm(world, running, make):
    device = getattr(world, make)(running)
    assert world.refused(device, "plug") is None
    assert world.refused(device, "unplug") == ["DEVICE_ALREADY_DETACHED", device.ref]


@pytest.mark.parametrize("make", ["vbd", "vif"])
@pytest.mark.parametrize("field", ["currently_attached", "reserved"])
def test_a_device_that_is_there_is_unplugged(world, running, make, field):
    device = getattr(world, make)(running, **{field: True})
    assert world.refused(device, "unplug") is None
    assert world.refused(device, "plug") == ["DEVICE_ALREADY_ATTACHED", device.ref]


@pytest.mark.parametrize("state", ["Halted", "Paused", "Suspended"])
@pytest.mark.parametrize("make", ["vbd", "vif"])
def test_only_a_running_vm_takes_devices(world, make, state):
    vm = world.vm(state)
    device = getattr(world, make)(vm)
    assert world.refused(device, "plug") == ["VM_BAD_POWER_STATE", vm.ref, "running", state.lower()]


@pytest.mark.parametrize("operation", ["clean_shutdown", "hard_shutdown", "suspend", "pause"])
@pytest.mark.parametrize("make", ["vbd", "vif"])
def test_nothing_is_plugged_while_the_vm_goes_down(world, running, make, operation):
    device = getattr(world, make)(running)
    running.current_operations = {"T1": operation}
    text = f"Current operation on VM:{running.ref} is {operation}"
    assert world.refused(device, "plug") == ["OPERATION_NOT_ALLOWED", text]


@pytest.mark.parametrize("make", ["vbd", "vif"])
def test_an_hvm_guest_without_drivers_takes_no_devices(world, make):
    vm = world.vm("Running")
    device = getattr(world, make)(vm)
    assert world.refused(device, "plug") == ["VM_MISSING_PV_DRIVERS", vm.ref]


@pytest.mark.parametrize("make", ["vbd", "vif"])
def test_a_paravirtual_guest_takes_devices_without_a_word(world, make):
    device = getattr(world, make)(world.vm("Running", domain_type="pv_in_pvh"))
    assert world.refused(device, "plug") is None


@pytest.mark.parametrize("make", ["vbd", "vif"])
def test_the_guests_own_word_on_hot_plug_comes_first(world, make):
    vm = world.vm("Running")
    device = getattr(world, make)(vm)
    metrics = world.agent(vm, **{f"can_use_hotplug_{make}": "yes"})
    assert world.refused(device, "plug") is None
    assert "plug" in device.allowed_operations
    world.db.write(metrics, DRIVERS | {f"can_use_hotplug_{make}": "no"})
    text = f"VM states it does not support {make.upper()} hotplug."
    assert world.refused(device, "plug") == ["OPERATION_NOT_ALLOWED", text]


def test_detected_drivers_are_as_good_as_their_version(world):
    vm = world.vm("Running")
    world.agent(vm, PV_drivers_detected=True)
    assert world.refused(world.vbd(vm), "plug") is None


# --- VBD -------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_part_of_the_system_is_not_unplugged(world, running):
    vbd = world.vbd(running, world.vdi(), unpluggable=False, currently_attached=True)
    assert world.refused(vbd, "unplug") == ["VBD_NOT_UNPLUGGABLE", vbd.ref]


def test_discs_are_changed_in_cd_drives_alone(world, running):
    vbd = world.vbd(running, world.vdi(), currently_attached=True)
    assert world.refused(vbd, "eject") == ["VBD_NOT_REMOVABLE_MEDIA", vbd.ref]


def test_a_disc_goes_into_an_empty_drive_and_out_of_a_full_one(world, running):
    drive = world.cd(running, currently_attached=True)
    assert world.refused(drive, "insert") is None
    assert world.refused(drive, "eject") == ["VBD_IS_EMPTY", drive.ref]
    world.db.write(drive, {"VDI": world.vdi(read_only=True).ref, "empty": False})
    assert world.refused(drive, "insert") == ["VBD_NOT_EMPTY", drive.ref]
    assert world.refused(drive, "eject") is None


def test_a_cd_drive_is_not_hot_plugged_into_an_hvm_guest(world, running):
    drive = world.cd(running)
    text = "HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected"
    assert world.refused(drive, "plug") == ["OPERATION_NOT_ALLOWED", text]


def test_no_disc_is_changed_while_the_vm_sleeps(world):
    vm = world.vm("Suspended")
    assert world.refused(world.cd(vm), "insert") == [
        "VM_BAD_POWER_STATE",
        vm.ref,
        "halted, running",
        "suspended",
    ]


def test_a_vbd_does_one_thing_at_a_time(world, running):
    vbd = world.vbd(running, world.vdi(), current_operations={"T1": "plug"})
    for operation in ("attach", "unplug", "pause", "unpause"):
        assert world.refused(vbd, operation) == ["OTHER_OPERATION_IN_PROGRESS", "VBD", vbd.ref, "plug", "T1"]


@pytest.mark.parametrize(
    ("current", "operation", "may"),
    [
        ("pause", "unpause", True),
        ("pause", "pause", True),
        ("attach", "unpause", True),
        ("attach", "pause", False),
    ],
)
def test_pausing_overlaps_with_itself_and_unpausing_with_attaching(world, running, current, operation, may):
    vbd = world.vbd(running, world.vdi(), currently_attached=True, current_operations={"T1": current})
    assert (world.refused(vbd, operation) is None) is may


def test_the_disk_of_a_paused_vm_is_paused_too(world):
    paused, halted = world.vbd(world.vm("Paused")), world.vbd(world.vm("Halted"))
    assert world.refused(paused, "pause") is None
    assert world.refused(halted, "pause")[0] == "VM_BAD_POWER_STATE"


@pytest.mark.parametrize(
    ("other_mode", "mode", "may"),
    [("RO", "RO", True), ("RW", "RO", False), ("RO", "RW", False), ("RW", "RW", False)],
)
def test_a_disk_has_one_writer_or_many_readers(world, running, other_mode, mode, may):
    vdi = world.vdi()
    world.vbd(world.vm("Running"), vdi, mode=other_mode, currently_attached=True)
    vbd = world.vbd(running, vdi, mode=mode)
    assert world.refused(vbd, "plug") == (None if may else ["VDI_IN_USE", vdi.ref])


def test_a_sharable_disk_has_many_writers(world, running):
    vdi = world.vdi(sharable=True)
    world.vbd(world.vm("Running"), vdi, currently_attached=True)
    assert world.refused(world.vbd(running, vdi), "plug") is None


def test_suspended_vms_and_control_domains_do_not_count_as_users(world, running):
    vdi = world.vdi()
    world.vbd(world.vm("Suspended"), vdi, currently_attached=True)
    world.vbd(world.vm("Running", is_control_domain=True), vdi, currently_attached=True)
    assert world.refused(world.vbd(running, vdi), "plug") is None


def test_a_vbd_in_the_middle_of_something_counts_as_a_user(world, running):
    vdi = world.vdi()
    world.vbd(world.vm("Halted"), vdi, current_operations={"T1": "attach"})
    assert world.refused(world.vbd(running, vdi), "attach") == ["VDI_IN_USE", vdi.ref]


def test_a_read_only_disk_has_no_writer(world, running):
    vdi = world.vdi(read_only=True)
    assert world.refused(world.vbd(running, vdi), "plug") == ["VDI_READONLY", vdi.ref]
    assert world.refused(world.vbd(running, vdi, mode="RO"), "plug") is None


def test_a_disk_in_the_middle_of_something_is_not_attached(world, running):
    vdi = world.vdi(current_operations={"T1": "resize"})
    vbd = world.vbd(running, vdi)
    assert world.refused(vbd, "attach") == ["OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref, "resize", "T1"]
    vdi.current_operations = {"T1": "copy"}
    assert world.refused(vbd, "attach") == ["VDI_IN_USE", vdi.ref]
    vbd.mode = "RO"
    assert world.refused(vbd, "attach") is None


def test_the_hidden_parent_of_a_chain_is_not_touched(world, running):
    vbd = world.vbd(running, world.vdi(managed=False))
    assert world.refused(vbd, "attach") == ["VDI_NOT_MANAGED", vbd.ref]


# --- VIF, VUSB, VTPM -------------------------------------------------------------------------------------------------


def test_a_vif_does_one_thing_at_a_time_told_in_braces(world, running):
    vif = world.vif(running, current_operations={"T1": "plug"})
    assert world.refused(vif, "attach") == ["OTHER_OPERATION_IN_PROGRESS", "VIF", vif.ref, "{plug}", "{T1}"]


def test_the_control_domain_gets_no_interface_while_it_runs(world):
    vm = world.vm("Running", domain_type="pv", is_control_domain=True)
    world.host.control_domain = vm.ref
    text = "Control domain does not support hotplug"
    assert world.refused(world.vif(vm), "plug") == ["OPERATION_NOT_ALLOWED", text]


def test_a_virtual_function_is_not_hot_plugged(world, running):
    from kronos.db.records import Network_sriov

    logical = world.db.create(PIF, network=world.network.ref, host=world.host.ref)
    world.db.delete(world.pif)
    world.db.create(Network_sriov, logical_PIF=logical.ref)
    text = "Network SR-IOV VIF plug/unplug not allowed"
    assert world.refused(world.vif(running), "plug") == ["OPERATION_NOT_ALLOWED", text]


def test_a_usb_device_is_plugged_into_a_running_vm(world, running):
    vusb = world.db.create(VUSB, VM=running.ref)
    assert world.refused(vusb, "plug") is None
    running.power_state = "Halted"
    assert world.refused(vusb, "plug") == ["VM_BAD_POWER_STATE", running.ref, "running", "halted"]


def test_a_tpm_is_taken_out_of_a_halted_vm(world):
    vm = world.vm()
    vtpm = world.db.create(VTPM, VM=vm.ref)
    assert vtpm.allowed_operations == ("destroy",)
    vm.power_state = "Running"
    assert vtpm.allowed_operations == ()
    assert world.refused(vtpm, "destroy") == ["VM_BAD_POWER_STATE", vm.ref, "halted", "running"]


@pytest.mark.parametrize("make", ["vbd", "vif"])
def test_the_device_of_a_vm_that_is_gone_does_nothing(world, make):
    device = getattr(world, make)(world.vm(), VM="OpaqueRef:gone")
    assert world.refused(device, "plug") == ["HANDLE_INVALID", "VM", "OpaqueRef:gone"]
