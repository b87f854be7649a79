"""pool: settings that are more than a field."""

from __future__ import annotations

import time
import uuid as uuids
from urllib.parse import urlsplit

from kronos.api.host import guest_agents
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL, seconds_of
from kronos.db.records import Host, Pool, Secret
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

DAY = 24 * 3600.0
_LATEST = {"daily": 2, "weekly": 14, "monthly": 62}
"""Days until which the next collection may be put off, by how often there is one."""


# --- guests' agents ------------------------------------------------------------------------------------------


@message("pool.add_to_guest_agent_config")
def add_to_guest_agent_config(call: Call, self: str, key: str, value: str) -> None:
    """Tell guests' agents something: auto_update_enabled, or auto_update_url.

    Raises INVALID_VALUE ["guest_agent_config", "key = value"], MAP_DUPLICATE_KEY.
    """
    row = call.db.get(Pool, self)
    if not _is_agents(key, value):
        raise Failure("INVALID_VALUE", "guest_agent_config", f"{key} = {value}"[:255])
    with call.db.transaction():
        if key in row.guest_agent_config:
            raise Failure("MAP_DUPLICATE_KEY", "pool", "guest_agent_config", row.ref, key)
        row.guest_agent_config = row.guest_agent_config | {key: value}
    guest_agents.apply(call.db, call.machine)


@message("pool.remove_from_guest_agent_config")
def remove_from_guest_agent_config(call: Call, self: str, key: str) -> None:
    """Leave it to the agents again."""
    row = call.db.get(Pool, self)
    row.guest_agent_config = {name: value for name, value in row.guest_agent_config.items() if name != key}
    guest_agents.apply(call.db, call.machine)


def _is_agents(key: str, value: str) -> bool:
    if key == "auto_update_enabled":
        return value in ("true", "false")
    try:
        return key == "auto_update_url" and urlsplit(value).scheme in ("http", "https")
    except ValueError:
        return False


# --- telemetry -----------------------------------------------------------------------------------------------


@message("pool.reset_telemetry_uuid")
def reset_telemetry_uuid(call: Call, self: str) -> None:
    """Be another pool to whoever collects telemetry."""
    row = call.db.get(Pool, self)
    with call.db.transaction():
        old = call.db.find(Secret, row.telemetry_uuid)
        row.telemetry_uuid = call.db.create(Secret, value=str(uuids.uuid4())).ref
        if old is not None:
            call.db.delete(old)


@message("pool.set_telemetry_next_collection")
def set_telemetry_next_collection(call: Call, self: str, value: str) -> None:
    """When telemetry is collected next. Raises TELEMETRY_NEXT_COLLECTION_TOO_LATE [when]."""
    row = call.db.get(Pool, self)
    try:
        when = seconds_of(value)
    except ValueError as error:
        raise Failure("INVALID_VALUE", "value", value) from error
    if when > time.time() + _LATEST[row.telemetry_frequency] * DAY:
        raise Failure("TELEMETRY_NEXT_COLLECTION_TOO_LATE", value)
    row.telemetry_next_collection = value


# --- firmware ------------------------------------------------------------------------------------------------


@message("pool.set_uefi_certificates")
def set_uefi_certificates(call: Call, self: str, value: str) -> None:
    """Raises OPERATION_NOT_ALLOWED: set_custom_uefi_certificates has taken its place."""
    call.db.get(Pool, self)
    raise Failure("OPERATION_NOT_ALLOWED", "Use pool.set_custom_uefi_certificates instead")


@message("host.set_uefi_certificates")
def set_host_uefi_certificates(call: Call, host: str, value: str) -> None:
    """Raises OPERATION_NOT_ALLOWED: set_custom_uefi_certificates of the pool has taken its place."""
    call.db.get(Host, host)
    raise Failure("OPERATION_NOT_ALLOWED", "Use pool.set_custom_uefi_certificates instead")


@message("pool.set_custom_uefi_certificates")
def set_custom_uefi_certificates(call: Call, self: str, value: str) -> None:
    """Raises OPERATION_NOT_ALLOWED: guests' firmware comes with the distribution's own keys."""
    call.db.get(Pool, self)
    raise Failure("OPERATION_NOT_ALLOWED", "Guests' firmware has the keys of the distribution's packages")


# --- Open vSwitch --------------------------------------------------------------------------------------------


@message("pool.set_igmp_snooping_enabled")
def set_igmp_snooping_enabled(call: Call, self: str, value: bool) -> None:
    """Raises OPENVSWITCH_NOT_ACTIVE: networks are the kernel's bridges."""
    call.db.get(Pool, self)
    raise Failure("OPENVSWITCH_NOT_ACTIVE")


@message("pool.set_vswitch_controller")
def set_vswitch_controller(call: Call, address: str) -> None:
    """Raises OPERATION_NOT_ALLOWED: networks are the kernel's bridges."""
    raise Failure("OPERATION_NOT_ALLOWED", "host not configured for vswitch operation")


# --- what is no more -----------------------------------------------------------------------------------------


@message("pool.test_archive_target")
def test_archive_target(call: Call, self: str, config: dict[str, str]) -> str:
    """Raises MESSAGE_REMOVED."""
    call.db.get(Pool, self)
    raise Failure("MESSAGE_REMOVED")


@message("pool.disable_redo_log")
def disable_redo_log(call: Call) -> None:
    """Write no copy of the database to a disk of an SR."""
    pool = call.db.all(Pool)[0]
    call.db.write(pool, {"redo_log_enabled": False, "redo_log_vdi": NULL})
