"""Devices of the host that guests have to themselves: USB devices, graphics adapters and other PCI devices."""

from __future__ import annotations

import pytest

from harness.sysfs import graphics
from kronos.api.vm import passing
from kronos.background.reconcile import reconcile
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import PCI, PGPU, PUSB, VGPU, VM, VUSB, USB_group, VGPU_type

# --- what guests have of USB -----------------------------------------------------------------------------------------


@pytest.fixture
def stick(xapi, sysfs, look, tmp_path) -> PUSB:
    """A device that guests may have, the fourth on the first bus."""
    xapi.machine.root = tmp_path
    sysfs.usb("1-1.4")
    for name, number in (("busnum", 1), ("devnum", 4)):
        (sysfs.root / "bus/usb/devices/1-1.4" / name).write_text(f"{number}\n")
    look()
    (row,) = xapi.db.all(PUSB)
    xapi("PUSB.set_passthrough_enabled", row.ref, True)
    return row


def vusb(xapi, vm: VM, pusb: PUSB) -> VUSB:
    return xapi.db.get(VUSB, xapi("VUSB.create", vm.ref, pusb.USB_group, {}))


def test_a_vm_has_its_usb_device_from_its_start_to_its_end(host, stick):
    vm = host.halted_vm()
    row = vusb(host, vm, stick)
    host("VM.start", vm.ref, False, False)
    (held,) = host.hypervisor.guests[vm.uuid].domain.usb
    assert (held.bus, held.place) == (1, 4) and row.currently_attached
    assert host.refused("VM.suspend", vm.ref) == ["VM_HAS_VUSBS", vm.ref]
    assert host.refused("VUSB.destroy", row.ref)[0] == "OPERATION_NOT_ALLOWED"
    host("VM.hard_shutdown", vm.ref)
    assert not row.currently_attached
    host("VUSB.destroy", row.ref)
    assert vm.VUSBs == ()


def test_a_usb_device_is_taken_out_of_a_running_vm(host, stick):
    vm = host.halted_vm()
    row = vusb(host, vm, stick)
    assert host.refused("VUSB.unplug", row.ref) == ["VM_BAD_POWER_STATE", vm.ref, "running", "halted"]
    host("VM.start", vm.ref, False, False)
    host("VUSB.unplug", row.ref)
    assert host.hypervisor.guests[vm.uuid].usb == {} and not row.currently_attached
    assert host.refused("VUSB.unplug", row.ref) == ["DEVICE_ALREADY_DETACHED", row.ref]


def test_a_guest_that_keeps_its_usb_device_is_told_of(host, stick):
    vm = host.halted_vm()
    row = vusb(host, vm, stick)
    host("VM.start", vm.ref, False, False)
    host.hypervisor.guests[vm.uuid].obeys = False
    assert host.refused("VUSB.unplug", row.ref) == ["DEVICE_DETACH_TIMEOUT", "VUSB", vm.ref]
    assert row.currently_attached and row.current_operations == {}


def test_one_vm_has_a_device(host, stick):
    one, other = host.halted_vm(), host.halted_vm()
    vusb(host, one, stick)
    assert host.refused("VUSB.create", other.ref, stick.USB_group, {}) == [
        "USB_GROUP_CONFLICT", stick.USB_group]  # fmt: skip


def test_a_vm_has_six_usb_devices_at_most(host):
    vm = host.halted_vm()
    groups = [host("USB_group.create", "", "", {}) for _ in range(7)]
    for group in groups[:6]:
        host("VUSB.create", vm.ref, group, {})
    assert host.refused("VUSB.create", vm.ref, groups[6], {}) == ["TOO_MANY_VUSBS", "6"]


def test_a_vm_that_is_restarted_elsewhere_has_no_device_of_this_host(host, stick):
    vm = host.halted_vm(ha_restart_priority="restart")
    assert host.refused("VUSB.create", vm.ref, stick.USB_group, {})[0] == "OPERATION_NOT_ALLOWED"


