"""The documents that libvirt's driver for Xen is given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import Channel, DirectKernel, Disk, Domain, Firmware, Interface, Limits, Platform
from kronos.hypervisor.rendering import Places
from kronos.hypervisor.xen_rendering import XenRenderer

UUID = "0f5c1d2e-3a4b-4c5d-8e6f-708192a3b4c5"
XEN = "{http://libvirt.org/schemas/domain/xen/1.0}"
RENDERER = XenRenderer(Places(Path("/run/xapi")))


def rendered(**changes: Any) -> Element:
    plain = Domain(UUID, "one", 64 << 20, 64 << 20, DirectKernel(Path("/kernel")), kind="pv")
    return ElementTree.fromstring(RENDERER.domain(replace(plain, **changes)))


@pytest.mark.parametrize(
    ("kind", "os_type"), [("pv", "linux"), ("pvh", "xenpvh"), ("pv_in_pvh", "xenpvh"), ("hvm", "hvm")]
)
def test_each_kind_of_guest_has_its_type(kind: str, os_type: str) -> None:
    root = rendered(kind=kind)
    assert (root.get("type"), root.findtext("os/type")) == ("xen", os_type)


def test_paravirtual_disks_and_interfaces_are_xens() -> None:
    root = rendered(
        disks=[Disk(0, Path("/sr/a.qcow2"), format="qcow2"), Disk(27, Path("/sr/b"))],
        interfaces=[Interface(0, "02:00:00:00:00:01", bridge="xenbr0", tap="t1234567.0")],
    )
    targets = [
        (disk.find("target").get("dev"), disk.find("target").get("bus"))
        for disk in root.iterfind("devices/disk")
    ]  # type: ignore[union-attr]
    assert targets == [("xvda", "xen"), ("xvdab", "xen")]
    assert root.find("devices/interface/model").get("type") == "netfront"  # type: ignore[union-attr]
    assert root.find("devices/interface/target").get("dev") == "t1234567.0"  # type: ignore[union-attr]


def test_what_a_paravirtual_guest_cannot_write_is_a_cd() -> None:
    (disk,) = rendered(disks=[Disk(3, Path("/iso"), cdrom=True, read_only=True)]).iterfind("devices/disk")
    assert disk.get("device") == "cdrom" and disk.find("readonly") is not None


def test_an_empty_drive_of_a_paravirtual_guest_is_no_device() -> None:
    assert rendered(disks=[Disk(3, None, cdrom=True)]).find("devices/disk") is None


def test_an_emulated_pc_has_ide_disks_and_a_boot_order() -> None:
    root = rendered(
        kind="hvm", boot=Firmware(order="dcn"), disks=[Disk(0, Path("/a")), Disk(3, None, cdrom=True)]
    )
    assert [disk.find("target").get("dev") for disk in root.iterfind("devices/disk")] == ["hda", "hdd"]  # type: ignore[union-attr]
    assert [boot.get("dev") for boot in root.iterfind("os/boot")] == ["cdrom", "hd", "network"]


def test_what_libxl_has_no_words_for_is_left_out() -> None:
    limits = Limits(bytes_per_second=1 << 20)
    interface = Interface(0, "02:00:00:00:00:01", bridge="b", mtu=9000, carrier=False)
    root = rendered(disks=[Disk(0, Path("/a"), serial="s", limits=limits)], interfaces=[interface])
    for name in (
        "disk/iotune",
        "disk/serial",
        "disk/boot",
        "interface/mtu",
        "interface/link",
        "interface/boot",
    ):
        assert root.find(f"devices/{name}") is None, name


def test_weight_and_mask_are_xens_own() -> None:
    root = rendered(vcpus_max=2, weight=512, mask=[0, 2])
    assert root.findtext("cputune/shares") == "512"
    assert [pin.get("cpuset") for pin in root.iterfind("cputune/vcpupin")] == ["0,2", "0,2"]


def test_every_guest_has_a_screen_on_a_socket_and_a_monitor() -> None:
    root = rendered(platform=Platform(vga="none", vnc=False))
    listen = root.find("devices/graphics/listen")
    assert listen is not None and listen.get("address") == f"unix:/run/xapi/{UUID}/vnc"
    arguments = [arg.get("value") for arg in root.iterfind(f"{XEN}commandline/{XEN}arg")]
    assert arguments[0] == "-chardev" and f"path=/run/xapi/{UUID}/monitor," in str(arguments[1])


def test_a_channel_is_xens() -> None:
    channel = rendered(channels=[Channel("org.kronos.channel", Path("/run/c"))]).find("devices/channel")
    assert channel is not None
    target, source = channel.find("target"), channel.find("source")
    assert target is not None and (target.get("type"), target.get("name")) == ("xen", "org.kronos.channel")
    assert source is not None and source.get("path") == "/run/c"


def test_a_guest_that_is_to_be_booted_anew_is_kept_until_one_knows_why_it_ended() -> None:
    assert rendered(on_reboot="destroy").findtext("on_reboot") == "preserve"
    assert rendered(on_reboot="restart").findtext("on_reboot") == "restart"


def test_secure_boot_is_refused() -> None:
    with pytest.raises(Failure, match="VM_LACKS_FEATURE"):
        rendered(kind="hvm", boot=Firmware("uefi", secure_boot=True))


def test_a_card_that_qemu_does_not_have_is_refused() -> None:
    with pytest.raises(Failure, match="INVALID_VALUE"):
        rendered(
            kind="hvm",
            interfaces=[Interface(0, "02:00:00:00:00:01", bridge="b", model="loader,file=/etc/passwd")],
        )


def test_guests_of_two_kinds_are_written_side_by_side() -> None:
    first, second = rendered(kind="hvm", disks=[Disk(0, Path("/a"))]), rendered(disks=[Disk(0, Path("/a"))])
    assert [root.find("devices/disk/target").get("dev") for root in (first, second)] == ["hda", "xvda"]  # type: ignore[union-attr]
