from __future__ import annotations

import uuid
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kronos.boot.system_vm import IMAGE, SIZE
from kronos.boot.templates import BOOT_FIELDS, SystemMode, TemplateRecord, default_templates
from kronos.boot.tiny_guest import MEMORY, TinyGuest
from kronos.datamodel.model import model

TINY = TinyGuest(Path("/image/vmlinuz"), Path("/image/initrd"))
ALL = default_templates(TINY)
by_label = {record["reference_label"]: record for record in ALL}
each_template = pytest.mark.parametrize("record", ALL, ids=[record["reference_label"] for record in ALL])


def test_none_is_there_twice() -> None:
    for field in ("uuid", "name_label", "reference_label"):
        assert len({record[field] for record in ALL}) == len(ALL)


def test_those_that_clients_know_by_uuid_have_it() -> None:
    known = {record["uuid"]: record["name_label"] for record in ALL}
    assert known["552bce37-51b2-445d-84f2-5f33fa112d7e"] == "Other install media"
    assert known["07d91aaa-43f7-430a-bf84-0edb6714df0f"] == "Debian Bookworm 12"
    assert known["1f8728f9-6354-4a68-adc3-222c34f2bb94"] == "Windows 11"


@pytest.mark.parametrize(
    "label", ["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04", "fedora-44"]
)
def test_current_distributions_are_there(label: str) -> None:
    record = by_label[label]
    assert record["HVM_boot_params"] == {"firmware": "uefi", "order": "cdn"}
    assert record["HVM_boot_policy"] == "BIOS order"
    assert record["domain_type"] == "hvm"


@each_template
def test_every_field_is_one_of_the_vm_class(record: TemplateRecord) -> None:
    assert set(record) <= set(model().classes["VM"].fields)


@each_template
def test_it_is_marked_as_a_default_template_both_ways(record: TemplateRecord) -> None:
    assert record["is_a_template"] is True
    assert record["is_default_template"] is True
    assert record["other_config"]["default_template"] == "true"
    assert str(uuid.UUID(record["uuid"])) == record["uuid"]


@each_template
def test_its_memory_is_in_order(record: TemplateRecord) -> None:
    names = ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
    sizes = [record[name] for name in names]
    assert sizes == sorted(sizes)
    assert all(size > 0 and size % (1 << 20) == 0 for size in sizes)


@each_template
def test_its_maps_hold_strings(record: TemplateRecord) -> None:
    for name in ("platform", "other_config", "HVM_boot_params", "VCPUs_params"):
        assert all(isinstance(text, str) for item in record[name].items() for text in item)


@each_template
def test_its_disks_are_well_formed(record: TemplateRecord) -> None:
    if "disks" in record["other_config"]:
        root = ElementTree.fromstring(record["other_config"]["disks"])
        assert root.tag == "provision"
        assert [disk.get("device") for disk in root] == [str(number) for number in range(len(root))]
        for disk in root:
            assert set(disk.attrib) == {"device", "size", "sr", "bootable", "type"}
            assert int(disk.attrib["size"]) >= 64 << 20


@each_template
def test_its_recommendations_are_well_formed(record: TemplateRecord) -> None:
    root = ElementTree.fromstring(record["recommendations"])
    assert root.tag == "restrictions"
    bounds = {item.get("field") or item.get("property"): item for item in root}
    assert bounds["number-of-vifs"].get("max") == "7"
    assert int(bounds["vcpus-max"].get("max", "0")) >= record["VCPUs_max"]
    if "memory-static-max" in bounds:
        assert int(bounds["memory-static-max"].get("max", "0")) >= record["memory_static_max"]


def test_a_disk_is_described_as_provision_reads_it() -> None:
    assert by_label["debian-12"]["other_config"]["disks"] == (
        '<provision><disk device="0" size="10737418240" sr="" bootable="true" type="system"/></provision>'
    )


def test_windows_wants_two_processors_and_its_vendor_device() -> None:
    record = by_label["windows-11"]
    root = ElementTree.fromstring(record["recommendations"])
    assert record["VCPUs_at_startup"] == 2
    assert root.find("restriction[@field='vcpus-min']").attrib["min"] == "2"  # type: ignore[union-attr]
    assert root.find("restriction[@field='has-vendor-device']").attrib["value"] == "true"  # type: ignore[union-attr]
    assert record["platform"]["vtpm"] == "true"
    assert "linux_template" not in record["other_config"]


def test_old_linux_boots_through_eliloader() -> None:
    record = by_label["rhel-6-64bit"]
    assert record["PV_bootloader"] == "eliloader"
    assert record["HVM_boot_policy"] == ""
    assert record["domain_type"] == "pv_in_pvh"
    assert record["other_config"]["install-distro"] == "rhlike"


def test_other_media_has_no_disk_of_its_own() -> None:
    assert "disks" not in by_label["other-install-media"]["other_config"]


def test_the_tiny_guest_boots_its_own_kernel() -> None:
    record = by_label["kronos-tiny"]
    assert record["PV_kernel"] == "/image/vmlinuz"
    assert record["PV_ramdisk"] == "/image/initrd"
    assert record["PV_args"] == TINY.cmdline
    assert record["PV_bootloader"] == ""
    assert record["HVM_boot_policy"] == ""
    assert record["memory_static_min"] == MEMORY


def test_without_its_image_the_tiny_guest_is_not_offered() -> None:
    labels = {record["reference_label"] for record in default_templates(None)}
    assert labels == set(by_label) - {"kronos-tiny", "kronos-system"}


def test_the_system_vm_is_a_system_domain_with_an_image_on_its_disk() -> None:
    record = by_label["kronos-system"]
    assert record["other_config"]["is_system_domain"] == "true"
    assert record["other_config"]["image"] == IMAGE
    assert f'size="{SIZE}"' in record["other_config"]["disks"]


@pytest.mark.parametrize(("mode", "boot"), [("hvm", ("hvm", "BIOS order", "")), ("pv", ("pv", "", "pygrub"))])
def test_the_system_vm_boots_by_its_own_bios_or_by_its_host(mode: SystemMode, boot: tuple[str, ...]) -> None:
    found = next(each for each in default_templates(TINY, mode) if each["reference_label"] == "kronos-system")
    assert tuple(found[name] for name in BOOT_FIELDS) == boot


def test_a_caller_may_change_what_it_is_given() -> None:
    default_templates(None)[0]["platform"]["nx"] = "changed"
    assert default_templates(None)[0]["platform"]["nx"] == "true"
