"""host: its logs, and where they go."""

from __future__ import annotations

from kronos.api.host.surroundings import asked_of_the_system
from kronos.datamodel.errors import Failure
from kronos.db.records import Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.hypervisor import xen_console
from kronos.system.host_logs import HostLogs, NoLogService, WrongDestination


@message("host.get_log")
def get_log(call: Call, host: str) -> str:
    """What this daemon has logged, as journald keeps it: the newest of it."""
    call.db.get(Host, host)
    with asked_of_the_system():
        return _hands(call).own()


@message("host.dmesg")
def dmesg(call: Call, host: str) -> str:
    """What the hypervisor has said: Xen's console, elsewhere the kernel's messages."""
    call.db.get(Host, host)
    with asked_of_the_system():
        return xen_console.messages() if _is_xen(call) else _hands(call).kernel()


@message("host.dmesg_clear")
def dmesg_clear(call: Call, host: str) -> str:
    """The same, forgotten with this answer."""
    call.db.get(Host, host)
    with asked_of_the_system():
        return xen_console.messages(clear=True) if _is_xen(call) else _hands(call).clear_kernel()


@message("host.send_debug_keys")
def send_debug_keys(call: Call, host: str, keys: str) -> None:
    """Press Xen's debug keys; what it answers is in host.dmesg.

    Raises INVALID_VALUE for what is not a row of keys, OPERATION_NOT_ALLOWED where there is no Xen.
    """
    call.db.get(Host, host)
    if not (keys.isascii() and keys.isprintable() and 0 < len(keys) <= 64) or keys.startswith("-"):
        raise Failure("INVALID_VALUE", "keys", keys[:80])
    if not _is_xen(call):
        raise Failure("OPERATION_NOT_ALLOWED", "Debug keys are Xen's, and this host does not run Xen")
    with asked_of_the_system():
        xen_console.press(keys)


@message("host.syslog_reconfigure")
def syslog_reconfigure(call: Call, host: str) -> None:
    """Send the host's log where host.logging's `syslog_destination` says, or nowhere.

    Raises INVALID_VALUE for a destination that is no host, OPERATION_NOT_ALLOWED without rsyslog.
    """
    destination = call.db.get(Host, host).logging.get("syslog_destination", "")
    with asked_of_the_system():
        try:
            _hands(call).forward(destination)
        except WrongDestination as wrong:
            raise Failure("INVALID_VALUE", "syslog_destination", destination[:255]) from wrong
        except NoLogService as missing:
            raise Failure("OPERATION_NOT_ALLOWED", str(missing)) from missing


def _is_xen(call: Call) -> bool:
    return call.machine.hypervisor.type == "XEN"


def _hands(call: Call) -> HostLogs:
    return HostLogs(call.machine.outside, call.machine.root)
