"""VMs and appliances brought back from a database that was kept on a disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kronos.commands.errors import CommandError
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import API


@contextmanager
def _saved(invocation: Invocation) -> Iterator[API]:
    """XenAPI as the database on the disk of `database:vdi-uuid=` has it."""
    uuid = invocation.arguments.mapping("database").get("vdi-uuid")
    if uuid is None:
        raise CommandError(
            "A parameter of the form 'database:vdi-uuid=<uuid>' must be specified to run this command."
        )
    api = invocation.api
    other = api.using(api("VDI.open_database", api("VDI.get_by_uuid", uuid)))
    try:
        yield other
    finally:
        other("session.logout")


@command("vm-recover", "appliance-recover")
def recover(invocation: Invocation) -> None:
    api_class = _class(invocation)
    with _saved(invocation) as saved:
        ref = saved(f"{api_class}.get_by_uuid", invocation.arguments["uuid"])
        saved(f"{api_class}.recover", ref, invocation.api.session, invocation.arguments.flag("force"))


@command("vm-assert-can-be-recovered", "appliance-assert-can-be-recovered")
def assert_can_be_recovered(invocation: Invocation) -> None:
    api_class = _class(invocation)
    with _saved(invocation) as saved:
        ref = saved(f"{api_class}.get_by_uuid", invocation.arguments["uuid"])
        saved(f"{api_class}.assert_can_be_recovered", ref, invocation.api.session)


def _class(invocation: Invocation) -> str:
    return "VM" if invocation.facts.name.startswith("vm-") else "VM_appliance"
