"""Pools: joining, leaving, coordinators, HA, updates."""

from __future__ import annotations

from kronos.commands import grammar
from kronos.commands.errors import CommandError
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import NULL
from kronos.datamodel.errors import Failure


@command("pool-join")
def join(invocation: Invocation) -> None:
    arguments = invocation.arguments
    message = "pool.join_force" if arguments.flag("force") else "pool.join"
    try:
        invocation.api(
            message, arguments["master-address"], arguments["master-username"], arguments["master-password"]
        )
    except Failure as failure:
        if failure.code != "JOINING_HOST_CONNECTION_FAILED":
            raise
        raise CommandError(
            "This host cannot reach the other one: check that it is up, and that its services can be reached from here."
        ) from failure
    invocation.printer.line("Host agent will restart and attempt to join pool shortly...")


@command("pool-eject")
def eject(invocation: Invocation) -> None:
    host = invocation.ref("host", "host-uuid")
    if not invocation.arguments.flag("force"):
        terminal = invocation.terminal
        terminal.print("WARNING: Ejecting a host from the pool will reinitialise that host's local SRs.")
        terminal.print("WARNING: Any data contained with the local SRs will be lost.")
        lost = _local_disks(invocation, host)
        if lost:
            terminal.print("The following VDI objects will be destroyed:")
        for line in lost:
            terminal.print(line)
        if not invocation.confirmed():
            return
    invocation.api("pool.eject", host)
    invocation.printer.line("Specified host will attempt to restart as a master of a new pool shortly...")


def _local_disks(invocation: Invocation, host: str) -> list[str]:
    """The disks on SRs that no other host is attached to."""
    attached: dict[str, set[str]] = {}
    for pbd in invocation.records.rows("PBD"):
        attached.setdefault(pbd["SR"], set()).add(pbd["host"])
    return [
        f"VDI: {vdi['uuid']} ({vdi['name_label']})"
        for vdi in invocation.records.rows("VDI")
        if attached.get(vdi["SR"]) == {host}
    ]


@command("pool-emergency-reset-master")
def emergency_reset_master(invocation: Invocation) -> None:
    address = invocation.arguments["master-address"]
    invocation.api("pool.emergency_reset_master", address)
    invocation.printer.line(f"Host agent will restart and become slave of {address} shortly...")


@command("pool-emergency-transition-to-master")
def emergency_transition(invocation: Invocation) -> None:
    if not invocation.arguments.flag("force") and not invocation.api("pool.is_slave", NULL):
        invocation.printer.line(
            "Host agent is already master. Use '--force' to execute the operation anyway."
        )
        return
    invocation.api("pool.emergency_transition_to_master")
    invocation.printer.line("Host agent will restart and transition to master shortly...")


@command("pool-disable-ssl-legacy")
def disable_ssl_legacy(invocation: Invocation) -> None:
    """Nothing to do: no old protocol is spoken here."""


@command("pool-get-cpu-features")
def cpu_features(invocation: Invocation) -> None:
    found = invocation.pool()["cpu_info"]
    names = ("features_pv_host", "features_hvm_host")
    invocation.printer.record([(name, found[name]) for name in names if name in found])


@command("pool-ha-compute-hypothetical-max-host-failures-to-tolerate")
def hypothetical_failures(invocation: Invocation) -> None:
    vms = invocation.arguments.every("vm-uuid")
    priorities = invocation.arguments.every("restart-priority")
    if len(vms) != len(priorities):
        raise CommandError("Call requires an equal number of vm-uuid and restart-priority arguments")
    plan = {
        invocation.records.by_uuid("VM", uuid).ref: priority
        for uuid, priority in zip(vms, priorities, strict=True)
    }
    found = invocation.api("pool.ha_compute_hypothetical_max_host_failures_to_tolerate", plan)
    invocation.printer.line(str(found))


@command("pool-ha-compute-vm-failover-plan")
def failover_plan(invocation: Invocation) -> None:
    records = invocation.records
    hosts = [records.by_uuid("host", uuid) for uuid in invocation.arguments.items("host-uuids")]
    vms = [ref for host in hosts for ref in host["resident_VMs"]]
    vms = [ref for ref in vms if not records.value("VM", ref, "is_control_domain")]
    plan = invocation.api("pool.ha_compute_vm_failover_plan", [host.ref for host in hosts], vms)
    table = [("VM", "Destination Host or Error")]
    for vm, result in plan.items():
        if "host" in result:
            where = _named(invocation, "host", result["host"])
        else:
            where = result.get("error_code", "UNKNOWN")
        table.append((_named(invocation, "VM", vm), where))
    invocation.printer.record(table)


@command("pool-retrieve-wlb-recommendations")
def wlb_recommendations(invocation: Invocation) -> None:
    found = invocation.api("pool.retrieve_wlb_recommendations")
    rows = [(_named(invocation, "VM", vm), " ".join(words)) for vm, words in found.items()]
    invocation.printer.record([("VM", "Host, OptID, RecID, Reason"), *rows])


def _named(invocation: Invocation, api_class: str, ref: str) -> str:
    value = invocation.records.value
    return f"{value(api_class, ref, 'uuid')} ({value(api_class, ref, 'name_label')})"


@command("pool-configure-update-sync")
def configure_update_sync(invocation: Invocation) -> None:
    arguments = invocation.arguments
    pool = invocation.pool().ref
    how_often = grammar.one_of(
        "update-sync-frequency", arguments["update-sync-frequency"], ("daily", "weekly")
    )
    day = 0
    if how_often == "weekly":
        day = arguments.number("update-sync-day", -1)
        if not 0 <= day <= 6:
            raise CommandError("Invalid value for day picked, must be an integer from 0 to 6")
    invocation.api("pool.configure_update_sync", pool, how_often, day)
