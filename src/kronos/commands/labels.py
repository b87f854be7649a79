"""How xe spells values that XenAPI spells otherwise, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Spelling = Callable[[str], str]

_CRASHES = {
    "coredump_and_destroy": "Core dump and destroy",
    "coredump_and_restart": "Core dump and restart",
}
_VDI_TYPES = {
    "ha_statefile": "HA statefile",
    "redo_log": "Redo log",
    "rrd": "rrd",
    "pvs_cache": "PVS cache",
    "cbt_metadata": "CBT metadata",
}
_VM_OPERATIONS = {"assert_operation_valid": "assertoperationvalid", "data_source_op": "data_sources_op"}
_TRISTATES = {"yes": "true", "no": "false"}
_HOST_OPERATIONS = {"vm_start": "VM.start", "vm_resume": "VM.resume", "vm_migrate": "VM.migrate"}


def _sentence(value: str) -> str:
    return value.replace("_", " ").capitalize()


def _first_small(value: str) -> str:
    return value[:1].lower() + value[1:]


def _object_operation(value: str) -> str:
    kind, _, operation = value.partition("_")
    return f"{kind.upper()}.{operation}" if kind in ("vdi", "pbd") else value


def _from(table: Mapping[str, str], otherwise: Spelling = str) -> Spelling:
    return lambda value: table.get(value) or otherwise(value)


_SPELLINGS: dict[str, Spelling] = {
    "": str,
    "capitals": str.upper,
    "first_capital": str.capitalize,
    "host_operation": _from(_HOST_OPERATIONS),
    "hyphens": lambda value: value.replace("_", "-"),
    "on_crash": _from(_CRASHES, _sentence),
    "sentence": _sentence,
    "small": _first_small,
    "storage_operation": _object_operation,
    "tristate": _from(_TRISTATES),
    "vdi_type": _from(_VDI_TYPES, str.capitalize),
    "vm_operation": _from(_VM_OPERATIONS),
}
_MEANINGS: dict[str, Mapping[str, str]] = {
    "vm_operation": {label: value for value, label in _VM_OPERATIONS.items()},
}


def shown(labels: str, value: str) -> str:
    """`value` as a listing shows it."""
    return _SPELLINGS[labels](value)


def meant(labels: str, text: str) -> str:
    """The value of XenAPI that the user's `text` stands for."""
    return _MEANINGS.get(labels, {}).get(text, text)
