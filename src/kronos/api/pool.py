"""pool: the calls that a pool of one host can answer."""

from __future__ import annotations

from kronos.db.records import Host
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
