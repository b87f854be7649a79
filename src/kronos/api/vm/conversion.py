"""VM.import_convert: a VM of another make of hypervisor, brought here by a conversion service.

The service is an appliance that a plugin of this host knows (`conversion`, function `main`, which answers its
address); it is asked for a job in XML-RPC and does all the work itself, as a client of this host's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from kronos.api.pool.certificates import trust
from kronos.datamodel.errors import Failure
from kronos.db.records import SR
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.dispatch.workers import only_waiting

SERVERS = {"default": 0, "XenServer": 0, "ESXServer": 1, "VirtualCenter": 2, "HyperVServer": 3}
_WANTED = ("hostname", "username", "password", "vm-name")
_CREATED, _QUEUED, _RUNNING = range(3)
_PAUSE = 1.0


@message("VM.import_convert")
def import_convert(
    call: Call, type: str, username: str, password: str, sr: str, remote_config: dict[str, str]
) -> None:
    """Have a conversion service bring a VM here, and wait until it has ended, well or not.

    Raises XENAPI_MISSING_PLUGIN [conversion] where there is no such service, INVALID_VALUE, INTERNAL_ERROR for one that
    does not answer, TASK_CANCELLED.
    """
    target = call.db.get(SR, sr)
    address = str(call.invoke("host.call_plugin", call.host.ref, "conversion", "main", {}))
    job = job_of(type, target.uuid, remote_config)
    credentials = {"Username": username, "Password": password}
    made = _ask(call, address, "job.create", credentials, job)
    woken = threading.Event()
    call.task.on_cancel(woken.set)
    while True:
        call.task.check()
        now = _ask(call, address, "job.get", credentials, str(made.get("Id", "")))
        if now.get("State") not in (_CREATED, _QUEUED, _RUNNING):
            return
        with only_waiting():
            woken.wait(_PAUSE)


def job_of(kind: str, sr: str, remote: Mapping[str, str]) -> dict[str, Any]:
    """What the service is asked to do. Raises INVALID_VALUE."""
    if kind not in SERVERS:
        raise Failure("INVALID_VALUE", kind)
    for name in _WANTED:
        if name not in remote:
            raise Failure("INVALID_VALUE", "remote_config", name)
    return {
        "Source": {
            "ServerType": SERVERS[kind],
            "Hostname": remote["hostname"],
            "Username": remote["username"],
            "Password": remote["password"],
        },
        "SourceVmUUID": "",
        "SourceVmName": remote["vm-name"],
        "ImportInfo": {"SRuuid": sr},
    }


def service(call: Call, address: str) -> Any:
    """The service, by XML-RPC over TLS; whom this pool trusts, it may be."""
    from xmlrpc.client import ServerProxy  # for this alone

    return ServerProxy(f"https://{address}/", context=trust(call.machine).client_context())


def _ask(call: Call, address: str, method: str, *arguments: object) -> dict[str, Any]:
    from xmlrpc.client import Error

    try:
        with only_waiting():
            untrusted = getattr(service(call, address), method)(*arguments)
    except (OSError, Error, ValueError) as error:
        raise Failure("INTERNAL_ERROR", f"The conversion service at {address}: {error}") from error
    if not isinstance(untrusted, dict):
        raise Failure("INTERNAL_ERROR", f"The conversion service at {address} answers {method} with no job")
    return untrusted
