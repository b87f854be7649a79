from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import DirectKernel, Firmware, Limits, Platform
from kronos.rules import domain, platform

GIB = 1 << 30
KERNELS = (Path("/var/lib/xcp/guest"),)


class Attached(NamedTuple):
    path: Path
    format: str


def describe(world, vm, attached=None, **options):
    return domain.describe(world.db, vm, attached or {}, **{"kernels": KERNELS} | options)


def told(world, vm, **options):
    with pytest.raises(Failure) as caught:
        describe(world, vm, **options)
    return caught.value.description


def test_a_vm_has_its_names_processors_and_memory(world):
    vm = world.vm(VCPUs_max=4, VCPUs_at_startup=2, platform={"cores-per-socket": "2"})
    found = describe(world, vm)
    assert (found.uuid, found.name, found.kind) == (vm.uuid, "vm", "hvm")
    assert (found.memory_static_max, found.memory_target) == (GIB, GIB)
    assert (found.vcpus_max, found.vcpus, found.cores_per_socket) == (4, 2, 2)


def test_a_vm_starts_with_what_its_dynamic_maximum_says(world):
    assert describe(world, world.vm(memory_dynamic_max=GIB // 2)).memory_target == GIB // 2


def test_a_vm_has_a_channel_to_its_host_unless_it_is_to_have_none(world):
    assert [channel.name for channel in describe(world, world.vm()).channels] == ["org.kronos.channel"]
    assert describe(world, world.vm(platform={"channel": "false"})).channels == ()


# --- boot ------------------------------------------------------------------------------------------------------------


def test_an_hvm_guest_boots_firmware_in_the_order_given(world):
    vm = world.vm(HVM_boot_params={"order": "dcn"})
    assert describe(world, vm).boot == Firmware("bios", "dcn")


@pytest.mark.parametrize("params", [{}, {"order": ""}])
def test_an_order_that_is_missing_is_disk_then_disc(world, params):
    assert describe(world, world.vm(HVM_boot_params=params)).boot == Firmware("bios", "cd")


def test_uefi_keeps_its_variables_where_the_caller_says(world):
    vm = world.vm(HVM_boot_params={"firmware": "uefi", "order": "c"}, platform={"secureboot": "true"})
    assert describe(world, vm, nvram=Path("/n")).boot == Firmware(
        "uefi", "c", secure_boot=True, nvram=Path("/n")
    )


def test_secure_boot_is_automatic_where_the_pool_has_certificates(world):
    vm = world.vm(HVM_boot_params={"firmware": "uefi"}, platform={"secureboot": "auto"})
    assert not describe(world, vm).boot.secure_boot
    world.pool.custom_uefi_certificates = "PK"
    assert describe(world, vm).boot.secure_boot


def test_a_firmware_that_does_not_exist_is_refused(world):
    vm = world.vm(HVM_boot_params={"firmware": "coreboot"})
    assert told(world, vm) == ["INVALID_VALUE", "HVM-boot-params['firmware']", "coreboot"]


def direct(world, **fields):
    return world.vm(
        **{"domain_type": "pvh", "HVM_boot_policy": "", "PV_kernel": "/var/lib/xcp/guest/vmlinuz"} | fields
    )


def test_a_paravirtual_guest_boots_its_kernel(world):
    vm = direct(world, PV_ramdisk="/var/lib/xcp/guest/initrd", PV_args="root=/dev/xvda")
    found = describe(world, vm)
    kernel, ramdisk = Path("/var/lib/xcp/guest/vmlinuz"), Path("/var/lib/xcp/guest/initrd")
    assert (found.kind, found.boot) == ("pvh", DirectKernel(kernel, ramdisk, "root=/dev/xvda"))


@pytest.mark.parametrize("kind", ["unspecified", "pv"])
def test_an_old_record_without_boot_policy_is_paravirtual(world, kind):
    assert describe(world, direct(world, domain_type=kind)).kind == "pv"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/var/lib/xcp/guest/../../../../etc/shadow",
        "/var/lib/xcp/guest",
        "/var/lib/xcp/guest/",
        "/var/lib/xcp/guest/.",
        "/var/lib/xcp/guest-of-honour/vmlinuz",
        "//etc/shadow",
        "var/lib/xcp/guest/vmlinuz",
        "/var/lib/xcp/guest/vm\0linuz",
        "",
    ],
)
@pytest.mark.parametrize("field", ["kernel", "ramdisk"])
def test_a_vm_boots_no_file_of_its_host_but_guests_kernels(world, field, path):
    if field == "ramdisk" and not path:
        return
    assert told(world, direct(world, **{f"PV_{field}": path}))[:3] == ["INVALID_VALUE", field, path]