def test_a_vm_whose_usb_device_is_for_the_host_does_not_start(host, stick):
    vm = host.halted_vm()
    row = vusb(host, vm, stick)
    stick.passthrough_enabled = False
    assert host.refused("VM.start_on", vm.ref, host.host.ref, False, False) == [
        "OPERATION_NOT_ALLOWED", f"VUSB {row.ref} is not available on Host {host.host.ref}"]  # fmt: skip


def test_a_vm_whose_usb_device_was_just_pulled_does_not_start(host, stick, sysfs):
    vm = host.halted_vm()
    vusb(host, vm, stick)
    (sysfs.root / "bus/usb/devices/1-1.4").rename(sysfs.root / "pulled")
    assert host.refused("VM.start", vm.ref, False, False)[0] == "OPERATION_NOT_ALLOWED"
    assert (vm.power_state, vm.scheduled_to_be_resident_on) == ("Halted", NULL)


def test_what_is_pulled_is_taken_out_of_its_vm(host, stick, sysfs):
    vm = host.halted_vm()
    vusb(host, vm, stick)
    host("VM.start", vm.ref, False, False)
    (sysfs.root / "bus/usb/devices/1-1.4").rename(sysfs.root / "pulled")
    host("PUSB.scan", host.host.ref)
    assert host.hypervisor.guests[vm.uuid].usb == {}
    assert host.db.all(VUSB) == host.db.all(PUSB) == host.db.all(USB_group) == []


def test_a_vm_takes_its_vusbs_along(host, stick):
    vm = host.halted_vm()
    vusb(host, vm, stick)
    host("VM.destroy", vm.ref)
    assert host.db.all(VUSB) == []


# --- what guests have of PCI and graphics ----------------------------------------------------------------------------


@pytest.fixture
def adapter(host, sysfs, look) -> PGPU:
    """A graphics adapter that the host has left for guests, with the sound that goes along."""
    graphics(sysfs, "vfio-pci")
    sysfs.pci("0000:01:00.1", "0403", "10de", "10f8", "vfio-pci")
    look()
    return host.db.all(PGPU)[0]


def vgpu(host, vm: VM, group: str, device: str = "0", kind: str = NULL) -> VGPU:
    return host.db.get(VGPU, host("VGPU.create", vm.ref, group, device, {}, kind))


def test_a_vm_has_an_adapter_from_its_start_to_its_end(host, adapter):
    vm = host.halted_vm()
    row = vgpu(host, vm, adapter.GPU_group)
    assert (row.device, row.type) == ("0", host.db.all(VGPU_type)[0].ref)
    host("VM.start", vm.ref, False, False)
    assert host.hypervisor.guests[vm.uuid].domain.pci == ["0000:01:00.0", "0000:01:00.1"]
    assert (row.resident_on, row.PCI, row.currently_attached) == (adapter.ref, adapter.PCI, True)
    assert len(vm.attached_PCIs) == 2 and row.scheduled_to_be_resident_on == NULL
    assert host.refused("VM.suspend", vm.ref) == ["VM_HAS_PCI_ATTACHED", vm.ref]
    assert host.refused("VGPU.destroy", row.ref)[0] == "OPERATION_NOT_ALLOWED"
    assert host("GPU_group.get_remaining_capacity", adapter.GPU_group, row.type) == 0
    host("VM.hard_reboot", vm.ref)
    assert row.resident_on == adapter.ref and len(vm.attached_PCIs) == 2
    host("VM.hard_shutdown", vm.ref)
    assert (row.resident_on, row.currently_attached, vm.attached_PCIs) == (NULL, False, ())
    host("VGPU.destroy", row.ref)
    assert host("GPU_group.get_remaining_capacity", adapter.GPU_group, adapter.enabled_VGPU_types[0]) == 1


