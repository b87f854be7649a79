"""pool: who may come in beside XenAPI's clients, on every host."""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.db.records import Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

_NO_TIMEOUT = "SET_CONSOLE_TIMEOUT_PARTIALLY_FAILED"


def _on_all(call: Call, pool: str, error: str, name: str, *arguments: object) -> None:
    """Make a call of every host. Raises `error` [hosts] after the last, with those where it failed."""
    call.db.get(Pool, pool)
    failed, refusals = [], []
    for host in call.db.all(Host):
        try:
            call.invoke(name, host.ref, *arguments)
        except Failure as failure:
            failed.append(host.ref)
            refusals.append(failure)
    if refusals and refusals[0].code == "INVALID_VALUE":  # it is the same everywhere, and says more
        raise refusals[0]
    if failed:
        raise Failure(error, *failed)


@message("pool.enable_ssh")
def enable_ssh(call: Call, self: str) -> None:
    """Start ssh on every host. Raises ENABLE_SSH_PARTIALLY_FAILED [hosts]."""
    _on_all(call, self, "ENABLE_SSH_PARTIALLY_FAILED", "host.enable_ssh")


@message("pool.disable_ssh")
def disable_ssh(call: Call, self: str) -> None:
    """Stop ssh on every host. Raises DISABLE_SSH_PARTIALLY_FAILED [hosts]."""
    _on_all(call, self, "DISABLE_SSH_PARTIALLY_FAILED", "host.disable_ssh")


@message("pool.set_ssh_enabled_timeout")
def set_ssh_enabled_timeout(call: Call, self: str, value: int) -> None:
    """host.set_ssh_enabled_timeout on every host. Raises SET_SSH_TIMEOUT_PARTIALLY_FAILED [hosts], INVALID_VALUE."""
    _on_all(call, self, "SET_SSH_TIMEOUT_PARTIALLY_FAILED", "host.set_ssh_enabled_timeout", value)


@message("pool.set_ssh_auto_mode")
def set_ssh_auto_mode(call: Call, self: str, value: bool) -> None:
    """host.set_ssh_auto_mode on every host. Raises SET_SSH_AUTO_MODE_PARTIALLY_FAILED [hosts]."""
    _on_all(call, self, "SET_SSH_AUTO_MODE_PARTIALLY_FAILED", "host.set_ssh_auto_mode", value)


@message("pool.set_console_idle_timeout")
def set_console_idle_timeout(call: Call, self: str, value: int) -> None:
    """host.set_console_idle_timeout on every host. Raises SET_CONSOLE_TIMEOUT_PARTIALLY_FAILED [hosts]."""
    _on_all(call, self, _NO_TIMEOUT, "host.set_console_idle_timeout", value)


@message("pool.set_https_only")
def set_https_only(call: Call, self: str, value: bool) -> None:
    """Close port 80 of every host to clients, or open it again."""
    call.db.get(Pool, self)
    for host in call.db.all(Host):
        call.invoke("host.set_https_only", host.ref, value)


@message("pool.disable_ssl_legacy")
def disable_ssl_legacy(call: Call, self: str) -> None:
    """Nothing to do: no old protocol is spoken."""
    call.db.get(Pool, self)
