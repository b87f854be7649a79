"""The host's devices: found in sysfs as its kernel shows them, kept as clients set them, gone when they are pulled."""

from __future__ import annotations

from pathlib import Path

from harness.sysfs import graphics
from kronos.datamodel.types import NULL
from kronos.db.records import PCI, PGPU, PUSB, VGPU, VM, VUSB, GPU_group, Host, USB_group, VGPU_type
from kronos.system import pci, usb
from kronos.system.power import NotTheService

# --- PCI -------------------------------------------------------------------------------------------------------------


def test_a_device_has_its_numbers_and_their_names(xapi, sysfs, look):
    graphics(sysfs)
    look()
    (row,) = xapi.db.all(PCI)
    assert (row.pci_id, row.class_id, row.vendor_id, row.device_id) == (
        "0000:01:00.0",
        "0302",
        "10de",
        "1eb8",
    )
    assert (row.class_name, row.vendor_name, row.device_name) == (
        "3D controller", "NVIDIA Corporation", "TU104GL [Tesla T4]")  # fmt: skip
    assert (row.subsystem_device_name, row.driver_name, row.host) == (
        "Tesla T4 board",
        "nvidia",
        xapi.host.ref,
    )


def test_the_functions_of_a_device_depend_on_each_other(xapi, sysfs, look):
    for address in ("0000:02:00.0", "0000:02:00.1", "0000:03:00.0"):
        sysfs.pci(address, "0200", "8086", "1533", "igb")
    look()
    first, second, other = xapi.db.all(PCI)
    assert (first.dependencies, second.dependencies, other.dependencies) == ((second.ref,), (first.ref,), ())


def test_what_stays_keeps_its_record_and_what_is_pulled_loses_it(xapi, sysfs, look):
    sysfs.pci("0000:02:00.0", "0200", "8086", "1533", "igb")
    sysfs.pci("0000:03:00.0", "0200", "8086", "1533", "igb")
    look()
    kept, gone = xapi.db.all(PCI)
    xapi("PCI.add_to_other_config", kept.ref, "rack", "4")
    path = sysfs.root / "bus/pci/devices/0000:03:00.0"
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    look()
    assert xapi.db.all(PCI) == [kept] and kept.other_config == {"rack": "4"}
    assert kept.device_name == "I210 Gigabit"


def test_a_host_without_a_list_of_names_shows_numbers(xapi, sysfs, look, monkeypatch):
    monkeypatch.setattr(pci.Names.__init__, "__defaults__", ((),))
    graphics(sysfs)
    look()
    assert xapi.db.all(PCI)[0].device_name == "Device 1eb8"


def test_this_machines_own_devices_are_read():
    found = pci.devices()
    assert all(len(each.vendor) == 4 and len(each.cls) == 4 for each in found)
    assert usb.devices(Path("/nonexistent")) == []


# --- whom a device is for --------------------------------------------------------------------------------------------


class Outside:
    """Writes to a tree of the test's."""

    def write(self, path, content, mode=0o644):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_a_device_is_left_for_guests_from_the_next_boot_on(xapi, sysfs, look, tmp_path):
    xapi.machine.root, xapi.machine.outside = tmp_path / "root", Outside()
    graphics(sysfs)
    look()
    (row,), (adapter,) = xapi.db.all(PCI), xapi.db.all(PGPU)
    assert xapi("PCI.get_dom0_access_status", row.ref) == "enabled"
    assert xapi("PCI.disable_dom0_access", row.ref) == "disable_on_reboot"
    (rules,) = (tmp_path / "root/etc/udev/rules.d").iterdir()
    assert 'KERNEL=="0000:01:00.0", ATTR{driver_override}="vfio-pci"' in rules.read_text()
    graphics(sysfs, "vfio-pci")  # the host has booted
    look()
    assert xapi("PCI.get_dom0_access_status", row.ref) == "disabled"
    assert xapi("PGPU.enable_dom0_access", adapter.ref) == "enable_on_reboot"
    assert "0000:01:00.0" not in rules.read_text() and adapter.dom0_access == "enable_on_reboot"


