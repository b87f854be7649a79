"""host: a report of its state, for whoever is to find out what is wrong with it. Secrets stay here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final
from xml.sax.saxutils import quoteattr

from kronos import __version__
from kronos.api.pool.certificates import trust
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import now
from kronos.db import dump
from kronos.db.records import SR, VM, Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules.redaction import hidden
from kronos.system import logs
from kronos.system.commands import CommandFailed, run
from kronos.system.host_logs import HostLogs

LARGEST: Final = 32 << 20
"""Bytes that one file of a report has at most; of a longer text its end is given."""
PATIENCE: Final = 30.0
"""Seconds that one command gets."""

File = tuple[str, str | Iterator[bytes]]
"""A file's name, and its text or the parts of it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of thing that a report may tell. `pii`: whether it names people or their machines."""

    key: str
    pii: str
    content_type: str
    files: Callable[[Call], Iterable[File]]


@message("host.get_system_status_capabilities")
def get_system_status_capabilities(call: Call, host: str) -> str:
    """What a report may tell of, as XML."""
    call.db.get(Host, host)
    return capabilities()


@message("host.bugreport_upload")
def bugreport_upload(call: Call, host: str, url: str, options: dict[str, str]) -> None:
    """Send a report to a URL of http, https or ftp; `http_proxy` of the options names a proxy.

    Raises INVALID_VALUE, SYSTEM_STATUS_RETRIEVAL_FAILED; INTERNAL_ERROR with what the other side said.
    """
    from kronos.system import uploads  # with the clients that it needs

    call.db.get(Host, host)
    try:
        uploads.address(url)
        with logs.hidden(url), tempfile.TemporaryFile() as file:
            write_archive(call, wanted(""), "tar.bz2", file)
            call.task.check()
            context = trust(call.machine).client_context()
            uploads.send(url, file, TYPES["tar.bz2"], context, options.get("http_proxy", ""))
    except uploads.WrongAddress as wrong:
        raise Failure("INVALID_VALUE", "url", str(wrong)) from wrong
    except uploads.UploadFailed as failed:
        raise Failure("INTERNAL_ERROR", f"The report was not taken by {failed}") from failed


def capabilities() -> str:
    """The kinds of things that a report may tell of, each with its size's and time's limits."""
    lines = ['<?xml version="1.0" ?>', "<system-status-capabilities>"]
    for entry in ENTRIES.values():
        shown = {
            "key": entry.key,
            "pii": entry.pii,
            "min-size": "-1",
            "max-size": str(LARGEST),
            "min-time": "-1",
            "max-time": str(int(PATIENCE)),
            "content-type": entry.content_type,
            "default-checked": "yes",
        }
        lines.append(
            f"<capability {' '.join(f'{name}={quoteattr(value)}' for name, value in shown.items())}/>"
        )
    return "\n".join([*lines, "</system-status-capabilities>", ""])


def wanted(untrusted_entries: str) -> list[Entry]:
    """The entries that a request names, commas between; all for none. Names that nobody knows are passed over."""
    names = {name.strip() for name in untrusted_entries.split(",")} - {""}
    return [entry for entry in ENTRIES.values() if not names or entry.key in names]


def collect(call: Call, entries: Iterable[Entry], put: Callable[[str, IO[bytes]], None]) -> None:
    """Give `put` each file of a report. What cannot be found out is said in its file.

    Raises what `put` raises, TASK_CANCELLED.
    """
    chosen = list(entries)
    for number, entry in enumerate(chosen):
        for name, content in entry.files(call):
            with tempfile.TemporaryFile() as file:
                _fill(file, content)
                put(f"{entry.key}/{name}", file)
        call.task.progress((number + 1) / len(chosen))


def _fill(file: IO[bytes], content: str | Iterator[bytes]) -> None:
    if isinstance(content, str):
        file.write(content.encode(errors="replace")[-LARGEST:])
    else:
        for part in content:
            file.write(part)
    file.seek(0)


def _said(*argv: str) -> str:
    """What a command says, or why it does not."""
    try:
        return run(argv, timeout=PATIENCE)
    except CommandFailed as failed:
        return f"{failed}\n"


def _read(call: Call, path: str) -> str:
    try:
        with (call.machine.root / path).open(errors="replace") as file:
            return file.read(LARGEST)
    except OSError as error:
        return f"{error}\n"


# --- what there is to tell -----------------------------------------------------------------------------------


def _host_info(call: Call) -> Iterator[File]:
    yield "kronos", f"{__version__}\n{now()}\n"
    for path in (
        "etc/os-release",
        "proc/cmdline",
        "proc/cpuinfo",
        "proc/meminfo",
        "proc/modules",
        "proc/uptime",
    ):
        yield path.rpartition("/")[2], _read(call, path)
    yield "uname", _said("uname", "-a")
    yield "pci", _said("lspci", "-vmm")


