"""The VMs, hosts and SRs that a command acts on: `vm=` with a name or uuid, and any field as a filter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

from kronos.commands import facts, filters, naming
from kronos.commands.errors import CommandError, SomeFailed, describe
from kronos.commands.invocation import Invocation
from kronos.commands.records import Row
from kronos.datamodel.errors import Failure

T = TypeVar("T")
Act = Callable[[Row], T]


def vms(
    invocation: Invocation,
    *ignoring: str,
    control_domains: bool = False,
    templates: bool = False,
) -> list[Row]:
    """The VMs that the command line selects: all that fit, and all there are if it says nothing.

    `ignoring` are parameters of the command itself. Control domains and templates only count where asked for.
    """
    kept = []
    if not templates:
        kept.append(("is-a-template", "false"))
    if not control_domains:
        kept.append(("is-control-domain", "false"))
    return _select(invocation, "vm", ("uuid", "name-label"), kept, ignoring)


def hosts(invocation: Invocation, *ignoring: str) -> list[Row]:
    """The hosts that the command line selects."""
    return _select(invocation, "host", ("uuid", "hostname", "name-label"), [], ignoring)


def srs(invocation: Invocation, *ignoring: str) -> list[Row]:
    """The storage repositories that the command line selects."""
    return _select(invocation, "sr", ("uuid", "name-label"), [], ignoring)


def for_vms(
    invocation: Invocation,
    act: Act[T],
    *ignoring: str,
    control_domains: bool = False,
    templates: bool = False,
    several: bool = True,
) -> list[T]:
    """Do `act` to each selected VM, and show what the VMs have to tell meanwhile.

    Raises CommandError where none fits, or several without --multiple; SomeFailed.
    """
    selected = vms(invocation, *ignoring, control_domains=control_domains, templates=templates)
    return _for_each(invocation, selected, lambda vm: _with_messages(invocation, act, vm), "VMs", several)


def for_hosts(invocation: Invocation, act: Act[T], *ignoring: str, several: bool = True) -> list[T]:
    """Do `act` to each selected host. Raises CommandError, SomeFailed."""
    return _for_each(invocation, hosts(invocation, *ignoring), act, "hosts", several)


def for_srs(invocation: Invocation, act: Act[T], *ignoring: str, several: bool = True) -> list[T]:
    """Do `act` to each selected SR. Raises CommandError, SomeFailed."""
    return _for_each(invocation, srs(invocation, *ignoring), act, "SRs", several)


def host_named(invocation: Invocation, name: str) -> Row:
    """The host with this uuid or name. Raises CommandError."""
    for host in invocation.records.rows("host"):
        if name in (host["name_label"], host["uuid"]):
            return host
    raise CommandError(f"Host {name} not found")


def _select(
    invocation: Invocation,
    cls: str,
    identities: Iterable[str],
    kept: list[tuple[str, str]],
    ignoring: tuple[str, ...],
) -> list[Row]:
    about = facts.classes()[cls]
    wanted = [*kept, *invocation.arguments.filters(*ignoring)]
    if cls not in invocation.arguments:
        return filters.select(invocation.records, about, wanted)
    named = invocation.arguments[cls]
    wanted = [(name, value) for name, value in wanted if name != cls]
    columns = [name.replace("-", "_") for name in identities]
    rows = invocation.records.rows(about.api_class)
    found = [row for row in rows if named in [row[column] for column in columns]]
    return filters.apply(about.fields, found, wanted)


def _for_each(
    invocation: Invocation, selected: list[Row], act: Act[T], things: str, several: bool
) -> list[T]:
    if not selected:
        raise CommandError(f"No matching {things} found")
    if len(selected) == 1:
        return [act(selected[0])]
    found = f"Multiple {'matches' if things == 'VMs' else 'matching'} {things} found."  # as scripts know it
    if not several:
        one = things.removesuffix("s")
        raise CommandError(f"{found} Operation can only be performed on one {one} at a time")
    if not invocation.arguments.flag("multiple"):
        raise CommandError(f"{found} --multiple required to complete the operation")
    return _each(invocation, selected, act)


def _each(invocation: Invocation, selected: list[Row], act: Act[T]) -> list[T]:
    """Act on all, and only then report the failures, so that one bad VM does not spare the rest."""
    done: list[T] = []
    failures: list[tuple[str, str]] = []
    for row in selected:
        try:
            done.append(act(row))
        except Failure as failure:
            failures.append((row["uuid"], _words(invocation, failure)))
        except CommandError as error:
            failures.append((row["uuid"], str(error)))
    if failures:
        raise SomeFailed(failures)
    return done


def _words(invocation: Invocation, failure: Failure) -> str:
    found = describe(failure.code, failure.params, naming.namer(invocation.records))
    if found is None:
        return f"{failure.code}: [ {'; '.join(failure.params)} ]"
    sentence, lines = found
    return "\n".join([sentence, *lines])


def _with_messages(invocation: Invocation, act: Act[T], vm: Row) -> T:
    """Act, then show the messages that the VM got meanwhile, the urgent ones."""
    since = _now()
    result = act(vm)
    limit = invocation.arguments.number("message-priority", 5)
    try:
        found = invocation.api("message.get", "VM", vm["uuid"], since)
    except Failure:
        return result
    for message in found.values():
        if message["priority"] < limit:
            invocation.printer.remark(
                f"Message: time={message['timestamp']} priority={message['priority']}"
                f" name='{message['name']}'\n"
            )
    return result


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H:%M:%SZ")
