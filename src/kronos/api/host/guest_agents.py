"""host: what this host offers to the agents of all its guests."""

from __future__ import annotations

import logging

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.rules import guest_control

log = logging.getLogger(__name__)


@message("host.apply_guest_agent_config")
def apply_guest_agent_config(call: Call, host: str) -> None:
    """Tell the guests' agents on a host what pool.guest_agent_config says; they read it in xenstore, where there is
    one. Raises INTERNAL_ERROR."""
    call.db.get(Host, host)
    apply(call.db, call.machine)


def apply(db: Database, machine: Machine) -> None:
    """Offer what the pool's configuration says. Raises INTERNAL_ERROR."""
    machine.hypervisor.offer(guest_control.features(db.all(Pool)[0].guest_agent_config))


def begin(db: Database, machine: Machine) -> None:
    """`apply` after a start. That it fails keeps nobody from anything."""
    try:
        apply(db, machine)
    except Failure as failure:
        log.warning("Guests' agents are not told of the pool's settings: %s", failure)
