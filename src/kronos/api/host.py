"""host: what one host tells of itself, and whether it takes VMs."""

from __future__ import annotations

import time

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import at, now
from kronos.db.records import PIF, Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules import memory


@message("host.disable")
def disable(call: Call, host: str, auto_enable: bool) -> None:
    """Start no more VMs on this host; those that run go on."""
    call.db.get(Host, host).enabled = False


@message("host.enable")
def enable(call: Call, host: str) -> None:
    """Take VMs again."""
    call.db.get(Host, host).enabled = True


@message("host.get_servertime", inline=True)
def get_servertime(call: Call, host: str) -> str:
    """The host's clock, UTC."""
    call.db.get(Host, host)
    return now()


@message("host.get_server_localtime", inline=True)
def get_server_localtime(call: Call, host: str) -> str:
    """The host's clock in its own time zone, written without one."""
    call.db.get(Host, host)
    moment = time.time()
    return at(moment + time.localtime(moment).tm_gmtoff).removesuffix("Z")


@message("host.compute_free_memory")
def compute_free_memory(call: Call, host: str) -> int:
    """Bytes of memory that a new VM could have now."""
    return memory.free(call.db, call.db.get(Host, host), memory.dynamic_min)


@message("host.compute_memory_overhead")
def compute_memory_overhead(call: Call, host: str) -> int:
    """Bytes of memory that virtualisation itself takes on the host."""
    return call.db.get(Host, host).memory_overhead


@message("host.list_methods", inline=True)
def list_methods(call: Call) -> tuple[str, ...]:
    """Every method that this host knows."""
    return tuple(call.pipeline.method_names())


@message("host.is_in_emergency_mode", inline=True)
def is_in_emergency_mode(call: Call) -> bool:
    """A host that is its own pool's coordinator is never cut off from it."""
    return False


@message("host.get_management_interface")
def get_management_interface(call: Call, host: str) -> str:
    """The PIF that clients reach this host by. Raises HOST_HAS_NO_MANAGEMENT_IP."""
    row = call.db.get(Host, host)
    for pif in (call.db.get(PIF, ref) for ref in row.PIFs):
        if pif.management:
            return pif.ref
    raise Failure("HOST_HAS_NO_MANAGEMENT_IP")


@message("host.sync_data")
def sync_data(call: Call, host: str) -> None:
    """Bring this host's copy of the pool's data up to date: the database is always on disk."""
    call.db.get(Host, host)
    call.pipeline.durability.block()
