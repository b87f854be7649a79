"""The wire without a wire: calls to bytes and bytes to results, for the blocking session and for asyncio's alike."""

from __future__ import annotations

import itertools
import json
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any
from xml.parsers.expat import ExpatError

from kronos_client.errors import Failure, Malformed
from kronos_client.messages import MESSAGES, VOID, WITHOUT_SESSION

PATH = "/jsonrpc"
HEADERS = {"Content-Type": "application/json"}
API_VERSION = "2.21"
CONNECTING = 30.0
"""Seconds for a connection to be made."""

_ids = itertools.count(1)


def arguments(cls: str, message: str, given: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """The arguments of a message in their order. Raises TypeError where they do not fit it."""
    names = MESSAGES[cls][message]
    if len(given) > len(names):
        raise TypeError(
            f"{cls}.{message} takes {len(names)} arguments ({', '.join(names)}), not {len(given)}"
        )
    # As in the stubs, a name that Python keeps for itself has an underscore after it: class_.
    rest = {name[:-1] if iskeyword(name[:-1]) else name: value for name, value in named.items()}
    found = list(given)
    for name in names[len(given) :]:
        if name not in rest:
            break
        found.append(rest.pop(name))
    if rest:
        raise TypeError(f"{cls}.{message} cannot take {', '.join(rest)} here; it takes {', '.join(names)}")
    return found


def takes_session(cls: str, message: str) -> bool:
    return f"{cls}.{message}" not in WITHOUT_SESSION


def answered(cls: str, message: str, value: Any) -> Any:
    """What a caller is given for what came over the wire, where nothing is an empty string."""
    return None if f"{cls}.{message}" in VOID else value


def repeatable(message: str) -> bool:
    """Whether a call that was perhaps carried out may be made again: those that only read."""
    return message.rpartition(".")[2].startswith("get_") or message == "event.from"


def request(method: str, args: Sequence[Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": list(args)}).encode()


def result(status: int, untrusted_body: bytes) -> Any:
    """What a call answered. Raises Failure where it was refused, Malformed where this is no answer."""
    try:
        reply = json.loads(untrusted_body)
    except ValueError as why:
        raise Malformed(f"HTTP {status}, and no JSON") from why
    if not isinstance(reply, dict):
        raise Malformed(f"HTTP {status}, and JSON that is no reply")
    error = reply.get("error")
    if error is None:
        if "result" not in reply:
            raise Malformed(f"HTTP {status}, and neither a result nor an error")
        return reply["result"]
    if not isinstance(error, dict):
        raise Malformed(f"HTTP {status}, and an error of another protocol")
    data = error.get("data")
    raise Failure(str(error.get("message", "")), *(map(str, data) if isinstance(data, list) else ()))


def task_result(status: str, untrusted_text: str, error_info: Sequence[str]) -> Any:
    """What a task that has ended answered. Its text is XML, as XenAPI has it, or plain where it is no message's.

    Raises Failure as the message would have.
    """
    if status == "success":
        return _value(untrusted_text)
    if status == "cancelled" and not error_info:
        raise Failure("TASK_CANCELLED")
    raise Failure(*error_info) if error_info else Failure("INTERNAL_ERROR", f"a task is {status}")


def _value(untrusted_text: str) -> Any:
    if not untrusted_text.startswith("<value>"):
        return untrusted_text or None
    document = f"<params><param>{untrusted_text}</param></params>"
    try:
        (value,), _ = xmlrpc.client.loads(document)  # expat bounds the entities that it expands
    except (ExpatError, ValueError, xmlrpc.client.Error) as error:
        raise Malformed("a task's result cannot be read") from error
    return value


@dataclass(frozen=True, slots=True)
class Address:
    """Where a host listens: a URL, and the Unix socket where it is one."""

    url: str
    socket: str | None = None


def address(text: str) -> Address:
    """Of what a person would write: `host`, `https://host:port`, or the path of a Unix socket."""
    if text.startswith("/"):
        return Address("http://localhost", text)
    url = text if "://" in text else f"https://{text}"
    return Address(url.rstrip("/"))


def master(failure: Failure, url: str) -> str | None:
    """Where the pool's master is, as a host said that is not it; None where the failure is another."""
    if failure.code != "HOST_IS_SLAVE" or not failure.params:
        return None
    host = failure.params[0]
    return f"{url.partition('://')[0]}://{f'[{host}]' if ':' in host else host}"


def options(address: Address, verify: Any) -> dict[str, Any]:
    """What httpx's client is made with, be it for asyncio or not."""
    return {"base_url": address.url, "verify": verify, "headers": HEADERS, "trust_env": False}
