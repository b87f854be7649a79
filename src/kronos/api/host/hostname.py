"""host: its own name."""

from __future__ import annotations

from kronos.api.host.surroundings import asked_of_the_system
from kronos.db.records import VM, Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules.hostname import control_domain_name, require_hostname


@message("host.set_hostname_live")
def set_hostname_live(call: Call, host: str, hostname: str) -> None:
    """Give the host itself another name, now and for good; its label stays. Raises HOST_NAME_INVALID."""
    row = call.db.get(Host, host)
    require_hostname(hostname)
    with asked_of_the_system():
        call.machine.outside.change(["hostnamectl", "set-hostname", hostname])
    with call.db.transaction():
        row.hostname = hostname
        domain = call.db.find(VM, row.control_domain)
        if domain is not None:
            domain.name_label = control_domain_name(domain.name_label, hostname)