def test_dots_that_stay_inside_are_removed(world):
    vm = direct(world, PV_kernel="/var/lib/xcp/guest/old/../vmlinuz")
    assert describe(world, vm).boot.kernel == Path("/var/lib/xcp/guest/vmlinuz")


def test_a_link_out_of_the_directory_is_refused_where_the_caller_follows_links(world, tmp_path):
    inside, secret = tmp_path / "guest", tmp_path / "secret"
    inside.mkdir()
    secret.touch()
    (inside / "vmlinuz").symlink_to(secret)
    (inside / "real").touch()
    options = {"kernels": (inside,), "resolve": Path.resolve}
    vm = direct(world, PV_kernel=str(inside / "vmlinuz"))
    assert told(world, vm, **options)[:2] == ["INVALID_VALUE", "kernel"]
    vm.PV_kernel = str(inside / "real")
    assert describe(world, vm, **options).boot.kernel == inside / "real"


def test_a_vm_with_a_boot_loader_boots_what_it_found(world):
    vm = direct(world, PV_bootloader="pygrub", PV_kernel="")
    loaded = DirectKernel(Path("/run/kernel"))
    assert describe(world, vm, loaded=loaded).boot == loaded
    assert told(world, vm)[0] == "BOOTLOADER_FAILED"


# --- disks and interfaces --------------------------------------------------------------------------------------------


def test_disks_come_in_the_order_of_their_places(world):
    vm = world.vm()
    second, first = world.vdi(), world.vdi()
    world.vbd(vm, second, userdevice="xvdb", mode="RO")
    world.vbd(vm, first, userdevice="0", bootable=True)
    attached = {
        first.ref: Attached(Path("/a"), "qcow2"),
        second.ref: Attached(Path("/b"), "raw"),
    }
    one, two = describe(world, vm, attached).disks
    assert (one.device, one.path, one.format, one.read_only, one.bootable) == (
        0,
        Path("/a"),
        "qcow2",
        False,
        True,
    )
    assert (two.device, two.path, two.format, two.read_only, two.bootable) == (
        1,
        Path("/b"),
        "raw",
        True,
        False,
    )
    assert one.serial and one.serial == first.uuid.replace("-", "")[:20]


def test_an_empty_drive_has_no_path(world):
    vm = world.vm()
    world.cd(vm, userdevice="3")
    (drive,) = describe(world, vm).disks
    assert (drive.device, drive.path, drive.cdrom, drive.read_only) == (3, None, True, True)


def test_a_disc_is_never_written(world):
    vm = world.vm()
    vdi = world.vdi()
    world.cd(vm, vdi, mode="RW")
    (drive,) = describe(world, vm, {vdi.ref: Attached(Path("/iso"), "raw")}).disks
    assert drive.cdrom and drive.read_only


def test_the_speed_of_a_disk_is_limited(world):
    vm, vdi = world.vm(), world.vdi(sharable=True)
    world.vbd(vm, vdi, qos_algorithm_type="ratelimit", qos_algorithm_params={"kbps": "100", "iops": "x"})
    (disk,) = describe(world, vm, {vdi.ref: Attached(Path("/a"), "raw")}).disks
    assert disk.limits == Limits(bytes_per_second=102400)
    assert disk.shared