def test_a_daemon_that_is_not_the_systems_changes_nothing_of_it(xapi, sysfs, look):
    graphics(sysfs)
    look()
    row = xapi.db.all(PCI)[0]
    assert xapi.refused("PCI.disable_dom0_access", row.ref)[0] == xapi.refused(
        "PGPU.disable_dom0_access", xapi.db.all(PGPU)[0].ref)[0]  # fmt: skip
    assert xapi("PCI.get_dom0_access_status", row.ref) == "enabled"
    assert issubclass(NotTheService, Exception)


def test_another_hosts_devices_are_asked_of_it(xapi):
    other = xapi.db.create(Host)
    row = xapi.db.create(PCI, host=other.ref, pci_id="0000:01:00.0")
    assert xapi.refused("PCI.get_dom0_access_status", row.ref) == ["HOST_OFFLINE", other.ref]
    assert xapi.refused("PUSB.scan", other.ref) == ["HOST_OFFLINE", other.ref]


# --- graphics --------------------------------------------------------------------------------------------------------


def test_adapters_of_one_kind_are_in_one_group(xapi, sysfs, look):
    graphics(sysfs)
    graphics(sysfs, address="0000:04:00.0")
    sysfs.pci("0000:00:02.0", "0300", "8086", "9bc8", "i915", boot_vga="1")
    look()
    look()
    first, second = xapi.db.all(GPU_group)
    assert {first.GPU_types, second.GPU_types} == {("10de/1eb8",), ("8086/9bc8",)}
    assert sorted(len(group.PGPUs) for group in (first, second)) == [1, 2]
    screen = [row for row in xapi.db.all(PGPU) if row.is_system_display_device]
    assert [xapi.db.get(PCI, row.PCI).pci_id for row in screen] == ["0000:00:02.0"]


def test_a_guest_can_have_an_adapter_whole_that_the_host_left(xapi, sysfs, look):
    graphics(sysfs)
    look()
    (adapter,), (group,) = xapi.db.all(PGPU), xapi.db.all(GPU_group)
    assert adapter.supported_VGPU_types == () and xapi.db.all(VGPU_type) == []
    graphics(sysfs, "vfio-pci")
    look()
    (whole,) = xapi.db.all(VGPU_type)
    assert (whole.model_name, whole.implementation) == ("passthrough", "passthrough")
    assert adapter.enabled_VGPU_types == group.enabled_VGPU_types == (whole.ref,)
    assert xapi("PGPU.get_remaining_capacity", adapter.ref, whole.ref) == 1
    assert xapi("GPU_group.get_remaining_capacity", group.ref, whole.ref) == 1
    xapi.db.get(PCI, adapter.PCI).attached_VMs = (xapi.db.create(VM).ref,)
    assert xapi("PGPU.get_remaining_capacity", adapter.ref, whole.ref) == 0
    assert xapi.refused("PGPU.set_GPU_group", adapter.ref, NULL)[0] == "PGPU_IN_USE_BY_VM"


def test_what_an_adapter_may_be_used_as_is_a_part_of_what_it_can(xapi, sysfs, look):
    graphics(sysfs, "vfio-pci")
    look()
    (adapter,), (group,), (whole,) = xapi.db.all(PGPU), xapi.db.all(GPU_group), xapi.db.all(VGPU_type)
    other = xapi.db.create(VGPU_type)
    assert xapi.refused("PGPU.add_enabled_VGPU_types", adapter.ref, other.ref) == [
        "VGPU_TYPE_NOT_SUPPORTED", other.ref, whole.ref]  # fmt: skip
    xapi("PGPU.remove_enabled_VGPU_types", adapter.ref, whole.ref)
    assert group.enabled_VGPU_types == ()
    assert xapi.refused("PGPU.get_remaining_capacity", adapter.ref, whole.ref) == [
        "VGPU_TYPE_NOT_ENABLED", whole.ref]  # fmt: skip
    look()
    assert adapter.enabled_VGPU_types == ()
    xapi("PGPU.set_enabled_VGPU_types", adapter.ref, [whole.ref])
    assert group.enabled_VGPU_types == (whole.ref,)
    used = xapi.db.create(VGPU, VM=xapi.db.create(VM).ref, type=whole.ref, resident_on=adapter.ref)
    assert xapi.refused("PGPU.set_enabled_VGPU_types", adapter.ref, []) == ["PGPU_IN_USE_BY_VM", used.VM]