def test_an_adapter_is_one_vms(host, adapter):
    one, other = host.halted_vm(), host.halted_vm()
    vgpu(host, one, adapter.GPU_group)
    vgpu(host, other, adapter.GPU_group)
    host("VM.start", one.ref, False, False)
    refusal = ["VM_REQUIRES_GPU", other.ref, adapter.GPU_group]
    assert host.refused("VM.start_on", other.ref, host.host.ref, False, False) == refusal
    assert other.power_state == "Halted"
    host("VM.hard_shutdown", one.ref)
    host("VM.start", other.ref, False, False)
    assert [host.db.get(PCI, ref).pci_id for ref in other.attached_PCIs] == ["0000:01:00.0", "0000:01:00.1"]


def test_a_start_that_fails_leaves_the_adapter(host, adapter, monkeypatch):
    vm = host.halted_vm()
    row = vgpu(host, vm, adapter.GPU_group)

    def broken(domain, *, paused=False):
        raise Failure("INTERNAL_ERROR", "vfio")

    monkeypatch.setattr(host.hypervisor, "start", broken)
    assert host.refused("VM.start", vm.ref, False, False)[0] == "INTERNAL_ERROR"
    assert (row.scheduled_to_be_resident_on, vm.attached_PCIs) == (NULL, ())
    assert {device.scheduled_to_be_attached_to for device in host.db.all(PCI)} == {NULL}


def test_what_was_kept_for_a_start_that_a_crash_cut_short_is_free(host, adapter):
    vm = host.halted_vm()
    row = vgpu(host, vm, adapter.GPU_group)
    passing.reserve(host.db, vm, host.host)
    assert row.scheduled_to_be_resident_on == adapter.ref
    reconcile(host.db, host.machine)
    assert row.scheduled_to_be_resident_on == NULL
    assert {device.scheduled_to_be_attached_to for device in host.db.all(PCI)} == {NULL}


def test_a_host_without_an_adapter_starts_no_vm_that_wants_one(host):
    vm = host.halted_vm()
    group = host("GPU_group.create", "none", "", {})
    vgpu(host, vm, group)
    assert host.refused("VM.start_on", vm.ref, host.host.ref, False, False) == [
        "VM_REQUIRES_GPU",
        vm.ref,
        group,
    ]


def test_parts_of_adapters_are_not_to_be_had(host, adapter):
    part = host.db.create(VGPU_type, implementation="nvidia")
    vm = host.halted_vm()
    vgpu(host, vm, adapter.GPU_group, kind=part.ref)
    assert host.refused("VM.start_on", vm.ref, host.host.ref, False, False) == [
        "VM_REQUIRES_VGPU", vm.ref, adapter.GPU_group, part.ref]  # fmt: skip


def test_adapters_are_passed_to_hvm_guests(host, adapter):
    vm = host.halted_vm(HVM_boot_policy="", domain_type="pvh")
    vgpu(host, vm, adapter.GPU_group)
    assert host.refused("VM.start_on", vm.ref, host.host.ref, False, False)[0] == "FEATURE_REQUIRES_HVM"


def test_vgpus_have_places(host, adapter):
    vm = host.halted_vm()
    kind = host.db.create(VGPU_type)
    kind.compatible_types_in_vm = (kind.ref,)
    for device, refusal in [
        ("21", "INVALID_DEVICE"),
        ("x", "INVALID_DEVICE"),
        ("3", None),
        ("3", "DEVICE_ALREADY_EXISTS"),
    ]:
        if refusal is None:
            assert vgpu(host, vm, adapter.GPU_group, device, kind.ref).device == device
        else:
            args = (vm.ref, adapter.GPU_group, device, {}, kind.ref)
            assert host.refused("VGPU.create", *args) == [refusal, device]
    assert [vgpu(host, vm, adapter.GPU_group, "0", kind.ref).device for _ in range(20)][-1] == "20"
    args = (vm.ref, adapter.GPU_group, "0", {}, kind.ref)
    assert host.refused("VGPU.create", *args) == ["VM_PCI_BUS_FULL", vm.ref]


