"""Plugins and extensions: programs of the administrator's that answer calls, in XML-RPC over their pipes.

A plugin gets one argument, a methodCall of its function with the session and a struct of strings. An extension serves
a method of its own name: it gets the call on its standard input. Both print a methodResponse.
"""

from __future__ import annotations

import json
import logging
import xmlrpc.client as rpc
from pathlib import Path
from typing import Any, Final
from xml.parsers.expat import ExpatError

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import Type, escape
from kronos.dispatch.answer import Answer
from kronos.dispatch.machine import Machine
from kronos.dispatch.task import Task
from kronos.dispatch.workers import only_waiting
from kronos.system import programs

log = logging.getLogger(__name__)

PLUGINS: Final = Path("etc/xapi.d/plugins")
EXTENSIONS: Final = Path("etc/xapi.d/extensions")
_SHOWN: Final = 4096
"""Letters of a program's output in an error."""


class _AnyType(Type):
    """What an extension answers: whatever XML-RPC can say."""

    def xml(self, value: Any) -> str:
        match value:
            case bool():
                return f"<value><boolean>{value:d}</boolean></value>"
            case int():
                return f"<value>{value}</value>"  # XenAPI's integers are text
            case float():
                return f"<value><double>{value!r}</double></value>"
            case dict():
                members = "".join(
                    f"<member><name>{escape(str(key))}</name>{self.xml(item)}</member>"
                    for key, item in value.items()
                )
                return f"<value><struct>{members}</struct></value>"
            case list() | tuple():
                items = "".join(self.xml(item) for item in value)
                return f"<value><array><data>{items}</data></array></value>"
            case rpc.DateTime():
                return f"<value><dateTime.iso8601>{escape(value.value)}</dateTime.iso8601></value>"
        text = "" if value is None else str(value)
        return f"<value>{escape(text)}</value>" if text else "<value/>"


_ANY: Final = _AnyType("any")


def has_extension(machine: Machine, name: str) -> bool:
    """Whether an extension of that name may be called."""
    try:
        programs.find(machine.root / EXTENSIONS, name)
    except (programs.NotFound, programs.NotTrusted):
        return False
    return True


def call_plugin(
    machine: Machine, task: Task, session: str, name: str, function: str, args: dict[str, str]
) -> str:
    """What a function of a plugin answers.

    Raises XENAPI_MISSING_PLUGIN [name], XENAPI_PLUGIN_FAILURE [what, output, errors], TASK_CANCELLED, and what the
    plugin itself says that it failed with.
    """
    try:
        path = programs.find(machine.root / PLUGINS, name)
    except programs.NotFound as missing:
        raise Failure("XENAPI_MISSING_PLUGIN", name) from missing
    except programs.NotTrusted as refused:
        raise Failure("XENAPI_PLUGIN_FAILURE", "not run", "", str(refused)) from refused
    argument = rpc.dumps((session, args), function, encoding="utf-8")
    try:
        outcome = _run(machine, task, [str(path), argument], b"")
    except OSError as error:
        raise Failure("XENAPI_PLUGIN_FAILURE", "not run", "", str(error)) from error
    if outcome.ending:
        raise Failure("XENAPI_PLUGIN_FAILURE", outcome.ending, *_said(outcome))
    try:
        value = _value(outcome.output)
    except rpc.Fault as fault:
        raise Failure("XENAPI_PLUGIN_FAILURE", "fault", str(fault.faultCode), fault.faultString) from fault
    except _Unreadable as error:
        said, _ = _said(outcome)
        raise Failure("XENAPI_PLUGIN_FAILURE", "failed to parse plugin output", said, str(error)) from error
    if not isinstance(value, str):
        raise Failure("XENAPI_PLUGIN_FAILURE", "unexpected XMLRPC result", *_said(outcome))
    return value


def call_extension(machine: Machine, task: Task, name: str, params: list[Any]) -> Answer:
    """What an extension answers to a call of its method.

    Raises MESSAGE_METHOD_UNKNOWN [name], INTERNAL_ERROR [path, what, output, errors], TASK_CANCELLED, and what the
    extension itself says that it failed with.
    """
    try:
        path = programs.find(machine.root / EXTENSIONS, name)
    except programs.NotFound as missing:
        raise Failure("MESSAGE_METHOD_UNKNOWN", name) from missing
    except programs.NotTrusted as refused:
        log.error("An extension is not run: %s", refused)
        raise Failure("MESSAGE_METHOD_UNKNOWN", name) from refused
    request = rpc.dumps(tuple(params), name, encoding="utf-8", allow_none=True).encode()
    try:
        outcome = _run(machine, task, [str(path), "--xmlrpc"], request)
    except OSError as error:
        raise Failure("INTERNAL_ERROR", str(path), "not run", "", str(error)) from error
    if outcome.ending:
        raise Failure("INTERNAL_ERROR", str(path), outcome.ending, *_said(outcome))
    try:
        return Answer(_ANY, _value(outcome.output))
    except (_Unreadable, rpc.Fault) as error:
        said, _ = _said(outcome)
        raise Failure(
            "INTERNAL_ERROR", str(path), "failed to parse extension output", said, str(error)
        ) from error


def call_of_json(text: str) -> tuple[str, list[Any]]:
    """Method and parameters of a JSON-RPC call. Raises INTERNAL_ERROR."""
    try:
        call = json.loads(text)
        name, params = call["method"], call.get("params", [])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Failure("INTERNAL_ERROR", f"not a JSON-RPC call: {error}") from error
    if not isinstance(name, str) or not isinstance(params, list):
        raise Failure("INTERNAL_ERROR", "not a JSON-RPC call")
    return name, params


def _run(machine: Machine, task: Task, argv: list[str], stdin: bytes) -> programs.Outcome:
    with only_waiting():
        environment = {"PYTHONPATH": str(programs.MODULES), "XAPI_SOCKET": str(machine.socket)}
        outcome = programs.run(
            machine.outside, argv, stdin=stdin, environment=environment, on_start=task.on_cancel
        )
    task.check()
    return outcome


def _said(outcome: programs.Outcome) -> tuple[str, str]:
    return outcome.output[:_SHOWN], outcome.errors[-_SHOWN:]


class _Unreadable(Exception):
    """A program printed what is no answer of XenAPI's."""


def _value(output: str) -> Any:
    """The value of a printed answer. Raises Failure as the program says it, rpc.Fault, _Unreadable."""
    if "<!DOCTYPE" in output[:_SHOWN]:
        raise _Unreadable("a document type declaration is not allowed")
    try:
        (answer,), _ = rpc.loads(output, use_builtin_types=False)
    except (ExpatError, ValueError, TypeError, LookupError, rpc.ResponseError) as error:
        raise _Unreadable(f"{type(error).__name__}: {error}") from error
    if not isinstance(answer, dict) or "Status" not in answer:
        raise _Unreadable("the answer has no Status")
    if answer["Status"] == "Success" and "Value" in answer:
        return answer["Value"]
    description = answer.get("ErrorDescription")
    if (
        not isinstance(description, list)
        or not description
        or not all(isinstance(e, str) for e in description)
    ):
        raise _Unreadable("the answer has neither Value nor ErrorDescription")
    raise Failure(*description)
