"""pool: who belongs to it, for a pool of one host."""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.db.records import Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


@message("pool.is_slave", inline=True)
def is_slave(call: Call, host: str) -> bool:
    """Is this host a supporter of another? A lone host is its own coordinator."""
    call.db.get(Host, host)
    return False


@message("pool.sync_database")
def sync_database(call: Call) -> None:
    """Return when everything written so far is on disk."""
    call.pipeline.durability.block()


@message("pool.recover_slaves")
def recover_slaves(call: Call) -> tuple[str, ...]:
    """Tell supporters that this host coordinates; returns those that were reached."""
    return ()


@message("pool.designate_new_master")
def designate_new_master(call: Call, host: str) -> None:
    """Have a host coordinate the pool; the one that does goes on."""
    call.db.get(Host, host)


@message("pool.emergency_transition_to_master")
def emergency_transition_to_master(call: Call) -> None:
    """Coordinate, for lack of another: this host does.

    Raises HA_IS_ENABLED.
    """
    if call.db.all(Pool)[0].ha_enabled:
        raise Failure("HA_IS_ENABLED")


@message("pool.eject")
def eject(call: Call, host: str) -> None:
    """Send a host away. Raises INTERNAL_ERROR for the coordinator, which is the last to go."""
    call.db.get(Host, host)
    raise Failure("INTERNAL_ERROR", "The coordinator of a pool cannot be ejected from it")
