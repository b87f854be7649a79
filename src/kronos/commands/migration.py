"""vm-migrate: to another host of the pool, or with its disks to another pool."""

from __future__ import annotations

from typing import Any

from kronos.commands import progress, selectors
from kronos.commands.errors import CommandError
from kronos.commands.grammar import Arguments
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import API, NULL
from kronos.commands.records import Records, Row

_ELSEWHERE = (
    "remote-master",
    "remote-username",
    "remote-password",
    "remote-network",
    "vif",
    "vdi",
    "vgpu",
    "image-format",
)
_OWN = ("host", "host-uuid", "host-name", "live", "force", "copy", "compress", "progress", *_ELSEWHERE)


@command("vm-migrate")
def migrate(invocation: Invocation) -> None:
    arguments = invocation.arguments
    if any(key.startswith(_ELSEWHERE) for key, _ in arguments.pairs):
        _to_other_pool(invocation)
    else:
        _within_pool(invocation)


def _wanted_host(arguments: Arguments) -> str | None:
    return next((arguments[key] for key in ("host", "host-uuid", "host-name") if key in arguments), None)


def _options(arguments: Arguments) -> dict[str, str]:
    options = {key: "true" if arguments.flag(key) else "false" for key in ("force", "live", "copy")}
    if "compress" in arguments:
        options["compress"] = arguments["compress"]
    return options


def _within_pool(invocation: Invocation) -> None:
    wanted = _wanted_host(invocation.arguments)
    if wanted is None:
        raise CommandError("No destination host specified")
    host = selectors.host_named(invocation, wanted).ref
    options = _options(invocation.arguments)

    def act(vm: Row) -> None:
        progress.task(invocation, "VM.pool_migrate", vm.ref, host, options)

    selectors.for_vms(invocation, act, *_OWN, control_domains=True)


def _to_other_pool(invocation: Invocation) -> None:
    arguments, printer = invocation.arguments, invocation.printer
    login = ("remote-master", "remote-username", "remote-password")
    if not all(key in arguments for key in login):
        raise CommandError(
            "Storage live migration requires remote-master, remote-username, and remote-password to be specified. "
            "Please see 'xe help vm-migrate' for help."
        )
    printer.message("Performing a storage live migration. Your VM's VDIs will be migrated with the VM.")
    with invocation.api.remote(*(arguments[key] for key in login)) as remote:
        there = Records(remote)
        host = _host(there, _wanted_host(arguments))
        network = _network(there, host, arguments.get("remote-network"))
        options = _options(arguments)
        token = remote("host.migrate_receive", host.ref, network.ref, options)
        printer.message(
            f"Will migrate to remote host: {host['name_label']}, using remote network: {network['name_label']}. "
            "Here is the VDI mapping:"
        )

        def act(vm: Row) -> str:
            return _send(invocation, there, host, vm, token, options)

        moved = selectors.for_vms(invocation, act, *_OWN, templates=True)
        if arguments.flag("copy"):
            printer.line(remote("VM.get_uuid", moved[0]))


def _send(
    invocation: Invocation,
    there: Records,
    host: Row,
    vm: Row,
    token: dict[str, str],
    options: dict[str, str],
) -> str:
    arguments, here, remote = invocation.arguments, invocation.records, there.api
    vifs = _mapped(here, "VIF", remote, "network", arguments.mapping("vif"))
    vgpus = _mapped(here, "VGPU", remote, "GPU_group", arguments.mapping("vgpu"))
    disks = _disks(here, vm, _preferred_sr(there, host)) | _mapped(
        here, "VDI", remote, "SR", arguments.mapping("vdi")
    )
    formats = {
        here.by_uuid("VDI", uuid).ref: kind for uuid, kind in arguments.mapping("image-format").items()
    }
    for vdi, sr in disks.items():
        invocation.printer.message(
            f"VDI {here.value('VDI', vdi, 'uuid')} -> SR {there.value('SR', sr, 'uuid')}"
        )
    return str(
        progress.task(
            invocation,
            "VM.migrate_send",
            vm.ref,
            token,
            True,
            disks,
            vifs,
            options,
            vgpus,
            formats,
        )
    )


def _mapped(here: Records, ours: str, remote: API, theirs: str, uuids: dict[str, str]) -> dict[str, str]:
    return {
        here.by_uuid(ours, uuid).ref: remote(f"{theirs}.get_by_uuid", other) for uuid, other in uuids.items()
    }


def _host(there: Records, wanted: str | None) -> Row:
    hosts = there.rows("host")
    if wanted is not None:
        hosts = [host for host in hosts if wanted in (host["hostname"], host["name_label"], host["uuid"])]
    if not hosts:
        raise CommandError(f"Failed to find host: {wanted}" if wanted else "Failed to find a suitable host")
    return hosts[0]


def _network(there: Records, host: Row, wanted: str) -> Row:
    if wanted:
        for network in there.rows("network"):
            if wanted in (network["bridge"], network["name_label"], network["uuid"]):
                return network
        raise CommandError(f"Failed to find network: {wanted}")
    for pif in there.rows("PIF"):
        if pif["host"] == host.ref and pif["management"]:
            return there.row("network", pif["network"])
    raise CommandError(f"Could not find management PIF on host {host['uuid']}")


def _preferred_sr(there: Records, host: Row) -> str | None:
    """The SR with the most free space that the host can use, a shared one if there is any."""
    attached = {
        pbd["SR"] for pbd in there.rows("PBD") if pbd["host"] == host.ref and pbd["currently_attached"]
    }
    usable = [sr for sr in there.rows("SR") if sr.ref in attached and sr["content_type"] != "iso"]

    def rank(sr: Row) -> tuple[Any, Any]:
        return sr["shared"], sr["physical_size"] - sr["physical_utilisation"]

    return max(usable, key=rank).ref if usable else None


def _disks(here: Records, vm: Row, sr: str | None) -> dict[str, str]:
    """Every disk of the VM to the preferred SR; what the user says of a disk replaces this."""
    if sr is None:
        return {}
    rows = [here.row("VBD", ref) for ref in vm["VBDs"]]
    return {vbd["VDI"]: sr for vbd in rows if not vbd["empty"] and vbd["VDI"] != NULL}