def test_an_adapter_joins_groups_of_its_kind_alone(xapi, sysfs, look):
    graphics(sysfs)
    sysfs.pci("0000:00:02.0", "0300", "8086", "9bc8", "i915")
    look()
    intel, nvidia = xapi.db.all(PGPU)
    assert xapi.refused("PGPU.set_GPU_group", intel.ref, nvidia.GPU_group) == [
        "PGPU_NOT_COMPATIBLE_WITH_GPU_GROUP", "8086/9bc8", "[10de/1eb8]"]  # fmt: skip
    before = intel.GPU_group
    mine = xapi("GPU_group.create", "mine", "", {})
    assert xapi.refused("GPU_group.destroy", before) == ["GPU_GROUP_CONTAINS_PGPU", intel.ref]
    xapi("PGPU.set_GPU_group", intel.ref, mine)
    assert xapi.db.get(GPU_group, mine).GPU_types == ("8086/9bc8",)
    xapi("GPU_group.destroy", before)
    assert xapi.db.find(GPU_group, before) is None


# --- USB -------------------------------------------------------------------------------------------------------------


def test_usb_devices_are_shown_and_hubs_are_not(xapi, sysfs, look):
    sysfs.usb("1-1.4")
    sysfs.usb("1-1", cls="09")
    (sysfs.root / "bus/usb/devices/1-1:1.0").mkdir()
    look()
    (row,) = xapi.db.all(PUSB)
    assert (row.path, row.vendor_id, row.product_id, row.serial) == ("1-1.4", "0781", "5591", "4C53")
    assert (row.description, row.version, row.speed) == ("SanDisk_Ultra_4C53", "3.20", 5000.0)
    assert xapi.db.get(USB_group, row.USB_group).PUSBs == (row.ref,)


def test_a_scan_finds_what_was_plugged_in_and_pulled(xapi, sysfs, look, tmp_path):
    xapi.machine.root = tmp_path
    sysfs.usb("1-1")
    look()
    (row,) = xapi.db.all(PUSB)
    xapi("PUSB.set_passthrough_enabled", row.ref, True)
    sysfs.usb("1-2", serial="other")
    xapi("PUSB.scan", xapi.host.ref)
    assert xapi.db.all(PUSB)[0] is row and row.passthrough_enabled and len(xapi.db.all(PUSB)) == 2
    for path in ("1-1", "1-2"):
        (sysfs.root / "bus/usb/devices" / path).rename(sysfs.root / path)
    xapi("PUSB.scan", xapi.host.ref)
    assert xapi.db.all(PUSB) == xapi.db.all(USB_group) == []


def test_another_device_in_the_same_port_is_another_device(xapi, sysfs, look):
    sysfs.usb("1-1")
    look()
    (row,) = xapi.db.all(PUSB)
    xapi("PUSB.set_passthrough_enabled", row.ref, True)
    (sysfs.root / "bus/usb/devices/1-1/serial").write_text("FFFF\n")
    look()
    (now,) = xapi.db.all(PUSB)
    assert now is not row and not now.passthrough_enabled


def test_a_device_that_a_guest_has_is_not_taken_from_it(xapi, sysfs, look):
    sysfs.usb("1-1")
    look()
    (row,) = xapi.db.all(PUSB)
    xapi("PUSB.set_passthrough_enabled", row.ref, True)
    vm = xapi.db.create(VM)
    held = xapi.db.create(VUSB, VM=vm.ref, USB_group=row.USB_group, currently_attached=True)
    assert xapi.refused("PUSB.set_passthrough_enabled", row.ref, False) == [
        "USB_ALREADY_ATTACHED", row.ref, vm.ref]  # fmt: skip
    assert xapi.refused("USB_group.destroy", row.USB_group) == ["USB_GROUP_CONTAINS_VUSB", held.ref]
    held.currently_attached = False
    xapi("PUSB.set_passthrough_enabled", row.ref, False)
    assert xapi.db.all(VUSB) == []


def test_a_group_with_a_device_stays(xapi, sysfs, look):
    sysfs.usb("1-1")
    look()
    (row,) = xapi.db.all(PUSB)
    assert xapi.refused("USB_group.destroy", row.USB_group) == ["USB_GROUP_CONTAINS_PUSB", row.ref]
    empty = xapi("USB_group.create", "mine", "", {})
    xapi("USB_group.destroy", empty)
    assert len(xapi.db.all(USB_group)) == 1
