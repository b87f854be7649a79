"""host: how it reaches its storage: its iSCSI name, its paths, and the cache that it may have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from pathlib import Path

from kronos.api.host.surroundings import asked_of_the_system
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import PBD, SM, SR, VBD, VM, Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

INITIATOR = Path("etc/iscsi/initiatorname.iscsi")
CAPABILITY = "SR_SUPPORTS_LOCAL_CACHING"
_IQN = re.compile(r"[!-~]{1,223}")
_NOT_ENABLED, _NOT_DISABLED = "HOSTS_FAILED_TO_ENABLE_CACHING", "HOSTS_FAILED_TO_DISABLE_CACHING"


@message("host.set_iscsi_iqn")
def set_iscsi_iqn(call: Call, host: str, value: str) -> None:
    """Give the host its name as an iSCSI initiator; sessions that are there keep the old one.

    Raises INVALID_VALUE.
    """
    row = call.db.get(Host, host)
    if not _IQN.fullmatch(value):
        raise Failure("INVALID_VALUE", "value", value[:255])
    file = call.machine.root / INITIATOR
    if file.parent.is_dir():
        with asked_of_the_system():
            call.machine.outside.write(file, f"InitiatorName={value}\n", 0o600)
    with call.db.transaction():
        row.iscsi_iqn = value
        row.other_config = row.other_config | {"iscsi_iqn": value}


@message("host.set_multipathing")
def set_multipathing(call: Call, host: str, value: bool) -> None:
    """Whether SRs that are attached from now on are reached by every path that there is."""
    row = call.db.get(Host, host)
    with call.db.transaction():
        row.multipathing = value
        row.other_config = row.other_config | {"multipathing": str(value).lower()}


def follow_other_config(db: Database, touched: Mapping[Record, Set[str]]) -> None:
    """Older clients write these into other_config: the fields say the same then, when they are one's own."""
    for row, fields in touched.items():
        if not isinstance(row, Host) or "other_config" not in fields:
            continue
        name, paths = row.other_config.get("iscsi_iqn", ""), row.other_config.get("multipathing", "")
        if _IQN.fullmatch(name):
            db.write(row, {"iscsi_iqn": name})
        if paths in ("true", "false"):
            db.write(row, {"multipathing": paths == "true"})


@message("host.enable_local_storage_caching")
def enable_local_storage_caching(call: Call, host: str, sr: str) -> None:
    """Keep copies of shared disks on a local SR.

    Raises HOST_NOT_DISABLED, HOST_IN_USE; SR_OPERATION_NOT_SUPPORTED for an SR whose driver cannot.
    """
    row, cache = call.db.get(Host, host), call.db.get(SR, sr)
    _require_idle(call, row)
    drivers = [driver for driver in call.db.all(SM) if driver.type == cache.type]
    able = any(CAPABILITY in driver.features for driver in drivers)
    pbds = [call.db.get(PBD, ref) for ref in cache.PBDs]
    if cache.shared or [pbd.host for pbd in pbds] != [row.ref] or not able:
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr)
    with call.db.transaction():
        _stop(call, row)
        row.local_cache_sr = sr
        cache.local_cache_enabled = True


@message("host.disable_local_storage_caching")
def disable_local_storage_caching(call: Call, host: str) -> None:
    """Keep no copies any more. Raises HOST_NOT_DISABLED, HOST_IN_USE."""
    row = call.db.get(Host, host)
    _require_idle(call, row)
    with call.db.transaction():
        _stop(call, row)


def _stop(call: Call, row: Host) -> None:
    cache = call.db.find(SR, row.local_cache_sr)
    if cache is not None:
        cache.local_cache_enabled = False
    row.local_cache_sr = NULL


def _require_idle(call: Call, row: Host) -> None:
    """The host takes no VMs, runs none, and its control domain has no disk attached."""
    if row.enabled:
        raise Failure("HOST_NOT_DISABLED")
    resident = [vm for vm in call.db.all(VM) if vm.resident_on == row.ref]
    for vm in resident:
        if vm.power_state == "Running" and not vm.is_control_domain:
            raise Failure("HOST_IN_USE", row.ref, "vm", vm.ref)
    for vm in resident:
        disks = [call.db.get(VBD, ref) for ref in vm.VBDs] if vm.is_control_domain else []
        for disk in disks:
            if disk.currently_attached:
                raise Failure("HOST_IN_USE", row.ref, "vbd", disk.ref)


@message("pool.enable_local_storage_caching")
def pool_enable_local_storage_caching(call: Call, self: str) -> None:
    """Have each host cache on one of its own SRs. Raises HOSTS_FAILED_TO_ENABLE_CACHING [hosts]."""
    call.db.get(Pool, self)
    failed = [host.ref for host in call.db.all(Host) if not _enabled_somewhere(call, host)]
    if failed:
        raise Failure(_NOT_ENABLED, *failed)


def _enabled_somewhere(call: Call, host: Host) -> bool:
    for pbd in (call.db.get(PBD, ref) for ref in host.PBDs):
        try:
            enable_local_storage_caching(call, host.ref, pbd.SR)
        except Failure:
            continue
        return True
    return False


@message("pool.disable_local_storage_caching")
def pool_disable_local_storage_caching(call: Call, self: str) -> None:
    """Have no host cache any more. Raises HOSTS_FAILED_TO_DISABLE_CACHING [hosts]."""
    call.db.get(Pool, self)
    failed = []
    for host in call.db.all(Host):
        try:
            disable_local_storage_caching(call, host.ref)
        except Failure:
            failed.append(host.ref)
    if failed:
        raise Failure(_NOT_DISABLED, *failed)
