"""What several commands tell: why no host can run a VM, and which fields of a record to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kronos.commands import errors, naming
from kronos.commands.invocation import Invocation
from kronos.commands.records import Row
from kronos.datamodel.errors import Failure


def names(invocation: Invocation, parameter: str, usual: Sequence[str]) -> Sequence[str]:
    """The fields that `parameter` names, or the usual ones; none means all."""
    if parameter not in invocation.arguments:
        return usual
    given = invocation.arguments[parameter]
    return () if given == "all" else given.split(",")


@contextmanager
def unsuitable_hosts(invocation: Invocation, vm: Row) -> Iterator[None]:
    """Where no host can run the VM, say of each one why before the failure itself is shown."""
    try:
        yield
    except Failure as failure:
        if failure.code == "NO_HOSTS_AVAILABLE":
            invocation.printer.lines(
                [
                    "There are no suitable hosts to start this VM on.",
                    "The following table provides per-host reasons for why the VM could not be started:",
                    "",
                ]
            )
            boot_report(invocation, vm)
        raise


def boot_report(invocation: Invocation, vm: Row) -> None:
    """A line a host: whether the VM can start there, and why not."""
    table = []
    for host in invocation.records.rows("host"):
        try:
            invocation.api("VM.assert_can_boot_here", vm.ref, host.ref)
            table.append((host["name_label"], "OK"))
        except Failure as failure:
            table.append((host["name_label"], f"Cannot start here [{reason(invocation, failure)}]"))
    invocation.printer.record(table)


def reason(invocation: Invocation, failure: Failure) -> str:
    """A failure on one line."""
    named = naming.namer(invocation.records)
    params = failure.params
    match failure.code:
        case "VM_REQUIRES_SR" if len(params) > 1:
            return f"VM requires access to SR: {named(params[1])}"
        case "VM_REQUIRES_NETWORK" if len(params) > 1:
            return f"VM requires access to network: {named(params[1])}"
        case "HOST_CANNOT_ATTACH_NETWORK" if len(params) > 1:
            return f"Host cannot attach to network: {named(params[1])}"
        case "HOST_DISABLED":
            return "Host disabled (use 'xe host-enable' to re-enable)"
        case "HOST_NOT_LIVE":
            return "Host down"
        case "HOST_NOT_ENOUGH_FREE_MEMORY":
            return "Not enough free memory"
        case "HOST_NOT_ENOUGH_PCPUS" if len(params) > 1:
            return f"Not enough CPUs (VM needs {params[0]}, but host has {params[1]})"
        case "VM_HVM_REQUIRED":
            return "HVM not supported"
    described = errors.describe(failure.code, params, named)
    if described is None:
        return str(failure)
    sentence, lines = described
    return " ".join([sentence, *lines])
