#!/usr/bin/env python3
"""Write the default templates of this project from the facts of XenServer's: ids, labels, limits, sizes.

    tools/templates.py FACTS.json > src/kronos/boot/templates.json

FACTS.json holds {"templates": [...]}, each entry the effective values of one of XenServer's templates. What its members
have in common becomes a family; a template's line keeps the rest. Templates that XenServer has not are named here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

MAPS = ("platform", "other_config", "HVM_boot_params", "restrictions")

# The order in which clients have always been given them.
RESTRICTIONS = {
    "max_memory": "memory-static-max",
    "vcpus_min": "vcpus-min",
    "vcpus_max": "vcpus-max",
    "has_vendor_device": "has-vendor-device",
    "allow_gpu_passthrough": "allow-gpu-passthrough",
    "allow_vgpu": "allow-vgpu",
    "allow_network_sriov": "allow-network-sriov",
    "supports_bios": "supports-bios",
    "supports_uefi": "supports-uefi",
    "supports_secure_boot": "supports-secure-boot",
    "number_of_vbds": "number-of-vbds",
    "number_of_vifs": "number-of-vifs",
}
COPIED = ("HVM_boot_policy", "PV_bootloader", "PV_args", "generation_id")
EVERY_PLATFORM = {"nx": "true", "acpi": "1", "apic": "true", "pae": "true", "hpet": "true"}

DESCRIPTIONS = {
    "linux-uefi": "Installs from its CD, or from the repository that other_config:install-repository names.",
    "linux-bios": "Installs from its CD, or from the repository that other_config:install-repository names.",
    "linux-pv": "Installs from the repository that other_config:install-repository names, or from its CD.",
    "windows": "Installs from its CD. Its disks are made when a VM is provisioned from it.",
    "other": "Any operating system: boots the CD that is put into it.",
}

ADDED = [
    ("b2f4b11b-08f7-4ea1-b433-acca5294821b", "debian-13", "Debian Trixie 13", 1024, 10240),
    ("08e0ea5b-df3c-40aa-a984-395b58172aac", "fedora-42", "Fedora Linux 42", 2048, 15360),
    ("fc1764be-cc1f-4e15-9600-9ebf4be8fa5c", "fedora-43", "Fedora Linux 43", 2048, 15360),
    ("84153fa8-16f2-4eb7-adb8-70b6217baeee", "fedora-44", "Fedora Linux 44", 2048, 15360),
    ("65a6335e-ce45-42f6-8cb0-2200fc43e0b5", "ubuntu-26.04", "Ubuntu Resolute Raccoon 26.04", 1024, 10240),
    ("d151a0fe-7e1f-42ca-a157-922c492118af", "ubuntu-26.10", "Ubuntu Stonking Stingray 26.10", 1024, 10240),
]
TINY_FAMILY: Entry = {
    "name_description": "A few megabytes of Linux to try a host with: root logs in without a password.",
    "domain_type": "pvh",
    "platform": {**EVERY_PLATFORM, "vga": "std", "videoram": "8", "viridian": "false"},
    "other_config": {"linux_template": "true"},
    "restrictions": {"memory-static-max": "1649267441664", "vcpus-max": "64", "has-vendor-device": "false"}
    | {"number-of-vbds": "255", "number-of-vifs": "7"},
}
TINY: Entry = {
    "uuid": "25b18b83-7614-4032-991f-799512611a51",
    "reference_label": "kronos-tiny",
    "name_label": "Kronos tiny guest",
    "family": "tiny",
    "memory_min_mib": 96,
    "memory_mib": 128,
    "disks_mib": [64],
}

SYSTEM_FAMILY: Entry = {
    "name_description": "A small Linux that serves its host: configured over the channel, booted from its disk.",
    "domain_type": "hvm",
    "HVM_boot_policy": "BIOS order",
    "HVM_boot_params": {"firmware": "bios", "order": "c"},
    "platform": {**EVERY_PLATFORM, "vga": "none", "usb": "false", "viridian": "false"},
    "other_config": {"linux_template": "true", "is_system_domain": "true", "image": "kronos-system-vm"},
    "restrictions": TINY_FAMILY["restrictions"],
}
SYSTEM: Entry = {
    "uuid": "5a2f3c0e-6d4b-4f27-9a51-0c7e1f8b9d36",
    "reference_label": "kronos-system",
    "name_label": "Kronos system VM",
    "family": "system",
    "memory_min_mib": 128,
    "memory_mib": 128,
    "disks_mib": [64],
}


def mib(amount: str) -> int:
    """Mebibytes in an amount such as 512M or 2G."""
    match = re.fullmatch(r"(\d+)([MG])", amount)
    if not match:
        raise ValueError(f"amount {amount!r}")
    return int(match[1]) << (10 if match[2] == "G" else 0)


def text(name: str, value: Any) -> str:
    """A restriction's value as the XML has it: what clients have always been given."""
    if name == "max_memory":
        return str(mib(value) << 20)
    if isinstance(value, bool):
        return str(value).lower() if name == "has_vendor_device" else str(int(value))
    return str(value)


