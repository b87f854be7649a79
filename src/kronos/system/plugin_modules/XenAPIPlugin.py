"""What plugins import: the protocol between xapi and a program in its plugins' folder, from the program's side.

A plugin is `XenAPIPlugin.dispatch({"name": function})`; each function gets a session and a dictionary of strings, and
returns a string. What it raises becomes the call's error: a Failure as it is, anything else XENAPI_PLUGIN_FAILURE.
"""

from __future__ import annotations

import importlib
import sys
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Failure(Exception):
    """An error that the plugin's caller sees: a code, and parameters as strings."""

    def __init__(self, code: str, params: Sequence[str]) -> None:
        super().__init__(code, *params)
        self.params = [code, *params]

    def __str__(self) -> str:
        return str(self.params)


def success_message(result: str) -> str:
    """The document that says a result."""
    return xmlrpc.client.dumps(({"Status": "Success", "Value": result},), "", True)


def failure_message(description: Sequence[str]) -> str:
    """The document that says an error: its code, then its parameters."""
    return xmlrpc.client.dumps(({"Status": "Failure", "ErrorDescription": list(description)},), "", True)


def dispatch(fn_table: Mapping[str, Callable[[Any, dict[str, str]], str]]) -> None:
    """Call the function that xapi asks for, and print what comes of it."""
    if len(sys.argv) != 2:
        raise ValueError("a plugin is called with one argument, an XML-RPC call")
    (session_ref, args), name = xmlrpc.client.loads(sys.argv[1])
    function = fn_table.get(str(name))
    if function is None:
        print(failure_message(["UNKNOWN_XENAPI_PLUGIN_FUNCTION", str(name)]))
        return
    session = importlib.import_module("XenAPI").xapi_local()  # ours, beside this, or the administrator's
    session._session = session_ref
    try:
        # Plugins may answer anything that XML-RPC writes.
        print(success_message(function(session, args)))  # type: ignore[arg-type]
    except Failure as failure:
        print(failure_message(failure.params))
    except Exception as error:  # noqa: BLE001  # its caller is told, whatever it is
        print(failure_message(["XENAPI_PLUGIN_FAILURE", str(name), type(error).__name__, str(error)]))
