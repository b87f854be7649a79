"""host: how its processors work: sleep, scheduling, NUMA nodes, and its own screen."""

from __future__ import annotations

import logging
import re

from kronos.api.host.surroundings import asked_of_the_system
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Host
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.hypervisor import xen_console
from kronos.system.commands import CommandFailed

log = logging.getLogger(__name__)

_CSTATE = re.compile(r"(\d+)(?:,(\d+))?")
_SHALLOW = ("0", "1")


@message("host.set_max_cstate")
def set_max_cstate(call: Call, self: str, value: str) -> None:
    """How deeply idle processors may sleep: "", "0" or "1", with a comma and a sub-state perhaps. Xen's to do.

    Raises INVALID_VALUE, VALUE_NOT_SUPPORTED, OPERATION_NOT_ALLOWED.
    """
    row = call.db.get(Host, self)
    found = _CSTATE.fullmatch(value)
    if value and found is None:
        raise Failure("INVALID_VALUE", "max_cstate", value[:80])
    if found is not None and found[1] not in _SHALLOW:
        reason = "Only C0, C1 and unlimited are supported for max-cstate"
        raise Failure("VALUE_NOT_SUPPORTED", "max_cstate", value, reason)
    if not _is_xen(call.machine):
        raise Failure("OPERATION_NOT_ALLOWED", "The kernel decides how deeply processors sleep without Xen")
    with asked_of_the_system():
        xen_console.limit_sleep(*_states(value))
    row.max_cstate = value


def _states(value: str) -> tuple[str, str]:
    state, _, sub_state = value.partition(",")
    return state or "unlimited", sub_state or "unlimited"


def resume(db: Database, machine: Machine) -> None:
    """At a start: a reboot forgets it."""
    value = db.get(Host, machine.host_ref).max_cstate
    if value and _is_xen(machine):
        try:
            xen_console.limit_sleep(*_states(value))
        except CommandFailed as failed:
            log.warning("Processors sleep as deeply as they like: %s", failed)


@message("host.get_sched_gran")
def get_sched_gran(call: Call, self: str) -> str:
    """What is scheduled as one: a processor, a core or a socket, as Xen was booted."""
    call.db.get(Host, self)
    if not _is_xen(call.machine):
        return "cpu"
    with asked_of_the_system():
        found = re.search(r"\bsched-gran=(cpu|core|socket)\b", xen_console.command_line())
    return found[1] if found else "cpu"


@message("host.set_sched_gran")
def set_sched_gran(call: Call, self: str, value: str) -> None:
    """Raises OPERATION_NOT_ALLOWED: it is an option of Xen's boot entry, which is the administrator's."""
    call.db.get(Host, self)
    raise Failure("OPERATION_NOT_ALLOWED", "sched-gran is set in the boot entry of Xen, by the administrator")


@message("host.set_numa_affinity_policy")
def set_numa_affinity_policy(call: Call, self: str, value: str) -> None:
    """Where VMs' memory goes. Raises VALUE_NOT_SUPPORTED for more than what the host's kernel or Xen does anyway."""
    row = call.db.get(Host, self)
    if value not in ("default_policy", "any"):
        raise Failure("VALUE_NOT_SUPPORTED", "value", value, "VMs are not placed by NUMA node here")
    row.numa_affinity_policy = value


@message("host.enable_display")
def enable_display(call: Call, host: str) -> str:
    """Keep the host's own screen, which it has never given away."""
    return call.db.get(Host, host).display


@message("host.disable_display")
def disable_display(call: Call, host: str) -> str:
    """Raises FEATURE_RESTRICTED: the GPU of the host's own screen is not given to VMs."""
    call.db.get(Host, host)
    raise Failure("FEATURE_RESTRICTED")


def _is_xen(machine: Machine) -> bool:
    return machine.hypervisor.type == "XEN"
