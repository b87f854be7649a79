"""What is taken from a memory image's document, and what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor import image
from kronos.hypervisor.base import DeviceId, DirectKernel, Disk, Domain, Interface
from kronos.hypervisor.kvm import KVMRenderer
from kronos.hypervisor.rendering import Places

UUID = "11111111-2222-4333-8444-555555555555"
RENDERER = KVMRenderer(Places(Path("/run/vm")), accelerated=False)
DOMAIN = Domain(
    UUID,
    "a",
    1 << 30,
    1 << 30,
    DirectKernel(Path("/k")),
    disks=(Disk(0, Path("/old/a")), Disk(3, None, cdrom=True)),
    interfaces=(Interface(0, "52:54:00:00:00:01", tap="old0"),),
)
SAVED = RENDERER.domain(DOMAIN)
ADDRESS = '<address type="pci" domain="0x0000" bus="0x07" slot="0x00" function="0x0" />'


def repointed(saved: str, domain: Domain = DOMAIN) -> ElementTree.Element:
    return ElementTree.fromstring(image.repointed(saved, RENDERER.domain(domain)))


def test_disks_and_networks_are_where_the_record_says() -> None:
    moved = replace(
        DOMAIN,
        disks=(Disk(0, Path("/new/a")), Disk(3, Path("/new/cd"), cdrom=True)),
        interfaces=(Interface(0, "52:54:00:00:00:01", bridge="new"),),
    )

    root = repointed(SAVED, moved)

    assert [one.get("file") for one in root.iterfind("devices/disk/source")] == ["/new/a", "/new/cd"]
    assert root.find("devices/interface/source").attrib == {"bridge": "new"}  # type: ignore[union-attr]


def test_the_guest_finds_its_devices_where_they_were() -> None:
    saved = SAVED.replace('<alias name="ua-disk-0"', ADDRESS + '<alias name="ua-disk-0"')
    saved = saved.replace('machine="q35"', 'machine="pc-q35-7.2"')

    root = repointed(saved)

    assert root.find("devices/disk/address").get("bus") == "0x07"  # type: ignore[union-attr]
    assert root.find("os/type").get("machine") == "pc-q35-7.2"  # type: ignore[union-attr]


def test_the_guest_has_as_many_processors_as_it_had_whatever_its_next_start_will_give_it() -> None:
    had, will_have = replace(DOMAIN, vcpus_max=4, vcpus=2), replace(DOMAIN, vcpus_max=4, vcpus=3, mask=(0,))
    count = repointed(RENDERER.domain(had), will_have).find("vcpu")
    assert count is not None
    assert (count.text, count.get("current"), count.get("cpuset")) == ("4", "2", "0")

    count = repointed(RENDERER.domain(replace(had, vcpus=4)), will_have).find("vcpu")
    assert count is not None
    assert (count.text, count.get("current")) == ("4", None)


def test_a_disk_that_took_anothers_place_is_called_as_the_one_that_the_guest_knows() -> None:
    known = replace(DOMAIN, disks=(Disk(0, Path("/old/a"), serial="known"), Disk(3, None, cdrom=True)))
    taken = replace(
        DOMAIN,
        disks=(Disk(0, Path("/new/a"), serial="fresh"), Disk(3, None, cdrom=True)),
        interfaces=(Interface(0, "52:54:00:00:00:02", tap="new0"),),
    )

    root = repointed(RENDERER.domain(known), taken)

    assert [one.text for one in root.iterfind("devices/disk/serial")] == ["known"]
    assert [one.get("address") for one in root.iterfind("devices/interface/mac")] == ["52:54:00:00:00:01"]
    assert root.find("devices/disk/source").get("file") == "/new/a"  # type: ignore[union-attr]


def test_memory_is_saved_beside_the_disks_and_none_of_them() -> None:
    document = ElementTree.fromstring(image.snapshot(["vda", "vdb"], {}, memory=Path("/sr/memory")))
    assert document.find("memory").attrib == {"snapshot": "external", "file": "/sr/memory"}  # type: ignore[union-attr]
    assert [disk.get("snapshot") for disk in document.iterfind("disks/disk")] == ["no", "no"]


@pytest.mark.parametrize(
    "device",
    [
        '<disk type="file"><source file="/etc/shadow"/><target dev="vdz"/><alias name="ua-disk-25"/></disk>',
        '<disk type="file"><source file="/etc/shadow"/><target dev="vdz"/></disk>',
        '<filesystem><source dir="/"/><target dir="x"/></filesystem>',
        '<hostdev mode="subsystem" type="pci"/>',
        '<serial type="file"><source path="/etc/cron.d/x"/><target port="1"/></serial>',
        '<parallel type="file"><source path="/etc/cron.d/x"/></parallel>',
        '<interface type="direct"><source dev="eth0"/><alias name="ua-interface-9"/></interface>',
        "<invented/>",
    ],
)
def test_a_device_that_the_record_does_not_have_is_refused(device: str) -> None:
    with pytest.raises(Failure) as caught:
        repointed(SAVED.replace("<devices>", "<devices>" + device))

    assert caught.value.description == ["VM_CHECKPOINT_RESUME_FAILED", UUID]


def test_a_file_of_the_host_named_in_the_image_is_not_used() -> None:
    hostile = (
        SAVED.replace("/old/a", "/etc/shadow")
        .replace("<kernel>/k</kernel>", "<kernel>/etc/shadow</kernel><loader>/etc/shadow</loader>")
        .replace("/dev/urandom", "/etc/shadow")
        .replace('<model type="vga"', '<driver name="vhostuser" path="/etc/shadow"/><model type="vga"')
        .replace("<devices>", "<devices><emulator>/etc/shadow</emulator>")
        .replace(
            "</domain>",
            "<commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'>"
            "<arg value='/etc/shadow'/></commandline><seclabel>/etc/shadow</seclabel></domain>",
        )
    )
    assert hostile.count("/etc/shadow") == 8

    assert "/etc/shadow" not in ElementTree.tostring(repointed(hostile), encoding="unicode")


def test_the_watchdog_that_libvirt_adds_comes_back_and_only_resets_the_guest() -> None:
    root = repointed(SAVED.replace("<devices>", '<devices><watchdog model="itco" action="dump" />'))

    assert root.find("devices/watchdog").attrib == {"model": "itco", "action": "reset"}  # type: ignore[union-attr]


def test_targets_are_known_by_device_number() -> None:
    assert image.targets(SAVED) == {0: "vda", 3: "sdd"}


def test_a_snapshot_names_every_disk_and_takes_some() -> None:
    root = ElementTree.fromstring(image.snapshot(["vda", "vdb"], {"vdb": Path("/o.qcow2")}))

    assert {one.get("name"): one.get("snapshot") for one in root.iter("disk")} == {
        "vda": "no",
        "vdb": "external",
    }
    assert root.find("disks/disk/source").get("file") == "/o.qcow2"  # type: ignore[union-attr]


@pytest.mark.parametrize(("carrier", "state"), [(True, "up"), (False, "down")])
def test_the_cable_of_one_interface(carrier: bool, state: str) -> None:
    document = image.with_carrier(SAVED, DeviceId("interface", 0), carrier)

    assert document is not None
    assert ElementTree.fromstring(document).find("link").get("state") == state  # type: ignore[union-attr]
    assert image.with_carrier(SAVED, DeviceId("interface", 1), carrier) is None


def test_the_user_of_guests_is_read_from_the_capabilities() -> None:
    model = "<secmodel><model>{}</model><baselabel type='kvm'>+64055:+994</baselabel></secmodel>"

    def capabilities(name: str) -> str:
        return f"<capabilities><host>{model.format(name)}</host></capabilities>"

    assert image.owner(capabilities("dac")) == (64055, 994)
    assert image.owner(capabilities("selinux")) is None
    assert image.owner("<capabilities/>") is None
