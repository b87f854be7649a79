#!/usr/bin/env python3
"""Turn a description of the xe command line into the project's own facts: one line a command, one line a field.

    tools/xe_facts.py XE_CLI.json XENAPI.json [--check]

XE_CLI.json lists the commands, the classes with generated parameter commands and their fields with flags;
XENAPI.json lists XenAPI's classes with the types of their fields. A field of xe is found in XenAPI by its name
('-' for '_', any case), by a reference and the suffix '-uuid', '-uuids' or '-name-label', or in ELSEWHERE below.
With --check nothing is written, and the exit status says whether the facts are fresh.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FACTS = Path(__file__).resolve().parent.parent / "src/kronos/commands/facts"

# Names that differ from the data model's, or values that lie in a record referred to. A path ends in the field to
# show; "unset" is shown where a reference on the path leads nowhere.
METRICS = "metrics"
GUEST = "guest_metrics"
OPERATIONS = {"take": "values"}
ELSEWHERE: dict[str, dict[str, dict[str, Any]]] = {
    "*": {"current-operations": OPERATIONS, "current_operations": OPERATIONS, "tags": {"join": ", "}},
    "bond": {"properties": {"set_in_map": "set_property"}},
    "caller": {"groups": {"adder": "group"}, "rate-limit": {"path": "rate_limit"}},
    "console": {"protocol": {"labels": "capitals"}},
    "driver_variant": {
        "priority": {"computed": True},
        "active": {"computed": True},
        "selected": {"computed": True},
        "driver-name": {"path": "driver.name"},
        "host-uuid": {"path": "driver.host.uuid"},
        "hw-present": {"path": "hardware_present"},
    },
    "gpu_group": {
        "enabled-VGPU-types": {"computed": True},
        "supported-VGPU-types": {"computed": True},
        "allocation-algorithm": {"labels": "hyphens"},
    },
    "host": {
        "allowed-operations": {"labels": "host_operation"},
        "current-operations": {"labels": "host_operation", **OPERATIONS},
        "memory-total": {"path": f"{METRICS}.memory_total"},
        "memory-free": {"path": f"{METRICS}.memory_free"},
        "memory-free-computed": {"computed": True},
        "host-metrics-live": {"path": f"{METRICS}.live"},
        "patches": {"path": "patches.pool_patch.uuid", "join": ", "},
        "updates": {"join": ", "},
        "ha-statefiles": {"path": "ha_statefiles.uuid", "via": ["VDI"]},
        "ntp-custom-servers": {"join": ", ", "set": "list"},
    },
    "host_cpu": {"utilisation": {"computed": True}},
    "host_driver": {
        "active-variant": {"path": "active_variant.name", "unset": "<none>"},
        "selected-variant": {"path": "selected_variant.name", "unset": "<none>"},
        "variants": {"computed": True},
        "variants-dev-status": {"computed": True},
        "variants-uuid": {"computed": True},
        "variants-hw-present": {"computed": True},
    },
    "message": {"class": {"path": "cls"}},
    "net": {"purpose": {"join": ", "}},
    "network_sriov": {"remaining-capacity": {"computed": True}},
    "observer": {
        "host-uuids": {"path": "hosts.uuid", "set": "host ref list", "whole": True},
        "attributes": {"set_map": "set_attributes", "whole": True},
        "endpoints": {"set": "list", "whole": True},
        "components": {"set": "list", "whole": True},
    },
    "pci": {"dependencies": {"path": "dependencies.pci_id"}},
    "pgpu": {
        "vendor-name": {"path": "PCI.vendor_name"},
        "device-name": {"path": "PCI.device_name"},
        "pci-id": {"path": "PCI.pci_id"},
        "dependencies": {"path": "PCI.dependencies.pci_id"},
        "enabled-VGPU-types": {"set": "VGPU_type ref list"},
    },
    "pif": {
        "io_read_kbs": {"computed": True},
        "io_write_kbs": {"computed": True},
        "carrier": {"path": f"{METRICS}.carrier"},
        "vendor-id": {"path": f"{METRICS}.vendor_id"},
        "vendor-name": {"path": f"{METRICS}.vendor_name"},
        "device-id": {"path": f"{METRICS}.device_id"},
        "device-name": {"path": f"{METRICS}.device_name"},
        "speed": {"path": f"{METRICS}.speed", "unit": " Mbit/s"},
        "duplex": {"computed": True},
        "pci-bus-path": {"path": f"{METRICS}.pci_bus_path"},
        "properties": {"set_in_map": "set_property"},
    },
    "pool": {
        "supported-sr-types": {"computed": True},
        "ha-statefiles": {"path": "ha_statefiles.uuid", "via": ["VDI"]},
        "vswitch-controller": {"computed": True},
        "license-state": {"computed": True},
        "https-only": {"computed": True, "set": "bool"},
        "ssh-enabled": {"computed": True},
        "ssh-enabled-timeout": {"computed": True, "set": "int"},
        "ssh-expiry": {"computed": True},
        "console-idle-timeout": {"computed": True, "set": "int"},
        "ssh-auto-mode": {"computed": True, "set": "bool"},
        "repositories": {"set": "Repository ref list", "adder": "repository"},
    },
    "pool_patch": {
        "hosts": {"path": "host_patches.host.uuid", "join": ", "},
        "after-apply-guidance": {"join": ", "},
        "update": {"path": "pool_update.uuid"},
    },
    "pool_update": {"hosts": {"join": ", "}, "after-apply-guidance": {"join": ", "}},
    "pvs_proxy": {"status": {"labels": "hyphens"}},
    "pvs_site": {
        "pvs-cache-storage-uuids": {"path": "cache_storage.uuid"},
        "pvs-proxy-uuids": {"path": "proxies.uuid"},
    },
    "rate_limit": {"callers": {"path": "callers"}},
    "role": {"name": {"path": "name_label"}, "description": {"path": "name_description"}},
    "sm": {"required-cluster-stack": {"join": ", "}},
    "sr": {
        "host": {"computed": True},
        "allowed-operations": {"labels": "storage_operation"},
        "current-operations": {"labels": "storage_operation", **OPERATIONS},
    },
    "subject": {"roles": {"path": "roles.name_label"}},
    "task": {
        "allowed_operations": {"labels": "first_capital"},
        "current_operations": {"labels": "first_capital", **OPERATIONS},
    },
    "vbd": {
        "vdi-name-label": {"computed": True},
        "attachable": {"computed": True},
        "io_read_kbs": {"computed": True},
        "io_write_kbs": {"computed": True},
    },
    "vdi": {
        "type": {"labels": "vdi_type"},
        "crashdump-uuids": {"path": "crash_dumps.uuid"},
        "metadata-of-pool": {"computed": True},
        "xenstore-data": {"clear": "set_xenstore_data"},
    },
    "vgpu": {
        "type-model-name": {"path": "type.model_name"},
        "compatibility-metadata": {"computed": True},
        "pci": {"path": "PCI.pci_id"},
    },
    "vgpu_type": {"max-resolution": {"computed": True}},
    "vif": {
        "io_read_kbs": {"computed": True},
        "io_write_kbs": {"computed": True},
        "trunks": {"set": "int list"},
        "ipv4-allowed": {"set": "list"},
        "ipv6-allowed": {"set": "list"},
    },
    "vm": {
        "power-state": {"labels": "small"},
        "memory-actual": {"path": f"{METRICS}.memory_actual"},
        "memory-target": {"computed": True},
        "memory-static-max": {"set": "bytes"},
        "memory-dynamic-max": {"set": "bytes"},
        "memory-dynamic-min": {"set": "bytes"},
        "memory-static-min": {"set": "bytes"},
        "VCPUs-params": {"keys": ["weight", "cap", "mask"]},
        "actions-after-shutdown": {"labels": "sentence"},
        "actions-after-softreboot": {"labels": "sentence"},
        "actions-after-reboot": {"labels": "sentence"},
        "actions-after-crash": {"labels": "on_crash"},
        "console-uuids": {"path": "consoles.uuid"},
        "hvm": {"path": f"{METRICS}.hvm", "unset": "false"},
        "nomigrate": {"path": f"{METRICS}.nomigrate", "unset": "false"},
        "nested-virt": {"path": f"{METRICS}.nested_virt", "unset": "false"},
        "numa-optimised": {"path": f"{METRICS}.numa_optimised", "unset": "false"},
        "numa-nodes": {"path": f"{METRICS}.numa_nodes", "unset": "0"},
        "numa-node-memory": {"path": f"{METRICS}.numa_node_memory", "unset": "[]"},
        "allowed-operations": {"labels": "vm_operation"},
        "current-operations": {"labels": "vm_operation", **OPERATIONS},
        "blocked-operations": {"labels": "vm_operation"},
        "allowed-VBD-devices": {"computed": True},
        "allowed-VIF-devices": {"computed": True},
        "possible-hosts": {"computed": True},
        "domain-type": {"labels": "hyphens"},
        "current-domain-type": {"path": f"{METRICS}.current_domain_type", "labels": "hyphens"},
        "last-boot-record": {"computed": True},
        "dom-id": {"path": "domid"},
        "start-time": {"path": f"{METRICS}.start_time", "unset": "<unknown time>"},
        "install-time": {"path": f"{METRICS}.install_time", "unset": "<unknown time>"},
        "VCPUs-number": {"path": f"{METRICS}.VCPUs_number"},
        "VCPUs-utilisation": {"computed": True},
        "os-version": {"path": f"{GUEST}.os_version"},
        "netbios-name": {"path": f"{GUEST}.netbios_name"},
        "PV-drivers-version": {"path": f"{GUEST}.PV_drivers_version"},
        "PV-drivers-up-to-date": {"path": f"{GUEST}.PV_drivers_up_to_date"},
        "memory": {"path": f"{GUEST}.memory"},
        "disks": {"path": f"{GUEST}.disks"},
        "networks": {"path": f"{GUEST}.networks"},
        "services": {"path": f"{GUEST}.services"},
        "PV-drivers-detected": {"path": f"{GUEST}.PV_drivers_detected"},
        "other": {"path": f"{GUEST}.other"},
        "live": {"path": f"{GUEST}.live"},
        "guest-metrics-last-updated": {"path": f"{GUEST}.last_updated"},
        "can-use-hotplug-vbd": {"path": f"{GUEST}.can_use_hotplug_vbd", "labels": "tristate"},
        "can-use-hotplug-vif": {"path": f"{GUEST}.can_use_hotplug_vif", "labels": "tristate"},
        "cooperative": {"computed": True},
        "groups": {"set": "VM_group ref list"},
        "xenstore-data": {"clear": "set_xenstore_data"},
        "bios-strings": {
            "set_map": "set_bios_strings",
            "keys": [
                "bios-vendor",
                "bios-version",
                "system-manufacturer",
                "system-product-name",
                "system-version",
                "system-serial-number",
                "baseboard-manufacturer",
                "baseboard-product-name",
                "baseboard-version",
                "baseboard-serial-number",
                "baseboard-asset-tag",
                "baseboard-location-in-chassis",
                "enclosure-asset-tag",
            ],
        },
    },
    "vm_group": {"placement": {"labels": "hyphens"}},
    "vtpm": {"secret": {"computed": True}},
}
# Fields that only this project has, as the facts have them.
OURS: dict[str, list[dict[str, Any]]] = {
    "vm": [
        {"name": "channel-config", "path": "channel_config", "kind": "map", "add": True}
        | {"clear": "set_channel_config"},
        {"name": "channel-data", "path": "channel_data", "kind": "map"},
    ]
}
# What a list leaves out unless asked: templates among VMs, snapshots among templates.
FILTERS = {
    "vm": [["is-a-template", "false"]],
    "template": [["is-a-template", "true"], ["is-a-snapshot", "false"]],
    "snapshot": [["is-a-snapshot", "true"]],
}
# Commands that answer to a user who names no coordinator.
LOCAL_SESSION = ("No_fd_local_session", "With_fd_local_session")


class Unmatched(Exception):
    """A field of xe that no rule finds in XenAPI."""


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    cli_path, api_path = (Path(argument) for argument in arguments if not argument.startswith("--"))
    cli = json.loads(cli_path.read_text())
    xenapi = json.loads(api_path.read_text())
    stale = [path for path, text in documents(cli, xenapi).items() if not fresh(path, text, check)]
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path}")
    return 1 if check and stale else 0


def fresh(path: Path, text: str, check: bool) -> bool:
    if path.exists() and path.read_text() == text:
        return True
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return False


def documents(cli: dict[str, Any], xenapi: dict[str, Any]) -> dict[Path, str]:
    api = {entry["name"].lower(): entry for entry in xenapi["classes"]}
    classes = [cli_class(entry, api) for entry in cli["generated_param_command_classes"]]
    record_class = {entry["record"]: entry["class"] for entry in classes} | {"crashdump": "crashdump"}
    written = {
        FACTS / "commands.json": lines(command(entry) for entry in cli["commands"]),
        FACTS / "classes.json": lines(classes),
    }
    for record, fields in cli["record_fields"].items():
        name = record.removesuffix("_record")
        facts = api[record_class[name].lower()]
        written[FACTS / "records" / f"{name}.json"] = lines(
            [*(field(name, facts, entry, api) for entry in fields), *OURS.get(name, [])]
        )
    return written


def lines(entries: Any) -> str:
    return "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n"


def command(entry: dict[str, Any]) -> dict[str, Any]:
    """One command: its parameters, and what helps to list, select and log in."""
    out = {"name": entry["name"], "required": entry["required"], "optional": entry["optional"]}
    out |= {flag.lower(): True for flag in sorted(entry["flags"])}
    if entry["kind"] in LOCAL_SESSION:
        out["local_session"] = True
    return out


def cli_class(entry: dict[str, Any], api: dict[str, Any]) -> dict[str, Any]:
    name = entry["cli_class"]
    return {
        "name": name,
        "class": api[entry["class"].lower()]["name"],
        "record": entry["record"].removesuffix("_record"),
        "shown": entry["default_list_params"],
        "filters": FILTERS.get(name, []),
    }


def field(record: str, facts: dict[str, Any], entry: dict[str, Any], api: dict[str, Any]) -> dict[str, Any]:
    """One field of xe: where its value lies, how it is shown, and how it is set."""
    name = entry["name"]
    special = ELSEWHERE["*"].get(name, {}) | ELSEWHERE.get(record, {}).get(name, {})
    out: dict[str, Any] = {"name": name}
    found = None
    if "path" not in special and not special.get("computed"):
        found, out["path"] = find(name, facts)
    if entry["set_type"] or entry["map_type"]:
        out["kind"] = "set" if entry["set_type"] else "map"
    if entry["set"]:
        out["set"] = setting(facts, found, special, name)
    if entry["add_to_set"] or entry["add_to_map"]:
        out["add"] = True
    out |= special
    if "." in out.get("path", "") and "via" not in out:
        out["via"] = hops(facts, out["path"], api)
    for flag in ("hidden", "expensive", "deprecated", "case_insensitive"):
        if entry[flag]:
            out[flag] = True
    if out.get("setter") is None and not out.get("computed") and (entry["set"] or out.get("add")):
        stem = out["path"].split(".")[0]
        if stem.lower() != name.replace("-", "_").lower():
            out["setter"] = stem
    elif out.get("computed") and entry["set"]:
        out["setter"] = name.replace("-", "_")
    return out


def find(name: str, facts: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The data model's field behind a name of xe, and the path to the value."""
    fields = {entry["name"].lower(): entry for entry in facts["fields"] if not entry["internal_only"]}
    plain = name.replace("-", "_").lower()
    if plain in fields:
        entry = fields[plain]
        return entry, entry["name"] + (
            ".uuid" if "ref" in entry["type"].split() or " ref)" in entry["type"] else ""
        )
    own = facts["name"].lower().split("_")[0] + "_"
    for suffix, leaf in (("_uuids", "uuid"), ("_uuid", "uuid"), ("_name_label", "name_label")):
        stem = plain.removesuffix(suffix)
        if stem == plain:
            continue
        for candidate in (stem, stem + "s", stem.removeprefix(own), stem.removeprefix(own) + "s"):
            if candidate in fields and "ref" in fields[candidate]["type"].split():
                return fields[candidate], f"{fields[candidate]['name']}.{leaf}"
    raise Unmatched(f"{facts['name']}: {name}")


def hops(facts: dict[str, Any], path: str, api: dict[str, Any]) -> list[str]:
    """The classes that a path's references lead through, in order."""
    out: list[str] = []
    for step in path.split(".")[:-1]:
        kind = next(entry["type"] for entry in facts["fields"] if entry["name"] == step)
        words = kind.replace("(string -> ", "").split()
        out.append(words[0])
        facts = api[words[0].lower()]
    if path.split(".")[-1] not in {entry["name"] for entry in facts["fields"]}:
        raise Unmatched(f"{facts['name']} has no field {path.split('.')[-1]}")
    return out


def setting(facts: dict[str, Any], found: dict[str, Any] | None, special: dict[str, Any], name: str) -> str:
    """How the text of `name=text` becomes a value: a type's name, or the values it may have joined by '|'."""
    if "set" in special:
        return str(special["set"])
    if found is None:
        raise Unmatched(f"{facts['name']}: {name} is settable and its type is not known")
    kind = str(found["type"])
    if kind.startswith("enum "):
        return "|".join(next(e["values"] for e in facts["enums"] if e["name"] == kind.split()[1]))
    return kind


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