def _database(call: Call) -> Iterator[File]:
    yield "state.xml", dump.written(call.db, hidden)


def _own_log(call: Call) -> Iterator[File]:
    try:
        yield "xapi.log", HostLogs(call.machine.outside, call.machine.root).own(100_000)
    except CommandFailed as failed:
        yield "xapi.log", f"{failed}\n"


def _system_log(call: Call) -> Iterator[File]:
    yield "journal.log", _said("journalctl", "--no-pager", "--output=short-iso", "--lines=200000")
    try:
        yield "kernel.log", HostLogs(call.machine.outside, call.machine.root).kernel()
    except CommandFailed as failed:
        yield "kernel.log", f"{failed}\n"


def _hypervisor(call: Call) -> Iterator[File]:
    versions = call.machine.hypervisor.versions()
    yield "versions", "".join(f"{name}: {value}\n" for name, value in sorted(versions.items()))
    if call.machine.hypervisor.type == "XEN":
        yield "xl-info", _said("xl", "info")
        yield "xl-list", _said("xl", "list", "-l")
        yield "xl-dmesg", _said("xl", "dmesg")
    running = [vm for vm in call.db.all(VM) if vm.power_state != "Halted" and not vm.is_control_domain]
    lines = [f"{vm.uuid} {vm.power_state} {vm.domid} {vm.name_label}\n" for vm in running]
    yield "vms", "".join(lines)


def _network(call: Call) -> Iterator[File]:
    yield "addresses", _said("ip", "-details", "address")
    yield "routes", _said("ip", "route", "show", "table", "all")
    yield "bridges", _said("bridge", "-details", "link")
    yield "rules", _said("nft", "list", "ruleset")
    yield "sockets", _said("ss", "-tulpn")


def _storage(call: Call) -> Iterator[File]:
    yield "devices", _said("lsblk", "--output-all", "--json")
    yield "space", _said("df", "--human-readable")
    yield "mounts", _read(call, "proc/self/mountinfo")
    lines = [
        f"{uuid} {call.db.by_uuid(SR, uuid).type} {type(driver).__qualname__}\n"
        for uuid, driver in sorted(call.machine.storage.items())
    ]
    yield "plugged", "".join(lines)


def _processes(call: Call) -> Iterator[File]:
    # Not with their arguments: those of others may hold what nobody should read.
    yield "processes", _said("ps", "-eo", "pid,ppid,user,stat,etime,rss,pcpu,comm")


ENTRIES: Final = {
    entry.key: entry
    for entry in (
        Entry("host-info", "maybe", "text/plain", _host_info),
        Entry("xapi-database", "yes", "text/xml", _database),
        Entry("xapi-log", "maybe", "text/plain", _own_log),
        Entry("system-logs", "maybe", "text/plain", _system_log),
        Entry("hypervisor", "yes", "text/plain", _hypervisor),
        Entry("network-status", "yes", "text/plain", _network),
        Entry("storage", "maybe", "text/plain", _storage),
        Entry("process-list", "maybe", "text/plain", _processes),
    )
}


# --- archives ------------------------------------------------------------------------------------------------

TYPES: Final = {"tar": "application/x-tar", "tar.bz2": "application/x-bzip2", "zip": "application/zip"}


def write_archive(call: Call, entries: Iterable[Entry], form: str, stream: Any) -> None:
    """Write a report as an archive to a file that need not seek. Raises SYSTEM_STATUS_RETRIEVAL_FAILED [reason]."""
    folder = f"status-report-{now().replace(':', '')}"
    try:
        if form == "zip":
            _as_zip(call, entries, folder, stream)
        else:
            _as_tar(call, entries, folder, stream, "w|bz2" if form == "tar.bz2" else "w|")
    except OSError as error:
        raise Failure("SYSTEM_STATUS_RETRIEVAL_FAILED", str(error)) from error


def _as_tar(call: Call, entries: Iterable[Entry], folder: str, stream: Any, mode: Any) -> None:
    import tarfile

    with tarfile.open(fileobj=stream, mode=mode) as archive:

        def put(name: str, file: IO[bytes]) -> None:
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = file.seek(0, 2)
            file.seek(0)
            archive.addfile(entry, file)

        collect(call, entries, put)


def _as_zip(call: Call, entries: Iterable[Entry], folder: str, stream: Any) -> None:
    import shutil
    import zipfile

    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:

        def put(name: str, file: IO[bytes]) -> None:
            with archive.open(f"{folder}/{name}", "w", force_zip64=True) as out:
                shutil.copyfileobj(file, out)

        collect(call, entries, put)
