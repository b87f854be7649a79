"""Fields of xe that no single field of XenAPI holds: asked of the server, or made from several fields."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from kronos.commands.facts import Field
from kronos.commands.protocol import NULL
from kronos.commands.records import Row
from kronos.datamodel.errors import Failure

_UNKNOWN = "<unknown>"
_INCONSISTENT = "<inconsistent>"
Compute = Callable[[Row], Any]


def value(row: Row, field: Field) -> Any:
    """The value of a computed field; None where there is none."""
    return _COMPUTED[row.api_class, field.name](row)


def known() -> set[tuple[str, str]]:
    """The class and name of every field that this module computes."""
    return set(_COMPUTED)


def _source(row: Row, owner_class: str, owner: str, name: str, scale: float = 1.0) -> str:
    """A metric now, or `<unknown>`: it is only there while something runs."""
    try:
        found = row.records.api(f"{owner_class}.query_data_source", owner, name)
    except Failure:
        return _UNKNOWN
    return f"{float(found) / scale:.3f}"


def _pif_rate(way: str) -> Compute:
    return lambda row: _source(row, "host", row["host"], f"pif_{row['device']}_{way}", 1024)


def _device_rate(kind: str, way: str) -> Compute:
    return lambda row: _source(row, "VM", row["VM"], f"{kind}_{row['device']}_{way}", 1024)


def _duplex(row: Row) -> Any:
    metrics, records = row["metrics"], row.records
    full = records.value_or("PIF_metrics", metrics, "duplex", None)
    if full is None:
        return None
    return (
        "full"
        if full
        else "half"
        if records.value_or("PIF_metrics", metrics, "carrier", False)
        else "unknown"
    )


def _asked(message: str, otherwise: Any = None) -> Compute:
    """What `message` answers about the object; `otherwise` where it refuses."""

    def compute(row: Row) -> Any:
        try:
            return row.records.api(f"{row.api_class}.{message}", row.ref)
        except Failure:
            if otherwise is None:
                raise
            return otherwise

    return compute


def _uuids(message: str, api_class: str) -> Compute:
    def compute(row: Row) -> list[str]:
        refs = row.records.api(f"{row.api_class}.{message}", row.ref)
        return [row.records.value_or(api_class, ref, "uuid", "<not in database>") for ref in refs]

    return compute


def _same_on_hosts(field: str) -> Compute:
    """A field of all hosts as one value of the pool."""

    def compute(row: Row) -> Any:
        found = [host[field] for host in row.records.rows("host")]
        return found[0] if found and all(item == found[0] for item in found) else _INCONSISTENT

    return compute


def _https_only(row: Row) -> bool:
    return all(host["https_only"] for host in row.records.rows("host"))


def _memory_target(row: Row) -> str:
    try:
        return str(int(row.records.api("VM.query_data_source", row.ref, "memory_target")))
    except Failure as failure:
        return "0" if failure.code == "VM_BAD_POWER_STATE" else _UNKNOWN


def _vcpus_utilisation(row: Row) -> dict[str, str]:
    count = row.records.value_or("VM_metrics", row["metrics"], "VCPUs_number", 0)
    found: dict[str, str] = {}
    for number in range(count):
        share = _source(row, "VM", row.ref, f"cpu{number}")
        if share == _UNKNOWN:
            return {}
        found[str(number)] = share
    return found


def _attachable(row: Row) -> str:
    try:
        row.records.api("VBD.assert_attachable", row.ref)
    except Failure as failure:
        return f"false (error: {failure})"
    return "true"


def _disk_name(row: Row) -> Any:
    return "<EMPTY>" if row["empty"] else row.records.value_or("VDI", row["VDI"], "name_label", None)


def _sr_host(row: Row) -> Any:
    pbds = row["PBDs"]
    if len(pbds) > 1:
        return "<shared>"
    host = row.records.value_or("PBD", pbds[0], "host", NULL) if pbds else NULL
    return row.records.value_or("host", host, "name_label", None)


def _metadata_of_pool(row: Row) -> Any:
    pool = row.records.rows("pool")[0]
    if row["metadata_of_pool"] == pool.ref:
        return pool["uuid"]
    return row.records.api("VDI.read_database_pool_uuid", row.ref) or None


def _remaining_capacity(row: Row) -> str:
    try:
        return str(row.records.api("network_sriov.get_remaining_capacity", row.ref))
    except Failure:
        return _UNKNOWN


def _variants(row: Row) -> list[Row]:
    found = [row.records.row("Driver_variant", ref) for ref in row["variants"]]
    return sorted(found, key=lambda variant: -variant["priority"])


def _of_variants(show: Callable[[Row], str]) -> Compute:
    return lambda row: [show(variant) for variant in _variants(row)]


def _is_variant(choice: str) -> Compute:
    return lambda row: row.records.value("Host_driver", row["driver"], choice) == row.ref


def _tpm_digest(row: Row) -> str:
    """Enough to see whether the content changed, and nothing of the content."""
    content = str(row.records.api("VTPM.get_contents", row.ref)).encode()
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return f"MD5={digest} size={len(content)} bytes"


_COMPUTED: dict[tuple[str, str], Compute] = {
    ("Driver_variant", "priority"): lambda row: f"{row['priority']:5.1f}",
    ("Driver_variant", "active"): _is_variant("active_variant"),
    ("Driver_variant", "selected"): _is_variant("selected_variant"),
    ("GPU_group", "enabled-VGPU-types"): _uuids("get_enabled_VGPU_types", "VGPU_type"),
    ("GPU_group", "supported-VGPU-types"): _uuids("get_supported_VGPU_types", "VGPU_type"),
    ("host", "memory-free-computed"): _asked("compute_free_memory"),
    ("host_cpu", "utilisation"): lambda row: _source(row, "host", row["host"], f"cpu{row['number']}"),
    ("Host_driver", "variants"): _of_variants(lambda variant: f"{variant['name']}/{variant['version']}"),
    ("Host_driver", "variants-dev-status"): _of_variants(
        lambda variant: f"{variant['name']}={variant['status']}"
    ),
    ("Host_driver", "variants-uuid"): _of_variants(lambda variant: f"{variant['name']}/{variant['uuid']}"),
    ("Host_driver", "variants-hw-present"): lambda row: [
        variant["name"] for variant in _variants(row) if variant["hardware_present"]
    ],
    ("network_sriov", "remaining-capacity"): _remaining_capacity,
    ("PIF", "io_read_kbs"): _pif_rate("rx"),
    ("PIF", "io_write_kbs"): _pif_rate("tx"),
    ("PIF", "duplex"): _duplex,
    ("pool", "supported-sr-types"): lambda row: row.records.api("SR.get_supported_types"),
    ("pool", "vswitch-controller"): lambda row: row["vswitch_controller"] or "<not set>",
    ("pool", "license-state"): _asked("get_license_state"),
    ("pool", "https-only"): _https_only,
    ("pool", "ssh-enabled"): _same_on_hosts("ssh_enabled"),
    ("pool", "ssh-enabled-timeout"): _same_on_hosts("ssh_enabled_timeout"),
    ("pool", "ssh-expiry"): _same_on_hosts("ssh_expiry"),
    ("pool", "console-idle-timeout"): _same_on_hosts("console_idle_timeout"),
    ("pool", "ssh-auto-mode"): _same_on_hosts("ssh_auto_mode"),
    ("SR", "host"): _sr_host,
    ("VBD", "vdi-name-label"): _disk_name,
    ("VBD", "attachable"): _attachable,
    ("VBD", "io_read_kbs"): _device_rate("vbd", "read"),
    ("VBD", "io_write_kbs"): _device_rate("vbd", "write"),
    ("VDI", "metadata-of-pool"): _metadata_of_pool,
    ("VGPU", "compatibility-metadata"): lambda row: [
        f"{key}:({len(item)} bytes)" for key, item in row["compatibility_metadata"].items()
    ],
    ("VGPU_type", "max-resolution"): lambda row: f"{row['max_resolution_x']}x{row['max_resolution_y']}",
    ("VIF", "io_read_kbs"): _device_rate("vif", "rx"),
    ("VIF", "io_write_kbs"): _device_rate("vif", "tx"),
    ("VM", "memory-target"): _memory_target,
    ("VM", "allowed-VBD-devices"): _asked("get_allowed_VBD_devices", []),
    ("VM", "allowed-VIF-devices"): _asked("get_allowed_VIF_devices", []),
    ("VM", "possible-hosts"): _uuids("get_possible_hosts", "host"),
    ("VM", "last-boot-record"): lambda row: f"'{row['last_booted_record']}'",
    ("VM", "VCPUs-utilisation"): _vcpus_utilisation,
    ("VM", "cooperative"): _asked("get_cooperative", True),
    ("VTPM", "secret"): _tpm_digest,
}
