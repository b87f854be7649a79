"""host: its daemon, and what that knows."""

from __future__ import annotations

from kronos.api.host.power import by_systemd
from kronos.datamodel.errors import Failure
from kronos.db.records import Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


@message("host.list_methods", inline=True)
def list_methods(call: Call) -> tuple[str, ...]:
    """Every method that this host knows."""
    return tuple(call.pipeline.method_names())


@message("host.is_in_emergency_mode", inline=True)
def is_in_emergency_mode(call: Call) -> bool:
    """A host that is its own pool's coordinator is never cut off from it."""
    return False


@message("host.sync_data")
def sync_data(call: Call, host: str) -> None:
    """Bring this host's copy of the pool's data up to date: the database is always on disk."""
    call.db.get(Host, host)
    call.pipeline.durability.block()


@message("host.restart_agent")
def restart_agent(call: Call, host: str) -> None:
    """Restart this daemon; VMs run on. Raises OPERATION_NOT_ALLOWED where it is not the system's service."""
    call.db.get(Host, host)
    by_systemd(call.machine.power.restart_daemon)


@message("host.shutdown_agent")
def shutdown_agent(call: Call) -> None:
    """Stop this daemon; VMs run on. Raises OPERATION_NOT_ALLOWED where it is not the system's service."""
    by_systemd(call.machine.power.stop_daemon)


@message("host.set_localdb_key")
def set_localdb_key(call: Call, host: str, key: str, value: str) -> None:
    """Write one of the keys that are this host's own."""
    call.db.get(Host, host)
    call.machine.keys.put(key, value)


@message("host.emergency_ha_disable")
def emergency_ha_disable(call: Call, soft: bool) -> None:
    """Switch HA off on this host alone. Raises HA_NOT_ENABLED, unless `soft`, as it is never on."""
    if not soft:
        raise Failure("HA_NOT_ENABLED")
