"""vm-install and the uninstall commands: a VM made from a template, and a VM gone with its disks."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from kronos.commands import selectors, snapshots
from kronos.commands.errors import CommandError
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import NULL
from kronos.commands.records import Row
from kronos.datamodel.errors import Failure

_OWNER = "owner"


@command("vm-install")
def install(invocation: Invocation) -> None:
    """Clone a template, point its disks at an SR, make them, and print the new VM's uuid."""
    arguments = invocation.arguments
    template = _template(invocation)
    if not template["is_a_template"]:
        raise CommandError("Can only install from templates")
    sr = _chosen_sr(invocation, template)
    disks_on = _sr_of_disks(invocation, template, sr)
    name = arguments["new-name-label"]
    if sr is None:
        vm = invocation.api.task("VM.clone", template.ref, name)
    else:
        vm = invocation.api.task("VM.copy", template.ref, name, sr)
    try:
        _set_up(invocation, template, vm, sr, disks_on)
    except BaseException:
        _forget(invocation, vm)
        raise
    invocation.print_uuid("VM", vm)


def _set_up(invocation: Invocation, template: Row, vm: str, sr: str | None, disks_on: str) -> None:
    api = invocation.api
    api("VM.set_name_description", vm, "Installed via xe CLI")
    api("VM.set_suspend_SR", vm, template["suspend_SR"] if sr is None else sr)
    _place_disks(invocation, vm, disks_on)
    api("VM.set_has_vendor_device", vm, _wants_vendor_device(invocation, template))
    api.task("VM.provision", vm)
    if "copy-bios-strings-from" in invocation.arguments:
        api("VM.copy_bios_strings", vm, invocation.ref("host", "copy-bios-strings-from"))


def _forget(invocation: Invocation, vm: str) -> None:
    try:
        invocation.api("VM.destroy", vm)
    except Failure:
        # What failed first is what the user has to hear of.
        return


def _template(invocation: Invocation) -> Row:
    arguments = invocation.arguments
    if "template-uuid" in arguments:
        return _by_uuid(invocation, arguments["template-uuid"]) or _none("Cannot find template")
    for parameter in ("template-name-label", "template-name"):
        if parameter in arguments:
            return _by_name(invocation, arguments[parameter])
    if "template" in arguments:
        return _by_uuid(invocation, arguments["template"]) or _by_name(invocation, arguments["template"])
    raise CommandError(
        "Template must be specified by parameter 'template-uuid', 'template-name', 'template-name-label' or 'template'"
    )


def _none(message: str) -> Row:
    raise CommandError(message)


def _by_uuid(invocation: Invocation, uuid: str) -> Row | None:
    try:
        return invocation.records.by_uuid("VM", uuid)
    except Failure as failure:
        if failure.code != "UUID_INVALID":
            raise
        return None


def _by_name(invocation: Invocation, name: str) -> Row:
    found = [
        vm
        for vm in invocation.records.by_name("VM", name)
        if vm["is_a_template"] and not vm["is_control_domain"]
    ]
    if not found:
        raise CommandError("No templates matched")
    if len(found) > 1:
        raise CommandError("More than one matching template found")
    return found[0]


def _chosen_sr(invocation: Invocation, template: Row) -> str | None:
    """The SR that the user names, by uuid, by name, or by both."""
    arguments = invocation.arguments
    by_uuid = "sr-uuid" in arguments
    if "sr-name-label" not in arguments and not by_uuid:
        return None
    if template["is_a_snapshot"]:
        raise CommandError(
            "Do not use the sr-name-label or sr-uuid argument when installing from a snapshot. "
            "Each new disk goes to the SR of the snapshot's disk."
        )
    sr = invocation.ref("SR", "sr-uuid") if by_uuid else None
    if "sr-name-label" not in arguments:
        return sr
    named = [row.ref for row in invocation.records.by_name("SR", arguments["sr-name-label"])]
    if not named:
        raise CommandError("No SR with that name-label found")
    if sr is not None and sr not in named:
        raise CommandError("SR specified via sr-uuid doesn't have the name specified via sr-name-label")
    if sr is None and len(named) > 1:
        raise CommandError("Multiple SRs with that name-label found")
    return sr or named[0]


def _sr_of_disks(invocation: Invocation, template: Row, sr: str | None) -> str:
    """The uuid of the SR for the disks that the template describes; '' if it describes none."""
    found = sr or invocation.default_sr()
    if found is not None:
        return str(invocation.records.value("SR", found, "uuid"))
    if "disks" in template["other_config"]:
        raise CommandError(
            "Failed to find a valid default SR for the Pool. "
            "Please provide an sr-name-label or sr-uuid parameter."
        )
    return ""