def family_of(facts: Entry) -> str:
    """Which family a template belongs to."""
    if facts.get("domain_type") == "pv_in_pvh":
        return "linux-pv"
    if facts["platform"].get("device_id") == "0002":
        return "windows"
    if facts["other_config"].get("linux_template"):
        return f"linux-{facts['HVM_boot_params']['firmware']}"
    return "other"


def convert(facts: Entry) -> Entry:
    """One of XenServer's templates in this project's form."""
    family = family_of(facts)
    least = mib(facts["min_memory"])
    entry: Entry = {key: facts[key] for key in ("uuid", "reference_label", "name_label")}
    entry |= {"family": family, "memory_min_mib": least, "memory_mib": 2 * least}  # XenServer's own rule
    entry |= {
        "vcpus": facts.get("VCPUs_max", 1),
        "disks_mib": [mib(disk["size"]) for disk in facts.get("disks", [])],
    }
    entry |= {"disks_bootable": all(disk.get("bootable", True) for disk in facts.get("disks", []))}
    entry |= {"name_description": DESCRIPTIONS[family], "domain_type": facts.get("domain_type", "hvm")}
    entry |= {key: facts[key] for key in COPIED if key in facts}
    platform = {key: value for key, value in facts.get("platform", {}).items() if value is not None}
    restricted = {"has_vendor_device": False, **facts}
    entry |= {"platform": EVERY_PLATFORM | platform, "other_config": facts.get("other_config", {})}
    entry |= {"HVM_boot_params": facts.get("HVM_boot_params", {})}
    entry["restrictions"] = {
        name: text(key, restricted[key]) for key, name in RESTRICTIONS.items() if key in restricted
    }
    return entry


def common(entries: list[Entry]) -> Entry:
    """What all entries say alike; of maps, the items that they have alike."""
    shared: Entry = {}
    for key, value in entries[0].items():
        if key in MAPS:
            items = {
                name: each for name, each in value.items() if all(e[key].get(name) == each for e in entries)
            }
            if items:
                shared[key] = items
        elif all(entry.get(key) == value for entry in entries):
            shared[key] = value
    return shared


def rest(entry: Entry, family: Entry) -> Entry:
    """What `entry` says beyond its family."""
    own: Entry = {}
    for key, value in entry.items():
        if key in MAPS:
            items = {name: each for name, each in value.items() if family.get(key, {}).get(name) != each}
            if items:
                own[key] = items
        elif key == "family" or family.get(key) != value:
            own[key] = value
    return own


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("facts", type=Path)
    entries = [convert(facts) for facts in json.loads(parser.parse_args().facts.read_text())["templates"]]
    newest = next(entry for entry in entries if entry["reference_label"] == "debian-12")
    for uuid, label, name, memory, disk in ADDED:
        named = {"uuid": uuid, "reference_label": label, "name_label": name}
        sized = {"memory_min_mib": memory, "memory_mib": 2 * memory, "disks_mib": [disk]}
        entries.append(newest | named | sized)
    entries.sort(key=lambda entry: str(entry["reference_label"]))
    names = sorted({str(entry["family"]) for entry in entries})
    # The one member of a family of one keeps its own values; the family holds what a second one would share.
    families = {name: common([entry for entry in entries if entry["family"] == name]) for name in names}
    for family in families.values():
        for key in ("uuid", "reference_label", "name_label", "family"):
            family.pop(key, None)
    lines = [rest(entry, families[entry["family"]]) for entry in entries] + [TINY, SYSTEM]
    families |= {"tiny": TINY_FAMILY, "system": SYSTEM_FAMILY}
    print('{"families": {')
    print(",\n".join(f" {json.dumps(name)}: {json.dumps(family)}" for name, family in families.items()))
    print('}, "templates": [')
    print(",\n".join(f" {json.dumps(line)}" for line in lines))
    print("]}")


if __name__ == "__main__":
    sys.exit(main())
