"""Files to and from the pool: vm-export, vm-import, vdi-export, host-backup, and all else that moves a file."""

from __future__ import annotations

from datetime import UTC, datetime

from kronos.commands import selectors, transfers
from kronos.commands.errors import CommandError
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import NULL
from kronos.commands.records import Row
from kronos.datamodel.errors import Failure

_SHAPES = ("tar", "zip", "tar.bz2")


@command("vm-export")
def vm_export(invocation: Invocation) -> None:
    own = (
        "filename",
        "metadata",
        "compress",
        "preserve-power-state",
        "include-snapshots",
        "excluded-device-types",
        "task-uuid",
        "progress",
    )
    names = iter(_numbered(invocation.arguments["filename"]))
    selectors.for_vms(invocation, lambda vm: _export(invocation, vm, next(names)), *own)


def _numbered(name: str) -> list[str]:
    """The file, and for more VMs than one the file with a number."""
    return [name if number == 1 else f"{name}{number}" for number in range(1, 10_000)]


@command("template-export", "snapshot-export-to-template")
def export_other(invocation: Invocation) -> None:
    kind = invocation.facts.name.partition("-")[0]
    uuid = invocation.arguments[f"{kind}-uuid"]
    vm = invocation.find("VM", f"{kind}-uuid")
    if not vm[f"is_a_{kind}"]:
        raise CommandError(f"This operation can only be performed on a VM {kind}. {uuid} is not a VM {kind}.")
    _export(invocation, vm, invocation.arguments["filename"])


def _export(invocation: Invocation, vm: Row, path: str) -> None:
    arguments = invocation.arguments
    metadata = arguments.flag("metadata")
    query: dict[str, object] = {
        "ref": vm.ref,
        "use_compression": _compression(arguments.get("compress")),
        "preserve_power_state": arguments.flag("preserve-power-state"),
        "export_snapshots": arguments.flag("include-snapshots"),
    }
    if metadata:
        query["excluded_device_types"] = arguments.get("excluded-device-types")
    address = "/export_metadata" if metadata else "/export"
    transfers.get(invocation, path, address, "Export of VM", **query)
    if path:
        invocation.terminal.print("Export succeeded")


def _compression(text: str) -> str:
    """The word of the transfer for `compress=`: true means gzip."""
    small = text.lower()
    if small in ("true", "gzip"):
        return "gzip"
    return "zstd" if small == "zstd" else "false"


@command("vm-import")
def vm_import(invocation: Invocation) -> None:
    arguments, api = invocation.arguments, invocation.api
    sr = invocation.ref("SR", "sr-uuid") if "sr-uuid" in arguments else invocation.default_sr()
    if sr is None:
        raise CommandError("No SR specified and Pool default SR is null")
    preserve, force = arguments.flag("preserve"), arguments.flag("force")
    if arguments.get("type", "xenserver").lower() in ("esxserver", "virtualcenter"):
        api(
            "VM.import_convert",
            arguments["type"],
            arguments["host-username"],
            arguments["host-password"],
            sr,
            arguments.mapping("remote-config"),
        )
        return
    if transfers.one_source(invocation, "filename", "url") == "url":
        found = api.task("VM.import", arguments["url"], sr, preserve, force)
    else:
        found = _import_file(invocation, sr, preserve, force)
    uuids = [api("VM.get_uuid", vm) for vm in found]
    if not uuids and arguments.flag("dry-run"):
        uuids = ["xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"]
    invocation.terminal.print(",".join(uuids))


def _import_file(invocation: Invocation, sr: str, preserve: bool, force: bool) -> list[str]:
    arguments = invocation.arguments
    metadata, dry = arguments.flag("metadata"), arguments.flag("dry-run")
    if dry and not metadata:
        raise CommandError("Only the import of metadata can be tried without doing it (dry-run).")
    query: dict[str, object] = {"restore": preserve, "force": force, "dry_run": dry}
    if sr != NULL:
        query["sr_id"] = sr
    query |= {f"vdi__{old}": new for old, new in arguments.mapping("vdi").items()}
    address = "/import_metadata" if metadata else "/import"
    result = transfers.put(invocation, arguments["filename"], address, "VM import", **query)
    return transfers.references(result)


@command("vdi-export")
def vdi_export(invocation: Invocation) -> None:
    arguments = invocation.arguments
    transfers.get(
        invocation,
        arguments["filename"],
        "/export_raw_vdi",
        "VDI export",
        vdi=invocation.ref("VDI"),
        format=arguments.get("format"),
        base=arguments.get("base"),
    )


@command("vdi-import")
def vdi_import(invocation: Invocation) -> None:
    arguments = invocation.arguments
    transfers.put(
        invocation,
        arguments["filename"],
        "/import_raw_vdi",
        "VDI import",
        vdi=invocation.ref("VDI"),
        format=arguments.get("format"),
    )


@command("host-backup")
def host_backup(invocation: Invocation) -> None:
    path = invocation.arguments["file-name"]

    def act(host: Row) -> None:
        address = transfers.at_host(invocation, host.ref, "/host_backup")
        transfers.get(invocation, path, address, "host backup download")

    selectors.for_hosts(invocation, act, "file-name", several=False)


