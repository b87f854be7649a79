"""libvirt's callbacks, put as events of ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import libvirt

from kronos.hypervisor.base import DeviceClass, DeviceId, Event, EventKind, Reason, State

STATES = {
    libvirt.VIR_DOMAIN_RUNNING: State.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: State.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: State.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: State.PAUSED,
    # A crashed VM that is preserved keeps its memory and disks, so it is not halted.
    libvirt.VIR_DOMAIN_CRASHED: State.PAUSED,
    # One that sleeps wakes by itself, or by VM.s3_resume: to XenAPI it runs.
    libvirt.VIR_DOMAIN_PMSUSPENDED: State.RUNNING,
}

_REASONS = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: Reason.SHUTDOWN,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: Reason.DESTROYED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: Reason.CRASHED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: Reason.MIGRATED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: Reason.FAILED,
}

_ALIAS = re.compile(r"ua-(disk|interface|usb)-(\d+)")


def alias(device: DeviceId) -> str:
    """The name a device has in libvirt, by which it is unplugged and recognised: libvirt keeps ua- for its
    users."""
    return f"ua-{device.kind}-{device.number}"


def device_of(untrusted_alias: str) -> DeviceId | None:
    """The device with this alias; None for those that are none of the record's (controllers, balloon)."""
    match = _ALIAS.fullmatch(untrusted_alias)
    if match is None:
        return None
    kinds: dict[str, DeviceClass] = {"disk": "disk", "interface": "interface", "usb": "usb"}
    return DeviceId(kinds[match[1]], int(match[2]))


def lifecycle(uuid: str, kind: int, detail: int) -> Event | None:
    """The event for a lifecycle callback; None for steps on the way that XenAPI has no word for."""
    match kind:
        case libvirt.VIR_DOMAIN_EVENT_STARTED:
            return Event(uuid, EventKind.STARTED)
        case libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
            # Stopping the CPUs is a step of saving and of leaving a host; HALTED or SUSPENDED is the news.
            passing = (libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED,)
            return None if detail in passing else Event(uuid, EventKind.PAUSED)
        case libvirt.VIR_DOMAIN_EVENT_RESUMED:
            return Event(uuid, EventKind.RESUMED)
        case libvirt.VIR_DOMAIN_EVENT_STOPPED:
            if detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED:
                return Event(uuid, EventKind.SUSPENDED)
            return Event(uuid, EventKind.HALTED, reason=_REASONS.get(detail, Reason.UNKNOWN))
        case libvirt.VIR_DOMAIN_EVENT_CRASHED:
            return Event(uuid, EventKind.CRASHED)
    return None


Announce = Callable[[Event], None]
Rejected = Callable[[str, DeviceId], None]
Job = Callable[[str, str, int], None]


def subscribe(handle: libvirt.virConnect, announce: Announce, rejected: Rejected, job: Job) -> None:
    """Have `announce` called for every event of `handle`, `rejected` for a device its guest would not give up, and
    `job` for the disk (vda) and libvirt's number of what became of a block job.

    All are called in libvirt's event thread and must not wait. It lasts as long as the handle.
    """

    def on_lifecycle(_: Any, domain: libvirt.virDomain, kind: int, detail: int, opaque: Any) -> None:
        event = lifecycle(domain.UUIDString(), kind, detail)
        if event is not None:
            announce(event)

    def on_reboot(_: Any, domain: libvirt.virDomain, opaque: Any) -> None:
        announce(Event(domain.UUIDString(), EventKind.REBOOTED))

    def on_removed(_: Any, domain: libvirt.virDomain, untrusted_alias: str, opaque: Any) -> None:
        device = device_of(untrusted_alias)
        if device is not None:
            announce(Event(domain.UUIDString(), EventKind.DEVICE_REMOVED, device=device))

    def on_rejected(_: Any, domain: libvirt.virDomain, untrusted_alias: str, opaque: Any) -> None:
        device = device_of(untrusted_alias)
        if device is not None:
            rejected(domain.UUIDString(), device)

    def on_agent(_: Any, domain: libvirt.virDomain, state: int, reason: int, opaque: Any) -> None:
        connected = state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
        kind = EventKind.AGENT_CONNECTED if connected else EventKind.AGENT_DISCONNECTED
        announce(Event(domain.UUIDString(), kind))

    def on_balloon(_: Any, domain: libvirt.virDomain, kib: int, opaque: Any) -> None:
        announce(Event(domain.UUIDString(), EventKind.MEMORY_CHANGED, value=kib * 1024))

    def on_clock(_: Any, domain: libvirt.virDomain, seconds: int, opaque: Any) -> None:
        announce(Event(domain.UUIDString(), EventKind.CLOCK_CHANGED, value=seconds))

    def on_disk(_: Any, domain: libvirt.virDomain, path: str, untrusted_alias: str, *rest: Any) -> None:
        announce(Event(domain.UUIDString(), EventKind.DISK_FAILED, device=device_of(untrusted_alias)))

    def on_job(_: Any, domain: libvirt.virDomain, target: str, kind: int, status: int, opaque: Any) -> None:
        job(domain.UUIDString(), target, status)

    wanted: list[tuple[int, Callable[..., None]]] = [
        (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_lifecycle),
        (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot),
        (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, on_removed),
        (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, on_rejected),
        (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, on_agent),
        (libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, on_balloon),
        (libvirt.VIR_DOMAIN_EVENT_ID_RTC_CHANGE, on_clock),
        (libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR, on_disk),
        (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, on_job),
    ]
    for number, callback in wanted:
        handle.domainEventRegisterAny(None, number, callback, None)
