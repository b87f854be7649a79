"""Cloning: what of a VM, its VBDs and its VIFs a clone, copy, snapshot or checkpoint of it has, and what is its own.

Functions from one row's stored fields to the fields of a new row, for `db.create`. What is not named gets its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from kronos.datamodel.types import NULL

Kind = Literal["clone", "copy", "snapshot", "checkpoint"]
Fields = Mapping[str, Any]

SNAPSHOTS = ("snapshot", "checkpoint")

VM_KEPT = frozenset(
    "name_description user_version affinity memory_overhead memory_target memory_static_max memory_dynamic_max"
    " memory_dynamic_min memory_static_min VCPUs_params VCPUs_max VCPUs_at_startup actions_after_softreboot"
    " actions_after_shutdown actions_after_reboot actions_after_crash PV_bootloader PV_kernel PV_ramdisk PV_args"
    " PV_bootloader_args PV_legacy_args HVM_boot_policy HVM_boot_params HVM_shadow_multiplier platform PCI_bus"
    " last_boot_CPU_flags last_booted_record recommendations xenstore_data ha_restart_priority tags bios_strings"
    " channel_config hardware_platform_version has_vendor_device reference_label domain_type NVRAM"
    " secureboot_certificates_state".split()
)
VBD_KEPT = frozenset(
    "userdevice device bootable mode type unpluggable other_config qos_algorithm_type qos_algorithm_params".split()
)
VIF_KEPT = frozenset(
    "device network MTU other_config qos_algorithm_type qos_algorithm_params locking_mode ipv4_allowed ipv6_allowed"
    " ipv4_configuration_mode ipv4_addresses ipv4_gateway ipv6_configuration_mode ipv6_addresses ipv6_gateway"
    " trunks".split()
)

_NOT_INHERITED = frozenset({"default_template", "xensource_internal"})


def power_state(source: str, kind: Kind) -> str:
    """What a new VM made from one in state `source` is: only memory that was saved can be woken."""
    if kind == "checkpoint" and source in ("Running", "Suspended"):
        return "Suspended"
    return "Suspended" if kind in ("clone", "copy") and source == "Suspended" else "Halted"


def cloned_vm(
    source: Fields,
    ref: str,
    kind: Kind,
    name: str,
    *,
    mac_seed: str,
    generation_id: str,
    time: str,
    metadata: str = "",
    info: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The new VM's fields. `source` are the stored fields of the VM `ref`.

    `mac_seed` and `generation_id` are fresh ones, used where the kind asks for them; `time` is now, `metadata` what
    snapshot_metadata keeps, `info` replaces what snapshot_info would say. Metrics, the saved memory and the source's
    `parent` are left to the caller: after a snapshot the source's parent is the snapshot.
    """
    snapshot = kind in SNAPSHOTS
    fields = {field: source[field] for field in VM_KEPT}
    fields |= {
        "name_label": name,
        "power_state": power_state(source["power_state"], kind),
        "is_a_template": snapshot or source["is_a_template"],
        "is_control_domain": False,
        "other_config": _other_config(source, mac_seed=None if snapshot else mac_seed),
        # A guest that keeps no generation id is not given one.
        "generation_id": generation_id if source["generation_id"] else "",
        "is_a_snapshot": snapshot,
    }
    if snapshot:
        fields |= {
            "snapshot_of": ref,
            "snapshot_time": time,
            "snapshot_info": _snapshot_info(source) if info is None else dict(info),
            "snapshot_metadata": metadata,
            "parent": source["parent"],
        }
    return fields


def _other_config(source: Fields, *, mac_seed: str | None) -> dict[str, str]:
    config = {key: value for key, value in source["other_config"].items() if key not in _NOT_INHERITED}
    if mac_seed is not None:
        config["mac_seed"] = mac_seed
    if source["is_a_template"]:
        config.setdefault("base_template_name", source["name_label"])
    return config


def _snapshot_info(source: Fields) -> dict[str, str]:
    return {"disk-snapshot-type": "crash_consistent", "power-state-at-snapshot": source["power_state"]}


def cloned_vbd(source: Fields, vm: str, vdi: str, *, attached: bool = False) -> dict[str, Any]:
    """The fields of a new VM's VBD; `vdi` is its disk, NULL for none.

    The new VM owns its disks, whoever owned the originals: they go when it is uninstalled. `attached` is for a VM
    whose memory was saved with it.
    """
    fields = {field: source[field] for field in VBD_KEPT}
    if source["type"] == "Disk":
        fields["other_config"] = {"owner": ""} | source["other_config"]
    return fields | {
        "VM": vm,
        "VDI": vdi,
        "empty": source["empty"] or vdi == NULL,
        "currently_attached": attached and source["currently_attached"],
    }


def cloned_vif(source: Fields, vm: str, kind: Kind, *, mac: str, attached: bool = False) -> dict[str, Any]:
    """The fields of a new VM's VIF. A snapshot keeps the address; any other gets `mac`, made from its own seed."""
    fields = {field: source[field] for field in VIF_KEPT}
    if kind in SNAPSHOTS:
        address = {"MAC": source["MAC"], "MAC_autogenerated": source["MAC_autogenerated"]}
    else:
        address = {"MAC": mac, "MAC_autogenerated": True}
    return fields | address | {"VM": vm, "currently_attached": attached and source["currently_attached"]}
