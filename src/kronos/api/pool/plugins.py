"""pool: programs of the administrators' on every host."""

from __future__ import annotations

from kronos.db.records import Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


@message("pool.has_extension")
def has_extension(call: Call, self: str, name: str) -> bool:
    """Whether every host of the pool serves a method of that name."""
    call.db.get(Pool, self)
    return all(call.invoke("host.has_extension", host.ref, name) for host in call.db.all(Host))
