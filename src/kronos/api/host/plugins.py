"""host: programs of the administrator's that clients call. What runs them is loaded when the first is called."""

from __future__ import annotations

from kronos.db.records import Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


@message("host.call_plugin")
def call_plugin(call: Call, host: str, plugin: str, fn: str, args: dict[str, str]) -> str:
    """Call a function of a plugin of this host's, which may come back as its caller.

    Raises XENAPI_MISSING_PLUGIN, XENAPI_PLUGIN_FAILURE, and what the plugin says.
    """
    call.db.get(Host, host)
    from kronos.dispatch import extensions

    return extensions.call_plugin(call.machine, call.task, call.user.ref, plugin, fn, args)


@message("host.has_extension")
def has_extension(call: Call, host: str, name: str) -> bool:
    """Whether this host serves a method of that name by a program of its administrator's."""
    call.db.get(Host, host)
    from kronos.dispatch import extensions

    return extensions.has_extension(call.machine, name)


@message("host.call_extension")
def call_extension(call: Call, host: str, call_: str) -> str:
    """Call an extension; the call is JSON-RPC, and so is the answer's value where it is no text.

    Raises MESSAGE_METHOD_UNKNOWN, INTERNAL_ERROR, and what the extension says.
    """
    call.db.get(Host, host)
    from kronos.dispatch import extensions

    name, params = extensions.call_of_json(call_)
    answer = extensions.call_extension(call.machine, call.task, name, params)
    return answer.value if isinstance(answer.value, str) else answer.json().decode()
