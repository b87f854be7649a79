"""What a system VM does for its host: VM.query_services."""

from __future__ import annotations

from kronos.db.records import VM
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules.surroundings import LIVE

PREFIX = "service/"
"""The keys that a system VM says on its channel, with the type of the service behind it."""


@message("VM.query_services", holds="query_services")
def query_services(call: Call, self: str) -> dict[str, str]:
    """The services that a running system VM says it has, by type; none of one that does not run.

    Raises NOT_SYSTEM_DOMAIN [vm].
    """
    row = call.db.get(VM, self)
    if row.power_state not in LIVE:
        return {}
    said = row.channel_data.items()
    return {key.removeprefix(PREFIX): value for key, value in said if key.startswith(PREFIX)}
