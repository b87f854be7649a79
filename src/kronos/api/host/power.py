"""host: whether it takes VMs, and its own power."""

from __future__ import annotations

from collections.abc import Callable

from kronos.datamodel.errors import Failure
from kronos.db.records import Host, Host_metrics, Secret
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.system import hardware
from kronos.system.local_keys import LocalKeys
from kronos.system.power import NotTheService

AUTO_ENABLE = "host_auto_enable"
"""Local key: false for a host that an administrator disabled for good."""
UNTIL_REBOOT = "host_disabled_until_reboot"
"""Local key: the boot that a host was prepared to end; it takes no VMs until that is over."""
_PASSWORDS = "password_secret"  # the end of keys, not a password


def enabled_after_start(keys: LocalKeys) -> bool:
    """Whether a host whose daemon starts takes VMs."""
    return keys.get(UNTIL_REBOOT) != hardware.boot_id() and keys.get(AUTO_ENABLE) != "false"


@message("host.disable")
def disable(call: Call, host: str, auto_enable: bool) -> None:
    """Start no more VMs on this host; those that run go on. With `auto_enable` it takes VMs again after the next start
    of the daemon or the machine, without it only after host.enable."""
    row = call.db.get(Host, host)
    if row.enabled:
        if not auto_enable:
            call.machine.keys.put(AUTO_ENABLE, "false")
        row.enabled = False


@message("host.enable", holds="enable")
def enable(call: Call, host: str) -> None:
    """Take VMs again. Raises HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY [host] while updates want it to go down first,
    HOST_DISABLED_UNTIL_REBOOT [host] once it has been prepared for that."""
    row = call.db.get(Host, host)
    if not row.enabled:
        if row.pending_guidances:
            raise Failure("HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", host)
        if call.machine.keys.get(UNTIL_REBOOT) == hardware.boot_id():
            raise Failure("HOST_DISABLED_UNTIL_REBOOT", host)
        call.machine.keys.put(AUTO_ENABLE, "")
        row.enabled = True


@message("host.shutdown", holds="shutdown")
def shutdown(call: Call, host: str) -> None:
    """Switch this machine off, once its VMs are put away. Raises HOST_NOT_DISABLED, OPERATION_NOT_ALLOWED."""
    _down(call, host, "shutdown", "Host is shutting down", call.machine.power.power_off)


@message("host.reboot", holds="reboot")
def reboot(call: Call, host: str) -> None:
    """Reboot this machine, once its VMs are put away. Raises HOST_NOT_DISABLED, OPERATION_NOT_ALLOWED."""
    _down(call, host, "reboot", "Host is rebooting", call.machine.power.reboot)


def _down(call: Call, host: str, operation: str, label: str, act: Callable[[], None]) -> None:
    """Begin it, and show until the end that it is under way: what does not go with it is refused."""
    row = call.db.get(Host, host)
    by_systemd(act)
    shown = call.pipeline.tasks.make(label, label, call.user.ref, host)
    with call.db.transaction():
        row.current_operations = row.current_operations | {shown.ref: operation}


def by_systemd(act: Callable[[], None]) -> None:
    """Do something to this machine or daemon. Raises OPERATION_NOT_ALLOWED [why] where this is not the service."""
    try:
        act()
    except NotTheService as refused:
        raise Failure("OPERATION_NOT_ALLOWED", str(refused)) from refused


@message("host.power_on", holds="power_on")
def power_on(call: Call, host: str) -> None:
    """Switch on another host of the pool that is down: by a plugin that no host has by itself.

    Raises HOST_IS_LIVE [host], HOST_POWER_ON_MODE_DISABLED, XENAPI_MISSING_PLUGIN [name].
    """
    raise Failure("XENAPI_MISSING_PLUGIN", "power-on-host")


@message("host.set_power_on_mode")
def set_power_on_mode(call: Call, self: str, power_on_mode: str, power_on_config: dict[str, str]) -> None:
    """How this host can be switched on by others. Secrets that only its former configuration named go."""
    row = call.db.get(Host, self)
    before = row.power_on_config
    with call.db.transaction():
        call.db.write(row, {"power_on_mode": power_on_mode, "power_on_config": power_on_config})
        for key, uuid in before.items():
            if key.endswith(_PASSWORDS) and uuid not in power_on_config.values():
                _forget_secret(call, uuid)


def _forget_secret(call: Call, uuid: str) -> None:
    ref = call.db.tables["secret"].by_uuid(uuid)
    secret = call.db.find(Secret, ref) if ref is not None else None
    if secret is not None:
        call.db.delete(secret)


@message("host.declare_dead")
def declare_dead(call: Call, host: str) -> None:
    """Write down that the VMs of a host that is down for good are Halted. Raises HOST_IS_LIVE [host]."""
    row = _lost(call, host)
    for ref in tuple(row.resident_VMs):
        if ref != row.control_domain:
            call.invoke("VM.power_state_reset", ref)
    row.enabled = False


def _lost(call: Call, host: str) -> Host:
    """A host that is down; this one is not, or it could not be asked."""
    row = call.db.get(Host, host)
    metrics = call.db.find(Host_metrics, row.metrics)
    if host == call.machine.host_ref or (metrics is not None and metrics.live):
        raise Failure("HOST_IS_LIVE", host)
    return row