@command("host-restore")
def host_restore(invocation: Invocation) -> None:
    path = invocation.arguments["file-name"]

    def act(host: Row) -> None:
        address = transfers.at_host(invocation, host.ref, "/host_restore")
        transfers.put(invocation, path, address, "host backup upload")

    selectors.for_hosts(invocation, act, "file-name", several=False)


@command("host-logs-download")
def host_logs(invocation: Invocation) -> None:
    usual = datetime.now(UTC).strftime("logs-%Y-%m-%dT%H%M%SZ")
    path = invocation.arguments.get("file-name", usual)
    selected = selectors.hosts(invocation, "file-name")

    def act(host: Row) -> None:
        ending = "" if len(selected) == 1 else f"-{host['name_label']}"
        address = transfers.at_host(invocation, host.ref, "/host_logs_download")
        transfers.get(invocation, path + ending, address, "host logs download")

    selectors.for_hosts(invocation, act, "file-name")


@command("host-get-system-status")
def host_system_status(invocation: Invocation) -> None:
    arguments = invocation.arguments
    shape = arguments.get("output", "tar.bz2")
    if shape not in _SHAPES:
        raise CommandError("Invalid output format. Must be 'tar', 'zip' or 'tar.bz2'")

    def act(host: Row) -> None:
        address = transfers.at_host(invocation, host.ref, "/system-status")
        transfers.get(
            invocation,
            arguments["filename"],
            address,
            "system-status download",
            entries=arguments.get("entries"),
            output=shape,
        )

    selectors.for_hosts(invocation, act, "filename", "entries", "output")


@command("pool-dump-database")
def pool_dump_database(invocation: Invocation) -> None:
    transfers.get(invocation, invocation.arguments["file-name"], "/pool/xmldbdump", "dump database")


@command("pool-restore-database")
def pool_restore_database(invocation: Invocation) -> None:
    dry = "dry-run" in invocation.arguments
    if not dry:
        invocation.needs_force(
            "This host becomes the coordinator with the database of the backup, and all other hosts are forgotten. "
            "This operation must be forced (use --force)."
        )
    transfers.put(
        invocation,
        invocation.arguments["file-name"],
        "/pool/xmldbdump",
        "restore database",
        dry_run=dry,
    )
    invocation.printer.line(
        "Dry-run backup restore successful" if dry else "Host will reboot with restored database soon..."
    )


@command("pool-sync-bundle")
def pool_sync_bundle(invocation: Invocation) -> None:
    transfers.put(invocation, invocation.arguments["filename"], "/bundle", "upload bundle")


@command("audit-log-get")
def audit_log_get(invocation: Invocation) -> None:
    since = invocation.arguments.get("since")[:255]
    path = invocation.arguments["filename"]
    transfers.get(invocation, path, "/audit_log", "Audit log download", since=since)
    if path:
        invocation.terminal.print("Audit log download succeeded")


@command("pool-retrieve-wlb-report")
def wlb_report(invocation: Invocation) -> None:
    arguments = invocation.arguments
    query: dict[str, object] = {"report": arguments["report"]}
    query |= dict(arguments.filters("report", "filename"))
    transfers.get(invocation, arguments.get("filename"), "/wlb_report", "WLB report", **query)


@command("pool-retrieve-wlb-diagnostics")
def wlb_diagnostics(invocation: Invocation) -> None:
    path = invocation.arguments.get("filename")
    transfers.get(invocation, path, "/wlb_diagnostics", "WLB diagnostics download")


@command("blob-get")
def blob_get(invocation: Invocation) -> None:
    path = invocation.arguments["filename"]
    transfers.get(invocation, path, "/blob", "Blob get", ref=invocation.ref("blob"))
    invocation.terminal.print("Blob get succeeded")


@command("blob-put")
def blob_put(invocation: Invocation) -> None:
    path = invocation.arguments["filename"]
    transfers.put(invocation, path, "/blob", "Blob put", ref=invocation.ref("blob"))
    invocation.terminal.print("Blob put succeeded")


@command("patch-upload")
def patch_upload(invocation: Invocation) -> None:
    api = invocation.api
    sr = invocation.pool()["default_SR"]
    path = invocation.arguments["file-name"]
    result = transfers.put(invocation, path, "/pool_patch_upload", "host patch upload", sr_id=sr)
    patch = (transfers.references(result) or [result])[0]
    _name_update_disk(invocation, api("pool_patch.get_pool_update", patch))
    invocation.terminal.print(api("pool_patch.get_uuid", patch))


@command("update-upload")
def update_upload(invocation: Invocation) -> None:
    arguments, api = invocation.arguments, invocation.api
    sr = invocation.ref("SR", "sr-uuid") if "sr-uuid" in arguments else invocation.default_sr()
    if sr is None:
        raise CommandError("The pool has no default SR: say with sr-uuid where the update is to be kept.")
    result = transfers.put(
        invocation, arguments["file-name"], "/import_raw_vdi", "host patch upload", sr_id=sr
    )
    vdi = transfers.references(result)[0]
    try:
        update = api("pool_update.introduce", vdi)
    except Failure:
        api("VDI.destroy", vdi)
        raise
    _name_update_disk(invocation, update)
    invocation.terminal.print(api("pool_update.get_uuid", update))


def _name_update_disk(invocation: Invocation, update: str) -> None:
    api = invocation.api
    vdi = api("pool_update.get_vdi", update)
    api("VDI.set_name_label", vdi, f"Update: {api('pool_update.get_name_label', update)}")
