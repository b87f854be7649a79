"""Domains as libvirt documents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, tostring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import (
    Channel,
    DeviceId,
    DirectKernel,
    Disk,
    Domain,
    Firmware,
    Interface,
    Limits,
    Platform,
)
from kronos.hypervisor.hardware import HostUSB
from kronos.hypervisor.image import devices
from kronos.hypervisor.kvm import SPARE_SLOTS, KVMRenderer
from kronos.hypervisor.rendering import Places, boot_order, letters

UUID = "11111111-2222-4333-8444-555555555555"
KERNEL = DirectKernel(Path("/k"))
PLAIN = Domain(UUID, "plain", 1 << 30, 1 << 29, KERNEL)
TCG = KVMRenderer(Places(Path("/run/vm")), accelerated=False)
KVM = KVMRenderer(Places(Path("/run/vm")), accelerated=True)


def rendered(domain: Domain, renderer: KVMRenderer = TCG) -> Element:
    return ElementTree.fromstring(renderer.domain(domain))


def one(root: Element, path: str) -> Element:
    found = root.findall(path)
    assert len(found) == 1, path
    return found[0]


def test_memory_is_in_bytes_and_the_target_never_above_the_maximum() -> None:
    root = rendered(replace(PLAIN, memory_target=1 << 31))

    assert one(root, "memory").attrib == {"unit": "b"}
    assert one(root, "memory").text == one(root, "currentMemory").text == str(1 << 30)


def test_the_uuid_is_the_name_and_the_name_a_title() -> None:
    root = rendered(PLAIN)

    assert (root.findtext("name"), root.findtext("uuid"), root.findtext("title")) == (UUID, UUID, "plain")


@pytest.mark.parametrize(("user", "path"), [(0, None), (1000, f"/run/vm/{UUID}/agent")])
def test_a_users_own_libvirt_is_told_a_short_path_to_the_agent(
    monkeypatch: pytest.MonkeyPatch, user: int, path: str | None
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    channel = one(rendered(PLAIN), "devices/channel")
    source = channel.find("source")

    assert one(channel, "target").get("name") == "org.qemu.guest_agent.0"
    assert (None if source is None else source.get("path")) == path


@given(st.text(max_size=40))
def test_any_name_makes_a_document_on_which_title_is_one_line(name: str) -> None:
    title = rendered(replace(PLAIN, name=name)).findtext("title")

    assert title is None or "\n" not in title


@given(st.integers(0, 20_000))
def test_disk_letters_count_as_spreadsheets_do(number: int) -> None:
    name = letters(number)
    value = 0
    for letter in name:
        value = value * 26 + ord(letter) - ord("a") + 1

    assert value - 1 == number
    assert (letters(0), letters(25), letters(26), letters(701), letters(702)) == ("a", "z", "aa", "zz", "aaa")


@pytest.mark.parametrize(
    ("disk", "target", "bus"),
    [
        (Disk(0, None), "vda", "virtio"),
        (Disk(27, None), "vdab", "virtio"),
        (Disk(3, None, cdrom=True), "sdd", "sata"),
        (Disk(1, None, bus="ide"), "sdb", "sata"),
        (Disk(1, None, bus="scsi"), "sdb", "scsi"),
    ],
)
def test_a_disk_is_named_after_its_number(disk: Disk, target: str, bus: str) -> None:
    element = one(rendered(replace(PLAIN, disks=(disk,))), "devices/disk/target")

    assert element.attrib == {"dev": target, "bus": bus}


def test_an_empty_cd_drive_has_no_source_and_no_driver() -> None:
    disk = one(rendered(replace(PLAIN, disks=(Disk(3, None, cdrom=True),))), "devices/disk")

    assert disk.get("device") == "cdrom"
    assert disk.find("source") is None and disk.find("driver") is None
    assert disk.find("readonly") is not None


def test_a_disk_goes_past_the_host_cache_where_the_file_system_can(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(4096))
    absent = one(rendered(replace(PLAIN, disks=(Disk(0, Path("/absent")),))), "devices/disk/driver")
    there = one(rendered(replace(PLAIN, disks=(Disk(0, file, format="qcow2"),))), "devices/disk/driver")

    assert absent.get("cache") == "writeback"
    assert there.get("type") == "qcow2"
    assert there.get("cache") in ("none", "writeback")


def test_limits_appear_only_where_there_are_some() -> None:
    free, bound = Disk(0, Path("/a")), Disk(1, Path("/b"), limits=Limits(1000, 0))
    root = rendered(replace(PLAIN, disks=(free, bound)))

    assert [disk.find("iotune") is not None for disk in root.iterfind("devices/disk")] == [False, True]
    assert root.findtext("devices/disk/iotune/total_bytes_sec") == "1000"


def test_a_usb_device_of_the_host_is_named_by_its_place() -> None:
    root = rendered(replace(PLAIN, usb=(HostUSB(7, 1, 4),), platform=Platform(usb=False)))
    element = one(root, "devices/hostdev")

    assert (element.get("type"), element.get("managed")) == ("usb", "yes")
    assert one(element, "source/address").attrib == {"bus": "1", "device": "4"}
    assert one(element, "alias").get("name") == "ua-usb-7"
    assert one(root, "devices/controller[@type='usb']").get("model") == "qemu-xhci"
    assert devices(tostring(root, encoding="unicode")) == {DeviceId("usb", 7)}


def test_a_pci_device_of_the_host_is_named_by_its_address() -> None:
    element = one(rendered(replace(PLAIN, pci=("0000:01:00.1",))), "devices/hostdev")

    assert (element.get("type"), element.get("managed")) == ("pci", "yes")
    assert one(element, "source/address").attrib == {
        "domain": "0x0000",
        "bus": "0x01",
        "slot": "0x00",
        "function": "0x1",
    }


def test_a_tpm_is_kept_by_libvirt_after_its_guests_end() -> None:
    tpm = one(rendered(replace(PLAIN, tpm=True)), "devices/tpm")

    assert tpm.get("model") == "tpm-crb"
    assert one(tpm, "backend").attrib == {"type": "emulator", "version": "2.0", "persistent_state": "yes"}


def test_an_interface_with_a_tap_leaves_the_tap_to_its_maker() -> None:
    interface = Interface(0, "52:54:00:00:00:01", tap="tap0", mtu=9000, carrier=False)
    element = one(rendered(replace(PLAIN, interfaces=(interface,))), "devices/interface")

    assert element.get("type") == "ethernet"
    assert one(element, "target").attrib == {"dev": "tap0", "managed": "no"}
    assert one(element, "mtu").get("size") == "9000"
    assert one(element, "link").get("state") == "down"


def test_an_interface_with_a_bridge_is_joined_to_it() -> None:
    interface = Interface(0, "52:54:00:00:00:01", bridge="xenbr0", model="e1000")
    element = one(rendered(replace(PLAIN, interfaces=(interface,))), "devices/interface")

    assert element.get("type") == "bridge"
    assert one(element, "source").get("bridge") == "xenbr0"
    assert one(element, "model").get("type") == "e1000"


def test_an_interface_to_nowhere_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="interface 2"):
        rendered(replace(PLAIN, interfaces=(Interface(2, "52:54:00:00:00:01"),)))


def test_a_kernel_of_the_host_is_booted_with_its_command_line() -> None:
    boot = DirectKernel(Path("/boot/k"), Path("/boot/r"), "console=ttyS0 a='<b>'")
    os = one(rendered(replace(PLAIN, boot=boot)), "os")

    assert (os.findtext("kernel"), os.findtext("initrd"), os.findtext("cmdline")) == (
        "/boot/k",
        "/boot/r",
        "console=ttyS0 a='<b>'",
    )


def test_uefi_has_its_own_variables() -> None:
    boot = Firmware("uefi", secure_boot=True, nvram=Path("/vars"))
    os = one(rendered(replace(PLAIN, boot=boot)), "os")

    assert os.get("firmware") == "efi"
    assert {one.get("name"): one.get("enabled") for one in os.iterfind("firmware/feature")} == {
        "secure-boot": "yes",
        "enrolled-keys": "yes",
    }
    assert os.findtext("nvram") == "/vars"


def test_the_boot_order_is_that_of_the_letters() -> None:
    disks = (Disk(0, Path("/a")), Disk(1, Path("/b"), bootable=True), Disk(3, None, cdrom=True))
    nic = Interface(0, "52:54:00:00:00:01", bridge="b")
    domain = replace(PLAIN, boot=Firmware(order="dnc"), disks=disks, interfaces=(nic,))

    assert boot_order(domain) == {
        DeviceId("disk", 3): 1,
        DeviceId("interface", 0): 2,
        DeviceId("disk", 1): 3,
        DeviceId("disk", 0): 4,
    }


def test_letters_that_mean_nothing_or_come_twice_are_passed_over() -> None:
    domain = replace(PLAIN, boot=Firmware(order="XCCD"), disks=(Disk(0, Path("/a")),))

    assert boot_order(domain) == {DeviceId("disk", 0): 1}


def test_fewer_cpus_than_the_most_are_plugged_at_the_start() -> None:
    vcpu = one(rendered(replace(PLAIN, vcpus=2, vcpus_max=8, mask=(0, 3))), "vcpu")

    assert (vcpu.text, vcpu.get("current"), vcpu.get("cpuset")) == ("8", "2", "0,3")


@pytest.mark.parametrize(("most", "cores", "expected"), [(8, 4, (2, 4)), (6, 4, (6, 1)), (1, 1, (1, 1))])
def test_the_topology_multiplies_to_the_most_cpus(most: int, cores: int, expected: tuple[int, int]) -> None:
    topology = one(rendered(replace(PLAIN, vcpus_max=most, cores_per_socket=cores)), "cpu/topology")

    assert (int(topology.get("sockets", 0)), int(topology.get("cores", 0))) == expected


@pytest.mark.parametrize(("weight", "cap"), [(None, None), (256, 0), (None, 0)])
def test_default_scheduling_needs_no_control_groups(weight: int | None, cap: int | None) -> None:
    assert rendered(replace(PLAIN, weight=weight, cap=cap)).find("cputune") is None


def test_weight_and_cap_are_scaled() -> None:
    root = rendered(replace(PLAIN, weight=512, cap=150))

    assert root.findtext("cputune/shares") == "2048"
    assert root.findtext("cputune/global_quota") == "150000"


def test_viridian_is_for_accelerated_guests_alone() -> None:
    domain = replace(PLAIN, platform=Platform(viridian=True))

    assert rendered(domain, KVM).find("features/hyperv/relaxed") is not None
    assert rendered(domain, TCG).find("features/hyperv") is None


def test_virtualisation_inside_the_guest_is_off_unless_wanted() -> None:
    def disabled(platform: Platform) -> set[str | None]:
        root = rendered(replace(PLAIN, platform=platform), KVM)
        return {one.get("name") for one in root.iterfind("cpu/feature[@policy='disable']")}

    assert {"svm", "vmx"} <= disabled(Platform())
    assert not {"svm", "vmx"} & disabled(Platform(nested=True))


def test_slots_are_left_for_what_is_plugged_later() -> None:
    def ports(domain: Domain) -> int:
        return len(rendered(domain).findall("devices/controller[@model='pcie-root-port']"))

    disks = tuple(Disk(number, Path("/a")) for number in range(4))

    assert ports(replace(PLAIN, disks=disks)) - ports(PLAIN) == 4
    assert ports(PLAIN) > SPARE_SLOTS
    assert ports(replace(PLAIN, platform=Platform(hotplug=False))) == 0


def test_consoles_and_channels_are_where_they_are_looked_for() -> None:
    root = rendered(replace(PLAIN, channels=(Channel("org.example.0", Path("/c")), Channel("org.example.1"))))

    assert one(root, "devices/serial/source").get("path") == f"/run/vm/{UUID}/serial"
    assert one(root, "devices/serial/log").get("file") == f"/run/vm/{UUID}/serial.log"
    assert one(root, "devices/graphics/listen").get("socket") == f"/run/vm/{UUID}/vnc"
    sources = [source.get("path") for source in root.findall("devices/channel/source")]
    assert sources == ["/c", f"/run/vm/{UUID}/1"]


def test_a_headless_machine_has_no_screen_and_no_pointer() -> None:
    root = rendered(replace(PLAIN, platform=Platform(vga="none", vnc=False, serial=False)))

    assert one(root, "devices/video/model").get("type") == "none"
    assert root.find("devices/graphics") is None
    assert root.find("devices/input") is None
    assert root.find("devices/serial") is None


def test_no_text_of_a_domain_can_break_out_of_its_place() -> None:
    evil = "</title><devices><disk/></devices><qemu:commandline/>&#0;\"'"
    root = rendered(
        replace(
            PLAIN,
            name=evil + "\0",
            boot=DirectKernel(Path("/" + evil.replace("/", "_")), None, evil),
            disks=(Disk(0, Path("/" + evil.replace("/", "_")), serial=evil),),
        )
    )

    assert len(root.findall("devices")) == 1
    assert len(root.findall(".//disk")) == 1
    assert not [element for element in root.iter() if "commandline" in element.tag]


@pytest.mark.parametrize("model", ["virtio,script=/bin/sh", "ich9-ahci", "../x"])
def test_only_network_cards_are_network_cards(model: str) -> None:
    interface = Interface(0, "52:54:00:00:00:01", bridge="b", model=model)

    with pytest.raises(Failure) as caught:
        rendered(replace(PLAIN, interfaces=(interface,)))
    assert caught.value.description == ["INVALID_VALUE", "platform:nic_type", model]


@pytest.mark.parametrize("keymap", ["", "../../../etc/shadow", "en-us,x"])
def test_a_keymap_is_a_name_and_no_path(keymap: str) -> None:
    with pytest.raises(Failure) as caught:
        rendered(replace(PLAIN, platform=Platform(keymap=keymap)))
    assert caught.value.code == "INVALID_VALUE"


@pytest.mark.parametrize(
    "uuid", ["", ".", "..", "/etc", UUID + "/..", UUID.upper().replace("1", "A"), UUID + "\n"]
)
def test_no_uuid_leads_out_of_the_directory_of_vms(uuid: str) -> None:
    with pytest.raises(Failure) as caught:
        Places(Path("/run/vm")).of(uuid)
    assert caught.value.code == "UUID_INVALID"