def _place_disks(invocation: Invocation, vm: str, sr_uuid: str) -> None:
    """Write the SR into the description of the disks to make, `other_config:disks`."""
    api = invocation.api
    description = api("VM.get_other_config", vm).get("disks")
    if description is None:
        return
    try:
        provision = ElementTree.fromstring(description)  # noqa: S314  (the server's own text, and no DTD is expanded by expat's defaults)
    except ElementTree.ParseError as error:
        raise CommandError(f"The template's description of its disks is broken: {error}") from error
    for disk in provision.iter("disk"):
        if "sr" in disk.attrib:
            disk.set("sr", sr_uuid)
    api("VM.remove_from_other_config", vm, "disks")
    api("VM.add_to_other_config", vm, "disks", ElementTree.tostring(provision, encoding="unicode"))


def _wants_vendor_device(invocation: Invocation, template: Row) -> bool:
    """Whether the template asks for the device that lets Windows Update install drivers, and the pool lets it."""
    pool = invocation.records.row("pool", invocation.api("pool.get_all")[0])
    if pool["policy_no_vendor_device"] or not template["recommendations"]:
        return False
    try:
        restrictions = ElementTree.fromstring(template["recommendations"])  # noqa: S314
    except ElementTree.ParseError:
        return False
    return any(
        entry.get("value") == "true"
        for entry in restrictions.iter("restriction")
        if entry.get("field") == "has-vendor-device"
    )


@command("vm-uninstall")
def uninstall(invocation: Invocation) -> None:
    found = selectors.for_vms(invocation, lambda vm: vm)
    snapshots_of = [invocation.records.row("VM", ref) for vm in found for ref in vm["snapshots"]]
    _remove(invocation, [*found, *snapshots_of])


@command("template-uninstall")
def template_uninstall(invocation: Invocation) -> None:
    template = invocation.find("VM", "template-uuid")
    if not template["is_a_template"]:
        raise CommandError(
            "This operation can only be performed on a VM template. "
            f"{invocation.arguments['template-uuid']} is not a VM template."
        )
    _remove(invocation, [template])


@command("snapshot-uninstall")
def snapshot_uninstall(invocation: Invocation) -> None:
    _remove(invocation, [snapshots.named(invocation)])


def _remove(invocation: Invocation, vms: Sequence[Row]) -> None:
    """Show what would go, ask, and destroy the VMs with the disks that are theirs alone to give up."""
    terminal = invocation.terminal
    plans = [(vm, _own_disks(invocation, vm), _suspend_disk(invocation, vm)) for vm in vms]
    terminal.print("The following items are about to be destroyed")
    for vm, disks, suspended in plans:
        terminal.print(f"VM : {vm['uuid']} ({vm['name_label']})")
        for disk in disks + suspended:
            shared = " ** WARNING: disk is shared by other VMs" if len(disk["VBDs"]) > 1 else ""
            terminal.print(f"VDI: {disk['uuid']} ({disk['name_label']}){shared}")
    if not invocation.arguments.flag("force") and not invocation.confirmed():
        return
    for vm, disks, suspended in plans:
        _destroy(invocation, vm, disks, suspended)
    terminal.print("All objects destroyed")


def _destroy(invocation: Invocation, vm: Row, disks: list[Row], suspended: list[Row]) -> None:
    api = invocation.api
    if api("VM.get_power_state", vm.ref) != "Halted":
        api.task("VM.hard_shutdown", vm.ref)
    api("VM.destroy", vm.ref)
    for disk in disks:
        api("VDI.destroy", disk.ref)
    for disk in suspended:
        try:
            api("VDI.destroy", disk.ref)
        except Failure as failure:
            # The shutdown of a suspended VM has taken its memory image away already.
            if failure.code != "HANDLE_INVALID":
                raise


def _own_disks(invocation: Invocation, vm: Row) -> list[Row]:
    """The disks that the VM's own VBDs mark as belonging to it."""
    found = []
    for ref in vm["VBDs"]:
        vbd = invocation.records.row("VBD", ref)
        if _OWNER in vbd["other_config"]:
            found += _existing_disk(invocation, vbd["VDI"])
    return found


def _suspend_disk(invocation: Invocation, vm: Row) -> list[Row]:
    return _existing_disk(invocation, vm["suspend_VDI"])


def _existing_disk(invocation: Invocation, ref: str) -> list[Row]:
    if ref == NULL or invocation.records.value_or("VDI", ref, "uuid", None) is None:
        return []
    return [invocation.records.row("VDI", ref)]
