"""The serial console of a VM, in the user's own terminal."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from kronos.commands import selectors
from kronos.commands.errors import CommandError, Leave
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import NULL
from kronos.commands.records import Row


@command("console")
def console(invocation: Invocation) -> None:
    selected = selectors.vms(invocation, control_domains=True)
    if len(selected) != 1:
        _leave(
            invocation,
            "Multiple VMs found: please narrow your request to one VM." if selected else "No VM found",
        )
    vm = selected[0]
    serial = next((row for row in _consoles(invocation, vm) if row["protocol"] == "vt100"), None)
    if serial is None:
        _leave(invocation, "No text console available")
        return
    invocation.terminal.print(f"Connecting to console on VM {vm['name_label']}. Press Ctrl + ']' to quit.")
    if not invocation.terminal.connect(_address(invocation, vm, serial["location"])):
        raise CommandError("The console could not be opened")


def _consoles(invocation: Invocation, vm: Row) -> list[Row]:
    return [invocation.records.row("console", ref) for ref in vm["consoles"]]


def _leave(invocation: Invocation, text: str) -> None:
    invocation.terminal.print_error(f"{text}\n")
    raise Leave(1)


def _address(invocation: Invocation, vm: Row, location: str) -> str:
    """Where the console is: on the host spoken to already, a path is enough."""
    host = vm["resident_on"]
    if host in (NULL, invocation.this_host()):
        parts = urlsplit(location)
        location = f"{parts.path}?{parts.query}"
    return f"{location}{'&' if '?' in location else '?'}session_id={quote(invocation.api.session)}"
