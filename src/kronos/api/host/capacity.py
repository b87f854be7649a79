"""host: the room that it has for VMs."""

from __future__ import annotations

from kronos.db.records import Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules import memory


@message("host.compute_free_memory")
def compute_free_memory(call: Call, host: str) -> int:
    """Bytes of memory that a new VM could have now."""
    return memory.free(call.db, call.db.get(Host, host), memory.dynamic_min)


@message("host.compute_memory_overhead")
def compute_memory_overhead(call: Call, host: str) -> int:
    """Bytes of memory that virtualisation itself takes on the host."""
    return call.db.get(Host, host).memory_overhead
