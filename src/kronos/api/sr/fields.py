"""SR setters, and questions about an SR that its records answer."""

from __future__ import annotations

from typing import Any

from kronos.datamodel.errors import Failure
from kronos.db.records import PBD, SR, Host, Host_metrics
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


def _set(call: Call, ref: str, **fields: Any) -> None:
    call.db.write(call.db.get(SR, ref), fields)


@message("SR.set_name_label")
def set_name_label(call: Call, sr: str, value: str) -> None:
    """Name an SR."""
    _set(call, sr, name_label=value)


@message("SR.set_name_description")
def set_name_description(call: Call, sr: str, value: str) -> None:
    """Describe an SR."""
    _set(call, sr, name_description=value)


@message("SR.set_shared")
def set_shared(call: Call, sr: str, value: bool) -> None:
    """Whether several hosts may use an SR at once. Raises SR_HAS_MULTIPLE_PBDS [pbds] where they do."""
    with call.db.transaction():
        pbds = call.db.get(SR, sr).PBDs
        if not value and len(pbds) > 1:
            raise Failure("SR_HAS_MULTIPLE_PBDS", *pbds)
        _set(call, sr, shared=value)


@message("SR.set_physical_size")
def set_physical_size(call: Call, self: str, value: int) -> None:
    """What a storage manager knows of an SR's size, in bytes."""
    _set(call, self, physical_size=value)


@message("SR.set_virtual_allocation")
def set_virtual_allocation(call: Call, self: str, value: int) -> None:
    """What a storage manager knows of its disks' sizes, in bytes."""
    _set(call, self, virtual_allocation=value)


@message("SR.set_physical_utilisation")
def set_physical_utilisation(call: Call, self: str, value: int) -> None:
    """What a storage manager knows of the space in use, in bytes."""
    _set(call, self, physical_utilisation=value)


@message("SR.get_live_hosts")
def get_live_hosts(call: Call, sr: str) -> tuple[str, ...]:
    """The hosts that are up and have the SR plugged in."""
    pbds = (call.db.get(PBD, ref) for ref in call.db.get(SR, sr).PBDs)
    hosts = (call.db.find(Host, pbd.host) for pbd in pbds if pbd.currently_attached)
    return tuple(host.ref for host in hosts if host is not None and _live(call, host))


def _live(call: Call, host: Host) -> bool:
    metrics = call.db.find(Host_metrics, host.metrics)
    return metrics is not None and metrics.live


@message("SR.assert_can_host_ha_statefile")
def assert_can_host_ha_statefile(call: Call, sr: str) -> None:
    """No SR type here can hold high availability's state. Raises SR_OPERATION_NOT_SUPPORTED [sr]."""
    raise Failure("SR_OPERATION_NOT_SUPPORTED", call.db.get(SR, sr).ref)


@message("SR.assert_supports_database_replication")
def assert_supports_database_replication(call: Call, sr: str) -> None:
    """No SR type here can hold a copy of the pool's database. Raises SR_OPERATION_NOT_SUPPORTED [sr]."""
    raise Failure("SR_OPERATION_NOT_SUPPORTED", call.db.get(SR, sr).ref)
