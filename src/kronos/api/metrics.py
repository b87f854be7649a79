"""Data sources of hosts, VMs and SRs: what is measured of them, what of that is recorded, and its last values."""

from __future__ import annotations

import math
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.db.records import SR, VM, Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.metrics.keeping import Key, Listed, UnknownSource


def _host(call: Call, ref: str) -> Key:
    return Key("host", call.db.get(Host, ref).uuid)


def _vm(call: Call, ref: str) -> Key:
    return Key("vm", call.db.get(VM, ref).uuid)


def _sr(call: Call, ref: str) -> Key:
    return Key("sr", call.db.get(SR, ref).uuid)


@message("host.get_data_sources")
def host_sources(call: Call, host: str) -> tuple[dict[str, Any], ...]:
    return _sources(call, _host(call, host))


@message("host.record_data_source")
def host_record(call: Call, host: str, data_source: str) -> None:
    _record(call, _host(call, host), data_source)


@message("host.query_data_source")
def host_query(call: Call, host: str, data_source: str) -> float:
    return _query(call, _host(call, host), data_source)


@message("host.forget_data_source_archives")
def host_forget(call: Call, host: str, data_source: str) -> None:
    call.machine.metrics.drop(_host(call, host), data_source)


@message("host.backup_rrds")
def host_backup(call: Call, host: str, delay: float) -> None:
    """Write all archives of this host to its disk in `delay` seconds; before the answer where there is none."""
    call.db.get(Host, host)
    call.machine.metrics.backup(delay if math.isfinite(delay) else 0.0)


@message("VM.get_data_sources", holds="data_source_op")
def vm_sources(call: Call, self: str) -> tuple[dict[str, Any], ...]:
    return _sources(call, _vm(call, self))


@message("VM.record_data_source", holds="data_source_op")
def vm_record(call: Call, self: str, data_source: str) -> None:
    _record(call, _vm(call, self), data_source)


@message("VM.query_data_source")
def vm_query(call: Call, self: str, data_source: str) -> float:
    """The last value. Raises VM_BAD_POWER_STATE for a VM that is not here."""
    row = call.db.get(VM, self)
    if row.power_state not in ("Running", "Paused"):
        raise Failure("VM_BAD_POWER_STATE", self, "running;paused", row.power_state.lower())
    return _query(call, _vm(call, self), data_source)


@message("VM.forget_data_source_archives", holds="data_source_op")
def vm_forget(call: Call, self: str, data_source: str) -> None:
    call.machine.metrics.drop(_vm(call, self), data_source)


@message("SR.get_data_sources")
def sr_sources(call: Call, sr: str) -> tuple[dict[str, Any], ...]:
    return _sources(call, _sr(call, sr))


@message("SR.record_data_source")
def sr_record(call: Call, sr: str, data_source: str) -> None:
    _record(call, _sr(call, sr), data_source)


@message("SR.query_data_source")
def sr_query(call: Call, sr: str, data_source: str) -> float:
    return _query(call, _sr(call, sr), data_source)


@message("SR.forget_data_source_archives")
def sr_forget(call: Call, sr: str, data_source: str) -> None:
    call.machine.metrics.drop(_sr(call, sr), data_source)


def _sources(call: Call, key: Key) -> tuple[dict[str, Any], ...]:
    return tuple(_record_of(each) for each in call.machine.metrics.sources(key))


def _record_of(listed: Listed) -> dict[str, Any]:
    source = listed.source
    return {
        "name_label": source.name,
        "name_description": source.description,
        "enabled": listed.enabled,
        "standard": source.standard,
        "units": source.units,
        "min": source.minimum,
        "max": source.maximum,
        "value": float(listed.value),
    }


def _record(call: Call, key: Key, name: str) -> None:
    """Raises INVALID_VALUE for a source that is not measured."""
    try:
        call.machine.metrics.record(key, name)
    except UnknownSource as error:
        raise Failure("INVALID_VALUE", "data_source", name) from error


def _query(call: Call, key: Key, name: str) -> float:
    """Raises INVALID_VALUE for a source that is not recorded."""
    try:
        return call.machine.metrics.newest(key, name)
    except UnknownSource as error:
        raise Failure("INVALID_VALUE", "data_source", name) from error