@pytest.mark.parametrize("attached", [None, Attached(Path("/a"), "vhd")])
def test_a_disk_that_no_hypervisor_can_read_is_a_mistake_of_ours(world, attached):
    vm, vdi = world.vm(), world.vdi()
    world.vbd(vm, vdi)
    given = {vdi.ref: attached} if attached else {}
    with pytest.raises(Failure) as caught:
        describe(world, vm, given)
    assert caught.value.code == "INTERNAL_ERROR"


def test_a_disk_without_a_place_is_refused(world):
    vm = world.vm()
    world.cd(vm, userdevice="nowhere")
    assert told(world, vm) == ["INVALID_DEVICE", "nowhere"]


def test_windows_starts_with_devices_it_has_drivers_for(world):
    vm, vdi = world.vm(reference_label="windows-11"), world.vdi()
    world.vbd(vm, vdi)
    world.vif(vm)
    found = describe(world, vm, {vdi.ref: Attached(Path("/a"), "raw")})
    assert (found.disks[0].bus, found.interfaces[0].model) == ("ide", "e1000")
    vm.platform = {"disk_type": "virtio", "nic_type": "virtio"}
    found = describe(world, vm, {vdi.ref: Attached(Path("/a"), "raw")})
    assert (found.disks[0].bus, found.interfaces[0].model) == ("virtio", "virtio")


def test_other_guests_get_what_their_hypervisor_does_best(world):
    vm = world.vm(platform={"nic_type": "e1000; rm -rf /", "disk_type": "floppy"})
    world.vif(vm)
    assert describe(world, vm).interfaces[0].model is None
    assert platform.disk_bus(vm) is None


def test_an_interface_joins_the_bridge_of_its_network(world):
    vm = world.vm()
    world.vif(vm, device="1")
    world.vif(vm, device="0", MAC="02:00:00:00:00:09", other_config={"mtu": "9000"})
    first, second = describe(world, vm).interfaces
    assert (first.device, first.mac, first.bridge, first.mtu) == (0, "02:00:00:00:00:09", "xenbr0", 9000)
    assert (second.device, second.mtu) == (1, 1500)
    assert first.tap != second.tap
    assert all(len(each.tap.encode()) <= 15 for each in (first, second))


def test_an_interface_has_the_same_tap_at_every_start(world):
    vm = world.vm()
    vif = world.vif(vm)
    assert describe(world, vm).interfaces[0].tap == domain.interface(world.db, vif).tap


@pytest.mark.parametrize("mtu", ["0", "huge", "99999", "-1", ""])
def test_an_mtu_that_is_none_is_that_of_the_network(world, mtu):
    vm = world.vm()
    world.vif(vm, other_config={"mtu": mtu})
    assert describe(world, vm).interfaces[0].mtu == 1500


# --- processors, clock, what happens at the end ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, (None, None, None)),
        ({"weight": "512", "cap": "50", "mask": "1,3,5"}, (512, 50, [1, 3, 5])),
        ({"mask": "1, 2; 3"}, (None, None, [1, 2, 3])),
        ({"weight": "heavy", "cap": "0", "mask": "all"}, (None, None, None)),
        ({"weight": "99999", "cap": "-1", "mask": ""}, (None, None, None)),
    ],
)
def test_parameters_of_processors_that_are_none_count_as_not_set(world, params, expected):
    found = describe(world, world.vm(VCPUs_params=params))
    assert (found.weight, found.cap, found.mask) == expected


@pytest.mark.parametrize(
    ("own", "of_host", "expected"),
    [("1,2", "2,3", [2]), ("", "2,3", [2, 3]), ("1", "2", [2]), ("1", "", [1])],
)
def test_a_vm_stays_on_the_processors_that_its_host_gives_to_guests(world, own, of_host, expected):
    world.host.guest_VCPUs_params = {"mask": of_host}
    assert describe(world, world.vm(VCPUs_params={"mask": own}), host=world.host).mask == expected


