"""The disks and CDs of a VM, and the VBDs that join the two."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kronos.commands import fields, grammar, reports, selectors, snapshots
from kronos.commands.errors import CommandError
from kronos.commands.facts import record_fields
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import NULL
from kronos.commands.records import Row
from kronos.datamodel.errors import Failure

_OWNER = {"owner": ""}
_EMPTY = "<EMPTY>"
# A guest may give up a disk some time after it was asked to: seconds between two looks.
_PATIENCE = 5.0


def _vbds(invocation: Invocation, vm: Row, kind: str) -> list[Row]:
    rows = [invocation.records.row("VBD", ref) for ref in vm["VBDs"]]
    return [row for row in rows if row["type"] == kind]


def _show(invocation: Invocation, vm: Row, kind: str, usual: Sequence[str]) -> None:
    """Each VBD of a VM and the VDI in it, a block each under a heading."""
    vbd_fields = fields.chosen(record_fields("vbd"), _names(invocation, "vbd-params", usual))
    usual_of_vdi = ("uuid", "name-label", "virtual-size", "sr-name-label")
    vdi_fields = fields.chosen(record_fields("vdi"), _names(invocation, "vdi-params", usual_of_vdi))
    word = "CD" if kind == "CD" else "Disk"
    for number, vbd in enumerate(_vbds(invocation, vm, kind)):
        invocation.printer.message(f"{word} {number} VBD:")
        invocation.printer.record(fields.table(vbd, vbd_fields))
        if not vbd["empty"]:
            vdi = invocation.records.row("VDI", vbd["VDI"])
            invocation.printer.message(f"{word} {number} VDI:")
            invocation.printer.record(fields.table(vdi, vdi_fields))


def _names(invocation: Invocation, parameter: str, usual: Sequence[str]) -> Sequence[str]:
    return reports.names(invocation, parameter, usual)


_DISK_FIELDS = ("uuid", "vm-name-label", "userdevice")
_CD_FIELDS = ("uuid", "vm-name-label", "userdevice", "empty")
_PARAMS = ("vbd-params", "vdi-params")


@command("vm-disk-list")
def disk_list(invocation: Invocation) -> None:
    selectors.for_vms(invocation, lambda vm: _show(invocation, vm, "Disk", _DISK_FIELDS), *_PARAMS)


@command("vm-cd-list")
def cd_list_of_vm(invocation: Invocation) -> None:
    selectors.for_vms(invocation, lambda vm: _show(invocation, vm, "CD", _CD_FIELDS), *_PARAMS)


@command("snapshot-disk-list")
def disk_list_of_snapshot(invocation: Invocation) -> None:
    _show(invocation, snapshots.named(invocation), "Disk", _DISK_FIELDS)


@command("vm-disk-add")
def disk_add(invocation: Invocation) -> None:
    arguments = invocation.arguments
    size, device = arguments.size("disk-size"), arguments["device"]
    sr = invocation.ref("SR", "sr-uuid") if "sr-uuid" in arguments else invocation.default_sr()
    if sr is None:
        raise CommandError("No default Pool SR set; you must specify an SR on the commandline")

    def act(vm: Row) -> None:
        name = "Created by xe"
        record = {
            "name_label": name,
            "name_description": name,
            "SR": sr,
            "virtual_size": size,
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "xenstore_data": {},
            "sm_config": {"vmhint": vm["uuid"]},
            "tags": [],
        }
        vdi = invocation.api("VDI.create", record)
        try:
            _attach(invocation, vm, vdi, device, "RW", "Disk", _OWNER)
        except Failure:
            invocation.api("VDI.destroy", vdi)
            raise

    selectors.for_vms(invocation, act, "sr-uuid", "device", "disk-size")


@command("vm-disk-remove")
def disk_remove(invocation: Invocation) -> None:
    device = invocation.arguments["device"]

    def act(vm: Row) -> None:
        rows = [invocation.records.row("VBD", ref) for ref in vm["VBDs"]]
        vbd = next((row for row in rows if row["userdevice"] == device), None)
        if vbd is None:
            raise CommandError("Disk not found")
        vdi = vbd["VDI"]
        invocation.api("VBD.destroy", vbd.ref)
        invocation.api("VDI.destroy", vdi)

    selectors.for_vms(invocation, act, "device")


@command("vm-cd-add")
def cd_add(invocation: Invocation) -> None:
    name, device = invocation.arguments["cd-name"], invocation.arguments["device"]
    found = _cds_named(invocation, name)
    if not found:
        raise CommandError(f"CD {name} not found!")
    selectors.for_vms(
        invocation,
        lambda vm: _attach(invocation, vm, found[0].ref, device, "RO", "CD", {}),
        "cd-name",
        "device",
        "cd-location",
    )


@command("vm-cd-remove")
def cd_remove(invocation: Invocation) -> None:
    name = invocation.arguments["cd-name"]

    def holds(vbd: Row) -> bool:
        if vbd["empty"]:
            return name == _EMPTY
        return bool(invocation.records.value_or("VDI", vbd["VDI"], "name_label", None) == name)

    def act(vm: Row) -> None:
        vbd = next(filter(holds, _vbds(invocation, vm, "CD")), None)
        if vbd is None:
            raise CommandError("Disk not found")
        invocation.api("VBD.destroy", vbd.ref)

    selectors.for_vms(invocation, act, "cd-name")


@command("vm-cd-eject")
def cd_eject(invocation: Invocation) -> None:
    def act(vm: Row) -> None:
        drives = _vbds(invocation, vm, "CD")
        if not drives:
            raise CommandError("No CDs found")
        if len(drives) > 1:
            raise CommandError("Two or more CDs found. Please use vbd-eject")
        invocation.api("VBD.eject", drives[0].ref)

    selectors.for_vms(invocation, act)


@command("vm-cd-insert")
def cd_insert(invocation: Invocation) -> None:
    name = invocation.arguments["cd-name"]
    found = _cds_named(invocation, name)
    if not found:
        raise CommandError(f"CD {name} not found")
    if len(found) > 1:
        raise CommandError(f"Multiple CDs named {name} found. Please use vbd-insert and specify uuids")

    def act(vm: Row) -> None:
        drives = [vbd for vbd in _vbds(invocation, vm, "CD") if vbd["empty"]]
        if not drives:
            raise Failure("VM_NO_EMPTY_CD_VBD", vm.ref)
        if len(drives) > 1:
            raise CommandError("Two or more empty CD devices found. Please use vbd-insert")
        invocation.api("VBD.insert", drives[0].ref, found[0].ref)

    selectors.for_vms(invocation, act, "cd-name")


@command("cd-list")
def cd_list(invocation: Invocation) -> None:
    """Every image on the ISO SRs."""
    srs = [row for row in invocation.records.rows("SR") if row["content_type"] == "iso"]
    images = [ref for sr in srs for ref in sr["VDIs"]]
    invocation.records.expect("VDI", images)
    shown = fields.chosen(record_fields("vdi"), _names(invocation, "params", ("name-label", "uuid")))
    rows = [invocation.records.row("VDI", ref) for ref in images]
    invocation.printer.records([fields.table(row, shown) for row in rows])


def _cds_named(invocation: Invocation, name: str) -> list[Row]:
    found = invocation.records.by_name("VDI", name)
    return [vdi for vdi in found if invocation.records.value("SR", vdi["SR"], "content_type") == "iso"]


def _attach(
    invocation: Invocation, vm: Row, vdi: str, device: str, mode: str, kind: str, other_config: dict[str, str]
) -> None:
    """Make a VBD and plug it; a VM that cannot take it now has it from its next start."""
    vbd = _create_vbd(
        invocation,
        VM=vm.ref,
        VDI=vdi,
        userdevice=device,
        mode=mode,
        type=kind,
        unpluggable=True,
        other_config=other_config,
    )
    try:
        invocation.api("VBD.plug", vbd)
    except Failure:
        return


def _create_vbd(invocation: Invocation, **values: object) -> str:
    record: dict[str, object] = {
        "bootable": False,
        "empty": False,
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
        "other_config": {},
    }
    return str(invocation.api("VBD.create", record | values))


@command("vbd-create")
def vbd_create(invocation: Invocation) -> None:
    arguments = invocation.arguments
    vm = invocation.ref("VM", "vm-uuid")
    empty = "vdi-uuid" not in arguments
    vdi = NULL if empty else invocation.ref("VDI", "vdi-uuid")
    kind = grammar.one_of("type", arguments.get("type", "Disk"), ("CD", "Disk", "Floppy"))
    mode = grammar.one_of("mode", arguments.get("mode", "RW"), ("RO", "RW"))
    if kind == "Disk" and empty:
        raise CommandError("Empty VBDs can only be made for type=CD")
    vbd = _create_vbd(
        invocation,
        VM=vm,
        VDI=vdi,
        userdevice=arguments["device"],
        bootable=arguments.flag("bootable"),
        mode=mode,
        type=kind,
        unpluggable=arguments.flag("unpluggable", True),
        empty=empty,
    )
    invocation.print_uuid("VBD", vbd)


@command("vbd-unplug")
def vbd_unplug(invocation: Invocation) -> None:
    """Unplug; with `timeout=` seconds to wait for a guest that does not let go at once."""
    vbd = invocation.ref("VBD")
    message = "VBD.unplug_force" if invocation.arguments.flag("force") else "VBD.unplug"
    deadline = time.monotonic() + invocation.arguments.real("timeout")
    try:
        invocation.api(message, vbd)
    except Failure as failure:
        if failure.code != "DEVICE_DETACH_REJECTED":
            raise
        while time.monotonic() < deadline:
            time.sleep(min(_PATIENCE, max(0.0, deadline - time.monotonic())))
            if not invocation.api("VBD.get_currently_attached", vbd):
                return
        raise
