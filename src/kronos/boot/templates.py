"""The default templates: what a new pool offers to make VMs from.

`templates.json` holds them, one a line; `tools/templates.py` says where they come from.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from kronos.boot.tiny_guest import TinyGuest

TemplateRecord = dict[str, Any]
"""Fields of a VM record with XenAPI's names; memory in bytes. Fields left out have the data model's defaults."""

SystemMode = Literal["pv", "hvm"]
"""How system VMs boot: by the host, which reads their disk, or by a BIOS of their own."""

_DATA = Path(__file__).with_name("templates.json")
SYSTEM_LABEL = "kronos-system"
BOOT_FIELDS = ("domain_type", "HVM_boot_policy", "PV_bootloader")
"""What of the system VM's template its mode decides."""

_MIB = 1 << 20
_MAPS = ("platform", "other_config", "HVM_boot_params", "restrictions")
_PROPERTIES = ("number-of-vbds", "number-of-vifs")
_COPIED = (
    "uuid",
    "name_label",
    "name_description",
    "reference_label",
    "domain_type",
    "platform",
    "HVM_boot_params",
)


def default_templates(tiny: TinyGuest | None, system_mode: SystemMode = "hvm") -> list[TemplateRecord]:
    """The record of each default template; those of the tiny guest and the system VM, which is made of it, are among
    them where its image is at hand."""
    families, templates = _load()
    merged = [_merge(families[template["family"]], template) for template in templates]
    records = [
        _record(entry, tiny)
        for entry in merged
        if entry["family"] not in ("tiny", "system") or tiny is not None
    ]
    if system_mode == "pv":
        for record in records:
            if record["reference_label"] == SYSTEM_LABEL:
                record |= {"domain_type": "pv", "HVM_boot_policy": "", "PV_bootloader": "pygrub"}
    return records


@functools.cache
def _load() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    data = json.loads(_DATA.read_bytes())
    return data["families"], data["templates"]


def _merge(family: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    maps = {key: family.get(key, {}) | template.get(key, {}) for key in _MAPS}
    return family | template | maps


def _record(entry: dict[str, Any], tiny: TinyGuest | None) -> TemplateRecord:
    record: TemplateRecord = {key: entry[key] for key in _COPIED}
    record |= {"is_a_template": True, "is_default_template": True, "user_version": 1}
    record |= _memory_and_processors(entry)
    record |= _boot(entry, tiny)
    record |= {
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        "actions_after_softreboot": "soft_reboot",
        "other_config": {"default_template": "true", **entry["other_config"], **_disks(entry)},
        "recommendations": _recommendations(entry["restrictions"]),
        "has_vendor_device": False,  # the restriction is a recommendation; the client decides
        "hardware_platform_version": 0,
        "PCI_bus": "",
    }
    return record


def _memory_and_processors(entry: dict[str, Any]) -> TemplateRecord:
    memory = entry["memory_mib"] * _MIB
    vcpus = entry.get("vcpus", 1)
    return {
        "memory_static_min": entry["memory_min_mib"] * _MIB,
        "memory_static_max": memory,
        "memory_dynamic_min": memory,
        "memory_dynamic_max": memory,
        "VCPUs_params": {},
        "VCPUs_max": vcpus,
        "VCPUs_at_startup": vcpus,
        "HVM_shadow_multiplier": 1.0,
    }


def _boot(entry: dict[str, Any], tiny: TinyGuest | None) -> TemplateRecord:
    own_kernel = tiny if entry["family"] == "tiny" else None
    return {
        "HVM_boot_policy": entry.get("HVM_boot_policy", ""),
        "PV_bootloader": entry.get("PV_bootloader", ""),
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "PV_kernel": str(own_kernel.kernel) if own_kernel else "",
        "PV_ramdisk": str(own_kernel.ramdisk) if own_kernel else "",
        "PV_args": own_kernel.cmdline if own_kernel else entry.get("PV_args", ""),
        "generation_id": entry.get("generation_id", ""),
    }


def _disks(entry: dict[str, Any]) -> dict[str, str]:
    """other_config:disks: what VM.provision makes. The empty storage repository is for the client to fill in."""
    if not entry["disks_mib"]:
        return {}
    root = ElementTree.Element("provision")
    bootable = "true" if entry.get("disks_bootable", True) else "false"
    for device, size in enumerate(entry["disks_mib"]):
        disk = {
            "device": str(device),
            "size": str(size * _MIB),
            "sr": "",
            "bootable": bootable,
            "type": "system",
        }
        ElementTree.SubElement(root, "disk", disk)
    return {"disks": _text(root)}


def _recommendations(restrictions: dict[str, str]) -> str:
    root = ElementTree.Element("restrictions")
    for name, value in restrictions.items():
        if name in _PROPERTIES:
            attributes = {"property": name, "max": value}
        else:
            bound = {"min": "min", "max": "max"}.get(name.rpartition("-")[2], "value")
            attributes = {"field": name, bound: value}
        ElementTree.SubElement(root, "restriction", attributes)
    return _text(root)


def _text(root: ElementTree.Element) -> str:
    # Without the space that ElementTree puts before />: scripts compare these texts.
    return ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")