@pytest.mark.parametrize(
    ("cores", "expected"), [("3", "VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE"), ("two", "INVALID_VALUE")]
)
def test_sockets_are_all_alike(world, cores, expected):
    assert told(world, world.vm(VCPUs_max=4, platform={"cores-per-socket": cores}))[0] == expected


def test_the_clock_keeps_its_distance(world):
    assert describe(world, world.vm(platform={"timeoffset": "-3600"})).clock_offset == -3600
    assert describe(world, world.vm(platform={"timeoffset": "soon"})).clock_offset == 0


def test_a_disk_that_is_reset_at_each_boot_resets_the_clock(world):
    vm = world.vm(platform={"timeoffset": "1"})
    vdis = [world.vdi(on_boot="reset", other_config={"timeoffset": "7200"}) for _ in range(2)]
    attached = {vdi.ref: Attached(Path("/a"), "raw") for vdi in vdis}
    world.vbd(vm, vdis[0])
    assert describe(world, vm, attached).clock_offset == 7200
    world.vbd(vm, vdis[1])
    with pytest.raises(Failure) as caught:
        describe(world, vm, attached)
    assert caught.value.code.startswith("VM_ATTACHED_TO_MORE_THAN_ONE_VDI_WITH_TIMEOFFSET")


@pytest.mark.parametrize(
    ("field", "action", "expected"),
    [
        ("shutdown", "destroy", "destroy"),
        ("shutdown", "restart", "restart"),
        ("reboot", "destroy", "destroy"),
        ("reboot", "restart", "restart"),
        ("crash", "restart", "restart"),
        ("crash", "preserve", "preserve"),
        ("crash", "destroy", "destroy"),
    ],
)
def test_what_happens_at_the_end_of_a_run(world, field, action, expected):
    found = describe(world, world.vm(**{f"actions_after_{field}": action}))
    assert {"shutdown": found.on_poweroff, "reboot": found.on_reboot, "crash": found.on_crash}[
        field
    ] == expected


# --- the machine -----------------------------------------------------------------------------------------------------


def test_a_map_that_says_nothing_is_the_usual_machine(world):
    assert platform.describe(world.vm()) == Platform()


def test_the_map_changes_the_machine(world):
    vm = world.vm(
        platform={
            "acpi": "0", "apic": "FALSE", "pae": "false", "nx": "0", "viridian": "true", "hpet": "1",
            "nested-virt": "true", "vga": "cirrus", "videoram": "16", "usb": "false", "usb_tablet": "true",
            "hvm_serial": "none", "chipset": "i440fx", "keymap": "de",
        }
    )  # fmt: skip
    assert platform.describe(vm) == Platform(
        acpi=False, apic=False, pae=False, nx=False, viridian=True, hpet=True, nested=True, vga="cirrus",
        videoram=16, usb=False, usb_tablet=False, serial=False, machine="pc", keymap="de",
    )  # fmt: skip


@pytest.mark.parametrize(
    "odd",
    [{"acpi": "maybe"}, {"vga": "matrox"}, {"videoram": "lots"}, {"videoram": "4096"}, {"keymap": "../x"}],
)
def test_what_cannot_be_read_is_as_usual(world, odd):
    assert platform.describe(world.vm(platform=odd)) == Platform()


def test_a_machine_without_screen_has_none_to_look_at(world):
    found = platform.describe(world.vm(platform={"vga": "none"}))
    assert (found.vga, found.vnc) == ("none", False)


def test_nested_virtualisation_is_asked_for_clearly(world):
    vm = world.vm(platform={"nested-virt": "perhaps"})
    assert told(world, vm) == ["INVALID_VALUE", "platform:nested-virt", "perhaps"]


@pytest.mark.parametrize(("model", "firmware"), [("qemu-trad", "uefi"), ("qemu-upstream-uefi", "bios")])
def test_a_device_model_boots_the_firmware_it_knows(world, model, firmware):
    vm = world.vm(platform={"device-model": model}, HVM_boot_params={"firmware": firmware})
    assert told(world, vm)[:2] == ["INVALID_VALUE", "platform:device-model"]