def test_whole_adapters_are_beside_no_other(host, adapter):
    vm = host.halted_vm()
    row = vgpu(host, vm, adapter.GPU_group)
    assert host.refused("VGPU.create", vm.ref, adapter.GPU_group, "1", {}, NULL) == [
        "VGPU_TYPE_NOT_COMPATIBLE", row.type]  # fmt: skip
    assert host.refused("VGPU.create", vm.ref, adapter.GPU_group, "1", {}, vm.ref) == [
        "INVALID_VALUE", "type", vm.ref]  # fmt: skip


def test_a_running_vm_gets_no_adapter(host, adapter):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    assert host.refused("VGPU.create", vm.ref, adapter.GPU_group, "0", {}, NULL) == [
        "VM_BAD_POWER_STATE", vm.ref, "halted", "running"]  # fmt: skip


def test_a_clone_asks_for_an_adapter_too(host, adapter):
    vm = host.halted_vm()
    row = vgpu(host, vm, adapter.GPU_group)
    copy = host.db.get(VM, host("VM.clone", vm.ref, "copy"))
    assert [host.db.get(VGPU, ref).GPU_group for ref in copy.VGPUs] == [row.GPU_group]
    host("VM.destroy", copy.ref)
    assert host.db.all(VGPU) == [row]


def test_where_a_vgpu_is_can_be_written_down(host, adapter):
    row = vgpu(host, host.halted_vm(), adapter.GPU_group)
    host("VGPU.atomic_set_resident_on", row.ref, adapter.ref)
    assert row.resident_on == adapter.ref and adapter.resident_VGPUs == (row.ref,)
    assert host.refused("VGPU.atomic_set_resident_on", row.ref, row.ref) == [
        "HANDLE_INVALID",
        "PGPU",
        row.ref,
    ]


def test_a_vm_is_given_the_pci_devices_that_it_names(host, sysfs, look):
    sysfs.pci("0000:02:00.0", "0200", "8086", "1533", "vfio-pci")
    sysfs.pci("0000:03:00.0", "0200", "8086", "1533", "igb")
    look()
    vm = host.halted_vm(other_config={"pci": "0/0000:02:00.0"})
    host("VM.start", vm.ref, False, False)
    assert host.hypervisor.guests[vm.uuid].domain.pci == ["0000:02:00.0"]
    for text, code in [
        ("0/0000:02:00.0", "OPERATION_NOT_ALLOWED"),  # another VM's
        ("0/0000:03:00.0", "OPERATION_NOT_ALLOWED"),  # the host's
        ("0/0000:09:00.0", "OPERATION_NOT_ALLOWED"),  # nobody's
        ("0000:02:00.0", "INVALID_VALUE"),
    ]:
        other = host.halted_vm(other_config={"pci": text})
        assert host.refused("VM.start_on", other.ref, host.host.ref, False, False)[0] == code


def test_parts_of_adapters_are_their_vendors_matter(xapi, sysfs, look, tmp_path):
    xapi.machine.root = tmp_path
    graphics(sysfs)
    look()
    (row,) = xapi.db.all(PCI)
    assert xapi.refused("host.mxgpu_vf_setup", xapi.host.ref)[0] == "OPERATION_NOT_ALLOWED"
    assert xapi.refused("host.nvidia_vf_setup", xapi.host.ref, row.ref, True) == [
        "NVIDIA_SRIOV_MISCONFIGURED", xapi.host.ref, row.device_name]  # fmt: skip
    (tmp_path / "sys/module/gim").mkdir(parents=True)
    (sysfs.root / "bus/pci/devices/0000:01:00.0/sriov_numvfs").write_text("2\n")
    graphics(sysfs, address="0000:01:00.4")
    xapi("host.mxgpu_vf_setup", xapi.host.ref)
    assert len(xapi.db.all(PCI)) == 2
    graphics(sysfs, address="0000:01:00.5")
    xapi("host.nvidia_vf_setup", xapi.host.ref, row.ref, True)
    assert len(xapi.db.all(PCI)) == 3
