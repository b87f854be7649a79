"""The administrator's own program that hears of external authentication: the plugin `extauth-hook`, where there is one.

It adapts what else of the host asks the directory, such as ssh. Its functions are named after what happened.
"""

from __future__ import annotations

import logging

from kronos.datamodel.errors import Failure
from kronos.db.records import Host
from kronos.dispatch.call import Call

log = logging.getLogger(__name__)

NAME = "extauth-hook"


def tell(call: Call, event: str) -> None:
    """Call its function `event` when there is time; what comes of it is logged."""
    if _is_there(call):
        call.pipeline.task_workers.submit(_tell, call, event)


def tell_now(call: Call, event: str) -> None:
    """Call its function `event` and wait for its end; what comes of it is logged."""
    if _is_there(call):
        _tell(call, event)


def _is_there(call: Call) -> bool:
    # Loaded when a subject changes, not with the daemon.
    from kronos.dispatch.extensions import PLUGINS
    from kronos.system import programs

    try:
        programs.find(call.machine.root / PLUGINS, NAME)
    except programs.NotFound:
        return False
    except programs.NotTrusted as refused:
        log.error("%s is not called: %s", NAME, refused)
        return False
    return True


def _tell(call: Call, event: str) -> None:
    host = call.db.get(Host, call.machine.host_ref)
    arguments = {"auth_type": host.external_auth_type, "service_name": host.external_auth_service_name}
    try:
        call.pipeline.perform_internal("host.call_plugin", host.ref, NAME, event, arguments)
    except Failure as failure:
        log.error("%s %s: %s", NAME, event, failure)
