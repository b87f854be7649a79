"""A closer look at an object, the server, or the licences."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from kronos.commands import fields, reports, selectors
from kronos.commands.facts import record_fields
from kronos.commands.invocation import Invocation, command
from kronos.commands.records import Row
from kronos.datamodel.errors import Failure

_VM_FIELDS = ("uuid", "name-label", "power-state", "possible-hosts")
_VDI_FIELDS = ("uuid", "name-label", "sr-uuid", "mode", "read-only", "sharable", "storage-lock")
_VBD_FIELDS = ("uuid", "userdevice", "device", "empty", "mode", "type", "storage-lock")
_VBD_OF_VM_FIELDS = (*_VBD_FIELDS, "vdi-uuid", "attachable")
_NET_FILTERS = ("method", "uri", "params", "requests", "connections", "framed")


def _show(invocation: Invocation, record: str, rows: Sequence[Row], names: Sequence[str]) -> None:
    shown = fields.chosen(record_fields(record), names)
    for row in rows:
        invocation.printer.record(fields.table(row, shown))


@command("diagnostic-vdi-status")
def vdi_status(invocation: Invocation) -> None:
    vdi = invocation.find("VDI")
    _show(invocation, "vdi", [vdi], _VDI_FIELDS)
    vbds = [invocation.records.row("VBD", ref) for ref in vdi["VBDs"]]
    active = [vbd for vbd in vbds if vbd["currently_attached"]]
    idle = [vbd for vbd in vbds if not vbd["currently_attached"]]
    invocation.printer.line("active VBDs:" if active else "no active VBDs.")
    _show(invocation, "vbd", active, _VBD_FIELDS)
    if idle:
        invocation.printer.line("inactive VBDs:")
        _show(invocation, "vbd", idle, _VBD_FIELDS)


@command("diagnostic-vm-status")
def vm_status(invocation: Invocation) -> None:
    vm = invocation.find("VM")
    printer = invocation.printer
    _show(invocation, "vm", [vm], _VM_FIELDS)
    printer.line("Checking to see whether disks are attachable")
    _show(invocation, "vbd", [invocation.records.row("VBD", ref) for ref in vm["VBDs"]], _VBD_OF_VM_FIELDS)
    printer.line("Checking to see whether VM can boot on each host")
    reports.boot_report(invocation, vm)
    try:
        invocation.api("VM.assert_agile", vm.ref)
        printer.line("VM is agile.")
    except Failure as failure:
        printer.line(f"VM is not agile because: {reports.reason(invocation, failure)}")


@command("diagnostic-timing-stats")
def timing_stats(invocation: Invocation) -> None:
    counts = invocation.arguments.flag("counts")
    tables = []
    for host in invocation.records.rows("host"):
        table = {"host-uuid": host["uuid"], "host-name-label": host["name_label"]}
        try:
            table |= invocation.api("host.get_diagnostic_timing_stats", host.ref, counts)
        except Failure as failure:
            table["Error"] = str(failure)
        tables.append(sorted(table.items()))
    invocation.printer.records(tables)


@command("diagnostic-db-stats")
def db_stats(invocation: Invocation) -> None:
    found = invocation.api("Diagnostics.db_stats")
    text = " ".join(f"{key}={value}" for key, value in found.items())
    invocation.printer.message(f"DB lock stats: {text}")


@command("diagnostic-net-stats")
def net_stats(invocation: Invocation) -> None:
    wanted = {key: value for key, value in invocation.arguments.pairs if key in _NET_FILTERS}

    def act(host: Row) -> None:
        for line in _columns(invocation.api("Diagnostics.network_stats", host.ref, wanted), right=True):
            invocation.printer.message(line)

    selectors.for_hosts(invocation, act, *_NET_FILTERS, several=False)


def _columns(rows: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """Rows as lines of equally wide columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    if right:
        return [
            " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
    return [" ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


@command("diagnostic-license-status")
def license_status(invocation: Invocation) -> None:
    rule = ["-"] * 6
    rows = [["Hostname", "UUID", "Features", "Edition", "Expiry", "Days left"], rule]
    rows += [_license(host) for host in invocation.records.rows("host")]
    pool = invocation.pool()
    rows += [rule, ["-", "-", _features(pool["restrictions"]), "-", "-", "-"]]
    for line in _columns(rows):
        invocation.printer.message(line)


def _license(host: Row) -> list[str]:
    params = host["license_params"]
    expiry = params.get("expiry", "")
    return [
        host["hostname"],
        host["uuid"][:8],
        _features(params),
        host["edition"],
        expiry or "-",
        _days_left(expiry),
    ]


def _features(restrictions: dict[str, str]) -> str:
    """A sign a feature in the order of their names: '+' for one that may be used, '-' for one that may not."""
    names = sorted(key for key in restrictions if key.startswith("restrict_"))
    return "".join("-" if restrictions[name] == "true" else "+" for name in names) or "-"


def _days_left(expiry: str) -> str:
    try:
        end = datetime.strptime(expiry, "%Y%m%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return "-"
    return f"{(end - datetime.now(UTC)).total_seconds() / 86400:.1f}"
