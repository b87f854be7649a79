"""host: what is asked of one now and then, by its pool or its administrator."""

from __future__ import annotations

import sys
import threading
import traceback

from kronos.datamodel.errors import Failure
from kronos.db.records import SR, Driver_variant, Host, Host_driver, Session
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.system import hardware


@message("host.destroy")
def destroy(call: Call, self: str) -> None:
    """Forget a host that is gone. Raises HOST_IS_LIVE [host] for the one that is asked."""
    row = call.db.get(Host, self)
    raise Failure("HOST_IS_LIVE", row.ref)


@message("host.emergency_clear_mandatory_guidance")
def emergency_clear_mandatory_guidance(call: Call) -> None:
    """Make light of what updates have left to be done before the host may be enabled."""
    call.host.pending_guidances = ()


@message("host.refresh_pack_info")
def refresh_pack_info(call: Call, host: str) -> None:
    """Read anew what is installed: of what the records show, the kernel is what a package may have exchanged."""
    row = call.db.get(Host, host)
    row.software_version = row.software_version | {"linux": hardware.kernel_release()}


@message("host.request_backup")
def request_backup(call: Call, host: str, generation: int, force: bool) -> None:
    """Return when the database is on this host's disk."""
    call.db.get(Host, host)
    call.pipeline.durability.block()


@message("host.local_assert_healthy")
def local_assert_healthy(call: Call) -> None:
    """Raises nothing while the host serves: it is its own coordinator."""


@message("host.ha_xapi_healthcheck")
def ha_xapi_healthcheck(call: Call) -> bool:
    """Whether the daemon can write down what it is told."""
    journal = call.db.journal
    return journal is None or journal.failure is None


@message("host.get_thread_diagnostics")
def get_thread_diagnostics(call: Call, host: str) -> str:
    """Where each of the daemon's threads is."""
    call.db.get(Host, host)
    frames = sys._current_frames()
    parts = []
    for thread in sorted(threading.enumerate(), key=lambda each: each.name):
        frame = frames.get(thread.ident or 0)
        where = "".join(traceback.format_stack(frame)) if frame is not None else ""
        parts.append(f"{thread.name}\n{where}")
    return "\n".join(parts)


@message("host.get_sm_diagnostics")
def get_sm_diagnostics(call: Call, host: str) -> str:
    """Which SRs are plugged in, and the driver that serves each."""
    call.db.get(Host, host)
    lines = []
    for uuid, driver in sorted(call.machine.storage.items()):
        row = call.db.by_uuid(SR, uuid)
        lines.append(
            f"{uuid} {row.type} {type(driver).__module__}.{type(driver).__qualname__} {row.name_label}"
        )
    return "\n".join(lines)


@message("host.rescan_drivers")
def rescan_drivers(call: Call, self: str) -> None:
    """Look for drivers of which several versions are installed: a distribution's kernel has one of each, and its
    host no Host_driver. Those that came with another host's database go."""
    row = call.db.get(Host, self)
    with call.db.transaction():
        for driver in [each for each in call.db.all(Host_driver) if each.host == row.ref]:
            for variant in [each for each in call.db.all(Driver_variant) if each.driver == driver.ref]:
                call.db.delete(variant)
            call.db.delete(driver)


@message("Host_driver.rescan")
def rescan(call: Call, host: str) -> None:
    """The same, by its other name."""
    rescan_drivers(call, host)


@message("host.get_uncooperative_domains")
def get_uncooperative_domains(call: Call, self: str) -> tuple[str, ...]:
    """Guests that do not give memory back: none is counted any more."""
    call.db.get(Host, self)
    return ()


@message("host.get_diagnostic_timing_stats")
def get_diagnostic_timing_stats(call: Call, host: str, counts: bool) -> dict[str, str]:
    """Seconds that writing to disk takes: their mean, the least and the most; with `counts`, how often it was done."""
    call.db.get(Host, host)
    journal = call.db.journal
    if journal is None or not journal.writes.count:
        return {}
    writes = journal.writes
    number = f", n = {writes.count}" if counts else ""
    mean = writes.total / writes.count
    return {"database write": f"{mean:f} [min = {writes.least:f}, max = {writes.most:f}{number}]"}


@message("host.get_tracked_user_agents")
def get_tracked_user_agents(call: Call, self: str) -> dict[str, str]:
    """The programs that are logged in, as they name themselves, with their version where they tell it."""
    call.db.get(Host, self)
    named = sorted({row.originator for row in call.db.all(Session) if row.originator})
    return {name: version.partition(" ")[0] for name, _, version in (each.partition("/") for each in named)}
