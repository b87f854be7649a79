"""Unpacking: what an archive's description says, checked, and the records that are made of it.

Nothing in a description is trusted: classes and fields that are not needed are passed over unread, the others must be
of their types.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Class, model
from kronos.datamodel.types import NULL
from kronos.rules.cloning import VBD_KEPT, VIF_KEPT, VM_KEPT
from kronos.rules.packing import TPM_FIELDS

LATEST_API: Final = 26
"""The major version of the newest toolstack whose archives are known."""
_OLDEST_EXPORT: Final = 1
_ID: Final = re.compile(r"[A-Za-z0-9:_-]{1,64}")

_VM: Final = (
    VM_KEPT - {"affinity", "memory_target", "memory_overhead", "last_booted_record", "last_boot_CPU_flags"}
) | {
    "uuid",
    "name_label",
    "power_state",
    "is_a_template",
    "is_a_snapshot",
    "is_control_domain",
    "snapshot_of",
    "snapshot_time",
    "snapshot_info",
    "parent",
    "affinity",
    "other_config",
    "blocked_operations",
    "generation_id",
    "order",
    "start_delay",
    "shutdown_delay",
    "version",
    "suspend_VDI",
}
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "host": frozenset({"uuid"}),
    "SR": frozenset({"uuid", "content_type"}),
    "VDI": frozenset(
        "uuid SR name_label name_description virtual_size type sharable read_only other_config xenstore_data location"
        " sm_config tags".split()
    ),
    "network": frozenset("uuid name_label name_description MTU bridge other_config tags".split()),
    "VM": frozenset(_VM),
    "VBD": (VBD_KEPT - {"device"}) | {"uuid", "VM", "VDI", "empty"},
    "VIF": VIF_KEPT | {"uuid", "VM", "MAC"},
    "VTPM": frozenset({"uuid", "VM", "is_unique", "is_protected"}),
}
_STRIPPED: Final = frozenset({"default_template", "xensource_internal", "grant_api_access", "import_task"})


@dataclass(frozen=True)
class Object:
    """An object of an archive. `fields` are those of its class that matter here; its references are ids."""

    cls: str
    id: str
    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


@dataclass
class Description:
    """What an archive says that it holds."""

    brand: str = ""
    objects: dict[str, Object] = field(default_factory=dict)

    def of(self, cls: str) -> list[Object]:
        return [each for each in self.objects.values() if each.cls == cls]

    def get(self, cls: str, id: str) -> Object:
        """Raises IMPORT_ERROR_FAILED_TO_FIND_OBJECT."""
        found = self.objects.get(id)
        if found is None or found.cls != cls:
            raise Failure("IMPORT_ERROR_FAILED_TO_FIND_OBJECT", id)
        return found


def wrong(text: str) -> Failure:
    return Failure("IMPORT_ERROR", text)


def read(untrusted: object) -> Description:
    """A description, checked. Raises IMPORT_INCOMPATIBLE_VERSION, IMPORT_ERROR [text]."""
    version, objects = _part(untrusted, "version"), _part(untrusted, "objects")
    if not isinstance(objects, list):
        raise wrong("the archive's description lists no objects")
    _check_version(version)
    found = Description(brand=str(_part(version, "product_brand"))[:80])
    for each in objects:
        cls, name = _part(each, "class"), _part(each, "id")
        if not isinstance(name, str) or not _ID.fullmatch(name) or name in found.objects:
            raise wrong(f"an object with the id {str(name)[:80]!r}")
        if isinstance(cls, str) and cls in _FIELDS:
            found.objects[name] = Object(cls, name, _fields(cls, name, _part(each, "snapshot")))
    return found


def _part(untrusted: object, name: str) -> object:
    if not isinstance(untrusted, dict) or name not in untrusted:
        raise wrong(f"the archive's description lacks {name}")
    return untrusted[name]


def _check_version(untrusted: object) -> None:
    major = _number(_part(untrusted, "xapi_major"))
    export = (
        _number(untrusted["export_vsn"]) if isinstance(untrusted, dict) and "export_vsn" in untrusted else 0
    )
    if major > LATEST_API or export < _OLDEST_EXPORT:
        raise Failure("IMPORT_INCOMPATIBLE_VERSION")


def _number(untrusted: object) -> int:
    if isinstance(untrusted, str) and re.fullmatch(r"[0-9]{1,6}", untrusted):
        return int(untrusted)
    if isinstance(untrusted, int) and not isinstance(untrusted, bool):
        return untrusted
    raise wrong(f"the archive has the version {str(untrusted)[:80]!r}")


def _fields(cls: str, name: str, untrusted: object) -> dict[str, Any]:
    if not isinstance(untrusted, dict):
        raise wrong(f"{name} is no record")
    if cls == "VTPM":
        untrusted = {ours: untrusted[theirs] for ours, theirs in TPM_FIELDS.items() if theirs in untrusted}
    found: dict[str, Any] = {}
    known = _class(cls).fields
    for each in sorted(_FIELDS[cls]):
        if each not in untrusted:
            found[each] = known[each].default if known[each].has_default else known[each].type.zero
            continue
        try:
            found[each] = known[each].type.check(untrusted[each])
        except Failure as failure:
            raise wrong(
                f"{cls} {name}: {each}: {failure.params[0] if failure.params else failure}"
            ) from failure
    if cls == "VM":
        found |= _completed(found, untrusted)
    if cls == "VTPM":
        found["contents"] = _base64(untrusted.get("contents", ""))
    return found


def _base64(untrusted: object) -> str:
    try:
        base64.b64decode(str(untrusted), validate=True)
    except ValueError as error:
        raise wrong("what is in a TPM is not base64") from error
    return str(untrusted)


@cache
def _class(name: str) -> Class:
    return model().classes[name]


def _completed(vm: Mapping[str, Any], untrusted: Mapping[str, object]) -> dict[str, Any]:
    """What older archives lack."""
    fields: dict[str, Any] = {}
    if "parent" not in untrusted:  # from before memory could be ballooned
        most = vm["memory_static_max"]
        fields |= dict.fromkeys(("memory_dynamic_min", "memory_dynamic_max"), most)
    if vm["domain_type"] == "unspecified":
        fields["domain_type"] = "hvm" if vm["HVM_boot_policy"] else "pv"
    return fields


# --- what of it is made ----------------------------------------------------------------------------------------------


def virtual_machines(description: Description) -> list[Object]:
    """The VMs to make: all but control domains, those that others are snapshots of first."""
    found = [vm for vm in description.of("VM") if not vm["is_control_domain"]]
    return sorted(found, key=lambda vm: bool(vm["is_a_snapshot"]))


def streamed_disks(description: Description) -> list[Object]:
    """The disks whose content the archive holds: those of disk VBDs that are no ISO images, and saved memory."""
    wanted = {
        vbd["VDI"]
        for vbd in description.of("VBD")
        if vbd["type"] != "CD" and not vbd["empty"] and not _is_iso(description, vbd["VDI"])
    }
    return [vdi for vdi in description.of("VDI") if vdi.id in wanted or vdi["type"] == "suspend"]


def _is_iso(description: Description, vdi: str) -> bool:
    disk = description.get("VDI", vdi)
    return bool(description.get("SR", disk["SR"])["content_type"] == "iso")


def vm_fields(
    vm: Object, *, restore: bool, mac_seed: str, generation_id: str, hosts: Mapping[str, str]
) -> dict[str, Any]:
    """The fields of a new VM, Halted. `hosts` are this pool's hosts by the archive's ids."""
    taken = {name: vm[name] for name in _VM if name in VM_KEPT and name != "affinity"}
    other = {key: value for key, value in vm["other_config"].items() if key not in _STRIPPED}
    if not restore or "mac_seed" not in other:
        other["mac_seed"] = mac_seed
    started = vm["is_a_template"] or not vm["generation_id"]
    return taken | {
        "name_label": vm["name_label"],
        "power_state": "Halted",
        "is_a_template": vm["is_a_template"],
        "is_a_snapshot": vm["is_a_snapshot"],
        "snapshot_time": vm["snapshot_time"],
        "snapshot_info": vm["snapshot_info"],
        "is_default_template": False,
        "is_control_domain": False,
        "other_config": other,
        "blocked_operations": vm["blocked_operations"],
        "order": vm["order"],
        "start_delay": vm["start_delay"],
        "shutdown_delay": vm["shutdown_delay"],
        "version": vm["version"] + 1 if restore else 0,
        "affinity": hosts.get(vm["affinity"], NULL),
        "memory_target": vm["memory_dynamic_max"],
        "generation_id": vm["generation_id"] if started else generation_id,
        "domid": -1,
    }


def vdi_fields(vdi: Object) -> dict[str, Any]:
    """What VDI.create takes for a disk of an archive, the SR left out. How it was kept elsewhere is of no matter."""
    names = "name_label name_description virtual_size type sharable other_config xenstore_data tags".split()
    return {name: vdi[name] for name in names} | {"read_only": False, "sm_config": {}}


def vbd_fields(vbd: Object, vm: str, vdi: str) -> dict[str, Any]:
    """What VBD.create takes; `vdi` is NULL for an empty drive."""
    kept = {name: vbd[name] for name in VBD_KEPT - {"device"}}
    return kept | {"VM": vm, "VDI": vdi, "empty": vdi == NULL}


def vif_fields(vif: Object, vm: str, network: str, *, restore: bool) -> dict[str, Any]:
    """What VIF.create takes. Only a restored VM keeps its addresses: another has them as well, maybe beside it."""
    kept = {name: vif[name] for name in VIF_KEPT}
    return kept | {"VM": vm, "network": network, "MAC": vif["MAC"] if restore else ""}
