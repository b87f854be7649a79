"""host: who may come in beside XenAPI's clients, and how XenAPI itself is reached."""

from __future__ import annotations

import logging
import time

from kronos.api.host.surroundings import asked_of_the_system
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import at, now, seconds_of
from kronos.db.database import Database
from kronos.db.records import Host
from kronos.dispatch.appointments import Appointments
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.system.commands import CommandFailed
from kronos.system.outside import NoOutside
from kronos.system.remote_shell import NoRemoteShell, RemoteShell

log = logging.getLogger(__name__)

LONGEST = 2 * 24 * 3600
"""Seconds that ssh may be opened for."""
_EPOCH = at(0)
_appointments = Appointments("ssh", hands=1)


@message("host.enable_ssh")
def enable_ssh(call: Call, self: str) -> None:
    """Start ssh, now and at each boot; with ssh_enabled_timeout, for that long. Ends the automatic mode."""
    row = call.db.get(Host, self)
    with asked_of_the_system():
        _hands(call.machine).open()
    call.db.write(row, {"ssh_enabled": True, "ssh_auto_mode": False})
    _keep_open(call.db, call.machine, row, row.ssh_enabled_timeout)


@message("host.disable_ssh")
def disable_ssh(call: Call, self: str) -> None:
    """Stop ssh, now and at each boot; who is logged in stays."""
    row = call.db.get(Host, self)
    with asked_of_the_system():
        _hands(call.machine).close()
    call.db.write(row, {"ssh_enabled": False, "ssh_expiry": now()})


@message("host.set_ssh_enabled_timeout")
def set_ssh_enabled_timeout(call: Call, self: str, value: int) -> None:
    """How many seconds ssh stays open once it is enabled, two days at most; 0 is for good. Raises INVALID_VALUE."""
    row = call.db.get(Host, self)
    if not 0 <= value <= LONGEST:
        raise Failure("INVALID_VALUE", "ssh_enabled_timeout", str(value))
    row.ssh_enabled_timeout = value
    if row.ssh_enabled:
        _keep_open(call.db, call.machine, row, value)


@message("host.set_ssh_auto_mode")
def set_ssh_auto_mode(call: Call, self: str, value: bool) -> None:
    """Leave ssh closed while XenAPI serves. Raises VALUE_NOT_SUPPORTED: nothing here watches the daemon from outside
    and would open it when that fails."""
    row = call.db.get(Host, self)
    if value:
        reason = "This host has no monitor that would open ssh when xapi fails"
        raise Failure("VALUE_NOT_SUPPORTED", "value", "true", reason)
    row.ssh_auto_mode = False


def _keep_open(db: Database, machine: Machine, row: Host, seconds: int) -> None:
    """Note when ssh is to be closed again, and have it closed then."""
    if not seconds:
        row.ssh_expiry = _EPOCH
        return
    row.ssh_expiry = at(time.time() + seconds)
    _appointments.make(seconds, _expire, db, machine, row, row.ssh_expiry)


def _expire(db: Database, machine: Machine, row: Host, expiry: str) -> None:
    """Close ssh, unless its time was set anew since."""
    if row.ssh_enabled and row.ssh_expiry == expiry:
        _hands(machine).close()
        db.write(row, {"ssh_enabled": False})


def resume(db: Database, machine: Machine) -> None:
    """After a start of the daemon: see whether ssh is open, and close it when its time comes, or has passed."""
    row = db.get(Host, machine.host_ref)
    if not isinstance(machine.outside, NoOutside):  # only the service speaks for its host
        try:
            row.ssh_enabled = _hands(machine).is_open()
        except (NoRemoteShell, CommandFailed) as unknown:
            log.debug("ssh stays as it is recorded: %s", unknown)
    if row.ssh_enabled and row.ssh_expiry != _EPOCH:
        left = max(0.0, seconds_of(row.ssh_expiry) - time.time())
        _appointments.make(left, _expire, db, machine, row, row.ssh_expiry)


@message("host.set_console_idle_timeout")
def set_console_idle_timeout(call: Call, self: str, value: int) -> None:
    """End shells of the host that nobody types in for so many seconds; 0 is never. Raises INVALID_VALUE."""
    row = call.db.get(Host, self)
    if value < 0:
        raise Failure("INVALID_VALUE", "console_timeout", str(value))
    with asked_of_the_system():
        _hands(call.machine).set_idle_timeout(value)
    row.console_idle_timeout = value


@message("host.set_https_only")
def set_https_only(call: Call, self: str, value: bool) -> None:
    """Close port 80 to clients, or open it again; connections that are there go on."""
    row = call.db.get(Host, self)
    if call.machine.doors is not None:
        call.machine.doors.allow_plain(not value)
    row.https_only = value


@message("host.set_ssl_legacy")
def set_ssl_legacy(call: Call, self: str, value: bool) -> None:
    """Old TLS versions stay off. Raises VALUE_NOT_SUPPORTED for true."""
    call.db.get(Host, self)
    if value:
        raise Failure("VALUE_NOT_SUPPORTED", "value", "true", "Legacy SSL support has been removed")


def _hands(machine: Machine) -> RemoteShell:
    return RemoteShell(machine.outside, machine.root)
