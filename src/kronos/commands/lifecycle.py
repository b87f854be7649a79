"""VMs from start to end: vm-start, vm-shutdown and their kin."""

from __future__ import annotations

from collections.abc import Callable

from kronos.commands import fields, progress, reports, selectors
from kronos.commands.errors import CommandError
from kronos.commands.facts import record_fields
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import NULL
from kronos.commands.records import Row
from kronos.datamodel.errors import Failure

_MIB = 1024 * 1024


@command("vm-start")
def start(invocation: Invocation) -> None:
    arguments = invocation.arguments
    force, paused = arguments.flag("force"), arguments.flag("paused")
    where = selectors.host_named(invocation, arguments["on"]).ref if "on" in arguments else NULL

    def act(vm: Row) -> None:
        with reports.unsuitable_hosts(invocation, vm):
            if where == NULL:
                progress.task(invocation, "VM.start", vm.ref, paused, force)
            else:
                progress.task(invocation, "VM.start_on", vm.ref, where, paused, force)

    selectors.for_vms(invocation, act, "on", "paused", "progress", control_domains=True)


@command("vm-resume")
def resume(invocation: Invocation) -> None:
    arguments = invocation.arguments
    force = arguments.flag("force")
    where = selectors.host_named(invocation, arguments["on"]).ref if "on" in arguments else NULL

    def act(vm: Row) -> None:
        with reports.unsuitable_hosts(invocation, vm):
            if where == NULL:
                progress.task(invocation, "VM.resume", vm.ref, False, force)
            else:
                progress.task(invocation, "VM.resume_on", vm.ref, where, False, force)

    selectors.for_vms(invocation, act, "on", "progress")


@command("vm-suspend")
def suspend(invocation: Invocation) -> None:
    _for_each(invocation, "VM.suspend")


@command("vm-shutdown")
def shutdown(invocation: Invocation) -> None:
    _for_each(invocation, "VM.hard_shutdown" if invocation.arguments.flag("force") else "VM.clean_shutdown")


@command("vm-reboot")
def reboot(invocation: Invocation) -> None:
    _for_each(invocation, "VM.hard_reboot" if invocation.arguments.flag("force") else "VM.clean_reboot")


def _for_each(invocation: Invocation, message: str) -> None:
    selectors.for_vms(invocation, lambda vm: progress.task(invocation, message, vm.ref), "progress")


@command("vm-create")
def create(invocation: Invocation) -> None:
    """A bare VM with 256 MiB and one VCPU, to be set up field by field."""
    arguments = invocation.arguments
    record = {
        "name_label": arguments["name-label"],
        "name_description": arguments.get("name-description"),
        "user_version": 0,
        "is_a_template": False,
        "affinity": NULL,
        "memory_static_max": 256 * _MIB,
        "memory_dynamic_max": 256 * _MIB,
        "memory_dynamic_min": 128 * _MIB,
        "memory_static_min": 128 * _MIB,
        "VCPUs_params": {},
        "VCPUs_max": 1,
        "VCPUs_at_startup": 1,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "destroy",
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "",
        "HVM_boot_params": {},
        "platform": {},
        "PCI_bus": "",
        "other_config": {},
        "recommendations": "",
    }
    invocation.print_uuid("VM", invocation.api("VM.create", record))


@command("vm-destroy")
def destroy(invocation: Invocation) -> None:
    vm = invocation.find("VM")
    if vm["is_control_domain"]:
        raise Failure("OPERATION_NOT_ALLOWED", "A control domain cannot be destroyed by xe")
    invocation.api("VM.destroy", vm.ref)


@command("vm-memory-balloon")
def memory_balloon(invocation: Invocation) -> None:
    raise CommandError("This command is no longer there: use vm-memory-target-set.")


@command("vm-query-services")
def query_services(invocation: Invocation) -> None:
    def act(vm: Row) -> None:
        found = invocation.api("VM.query_services", vm.ref)
        invocation.printer.record([("Type", "Name"), *found.items()])

    selectors.for_vms(invocation, act)


@command("vm-is-bios-customized")
def is_bios_customized(invocation: Invocation) -> None:
    def act(vm: Row) -> None:
        strings = vm["bios_strings"]
        if not strings:
            invocation.printer.message("The BIOS strings of this VM have not yet been set.")
        elif strings.get("bios-vendor") == "Xen":
            invocation.printer.message("This VM is BIOS-generic.")
        else:
            invocation.printer.message("This VM is BIOS-customized.")

    selectors.for_vms(invocation, act)


@command("vm-vif-list")
def vif_list(invocation: Invocation) -> None:
    known = record_fields("vif")
    usual = ["uuid", "device", "MAC", "network-uuid", "network-name-label", "vm-name-label"]
    shown = fields.chosen(known, reports.names(invocation, "params", usual))

    def act(vm: Row) -> None:
        rows = [invocation.records.row("VIF", ref) for ref in vm["VIFs"]]
        invocation.printer.records([fields.table(row, shown) for row in rows])

    several = _several(invocation)
    selectors.for_vms(several, act, "params")


@command("vm-crashdump-list")
def crashdump_list(invocation: Invocation) -> None:
    shown = list(record_fields("crashdump").values())

    def act(vm: Row) -> None:
        rows = [invocation.records.row("crashdump", ref) for ref in vm["crash_dumps"]]
        invocation.printer.records([fields.table(row, shown) for row in rows])

    selectors.for_vms(invocation, act)


def _several(invocation: Invocation) -> Invocation:
    """The same command as if the user had typed --multiple: to look at many VMs is no risk."""
    from dataclasses import replace

    return replace(invocation, arguments=invocation.arguments.with_pair("multiple", "true"))


@command("vm-retrieve-wlb-recommendations")
def wlb_recommendations(invocation: Invocation) -> None:
    found = selectors.vms(invocation)
    if not found:
        raise CommandError("No matching VMs found")
    if len(found) > 1:
        raise CommandError("Multiple VMs found. Operation can only be performed on one VM at a time")
    advice = invocation.api("VM.retrieve_wlb_recommendations", found[0].ref)
    records = invocation.records
    hosts = [
        (f"{records.value('host', ref, 'name_label')}({records.value('host', ref, 'uuid')})", " ".join(words))
        for ref, words in advice.items()
    ]
    invocation.printer.record([("Host(Uuid)", "Stars, RecID, ZeroScoreReason"), *hosts])


def _data_sources(invocation: Invocation, message: str) -> Callable[[Row], None]:
    def act(row: Row) -> None:
        invocation.printer.records(
            [
                [(key, fields.plain(source[key])) for key in _SOURCE_FIELDS]
                for source in invocation.api(message, row.ref)
            ]
        )

    return act


_SOURCE_FIELDS = ("name_label", "name_description", "enabled", "standard", "min", "max", "units")


@command("vm-data-source-list")
def vm_data_sources(invocation: Invocation) -> None:
    act = _data_sources(invocation, "VM.get_data_sources")
    selectors.for_vms(invocation, act, control_domains=True, several=False)


@command("host-data-source-list")
def host_data_sources(invocation: Invocation) -> None:
    selectors.for_hosts(invocation, _data_sources(invocation, "host.get_data_sources"), several=False)


@command("sr-data-source-list")
def sr_data_sources(invocation: Invocation) -> None:
    selectors.for_srs(invocation, _data_sources(invocation, "SR.get_data_sources"), several=False)
