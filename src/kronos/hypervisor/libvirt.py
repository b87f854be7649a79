"""VMs through libvirt: all that KVM and Xen share.

VMs are transient domains: the database is the truth, and libvirt holds what runs and nothing else, so that
nothing has to be kept in step. They live on when libvirtd or this process ends, and are found again by
`statuses`. Everyone who looks with virsh sees them, by uuid and with the name as title.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NoReturn

import libvirt

from kronos.datamodel.errors import Failure
from kronos.hypervisor import agent_info, domain_stats, happenings, image
from kronos.hypervisor.announcer import Announcer
from kronos.hypervisor.base import (
    GUEST_CHANNEL,
    IN_XENAPI,
    Console,
    DeviceId,
    Disk,
    Domain,
    Event,
    EventKind,
    GuestInfo,
    Hypervisor,
    Interface,
    Limits,
    Reason,
    State,
    Status,
)
from kronos.hypervisor.blockjobs import Expected, LiveDisks
from kronos.hypervisor.connection import Connection
from kronos.hypervisor.disk_facts import Bitmap, DiskStatistics, Progress
from kronos.hypervisor.readdressing import readdress
from kronos.hypervisor.refusals import already_exists, failure_of, refusing
from kronos.hypervisor.removals import Outcome, Removals
from kronos.hypervisor.rendering import Places, Renderer
from kronos.hypervisor.turns import Turns
from kronos.hypervisor.usage import Usage
from kronos.system import ovmf

log = logging.getLogger(__name__)

LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_PATIENCE = 30.0  # seconds that a suspend may take to give up
_LONGEST_SOCKET = 107  # sun_path, without the closing zero
_ENDED = (EventKind.HALTED, EventKind.SUSPENDED)
_STATE_AFTER = {
    EventKind.STARTED: State.RUNNING,
    EventKind.RESUMED: State.RUNNING,
    EventKind.PAUSED: State.PAUSED,
}


class LibvirtHypervisor(Hypervisor):
    """The libvirt behind `uri`; sockets and console logs of its VMs lie in directories below
    `run_directory`."""

    _product = "qemu"
    """What `versions` calls the emulator or hypervisor behind libvirt."""

    def __init__(self, uri: str, run_directory: Path) -> None:
        self.uri = uri
        self.places = Places(run_directory.absolute())
        longest = self.places.channel("00000000-0000-0000-0000-000000000000", GUEST_CHANNEL)
        if len(os.fsencode(longest)) > _LONGEST_SOCKET:
            raise ValueError(f"{longest} is too long for a unix socket")
        self._renderer = self.renderer(self.places)
        self._turns = Turns()
        self._announcer = Announcer("hypervisor-events", self._told)
        self._removals = Removals()
        self._jobs = Expected()
        self._disks = LiveDisks(self._live, self._jobs)
        self._guard = threading.Lock()
        self._known: dict[str, State] = {}
        self._touched: set[str] = set()
        self._owner: tuple[int, int] | None = None
        self._connection = Connection(uri, self._opened)
        self._connection.open()

    @abstractmethod
    def renderer(self, places: Places) -> Renderer:
        """What writes the domain documents."""

    # Power

    def start(self, domain: Domain, *, paused: bool = False) -> int:
        with self._turns.of(domain.uuid):
            handle = self._connection.handle()
            ready = self._prepare(domain)
            try:
                return int(self._create(handle, self._renderer.domain(ready), paused).ID())
            except libvirt.libvirtError as error:
                self._refuse_start(handle, domain, error)

    def destroy(self, uuid: str) -> None:
        # Without a turn: a power cut is how one ends an operation that hangs.
        with refusing(uuid):
            self._lookup(uuid).destroy()

    def shutdown(self, uuid: str) -> None:
        with self._live(uuid) as domain:
            domain.shutdown()

    def reboot(self, uuid: str) -> None:
        with self._live(uuid) as domain:
            domain.reboot()

    def pause(self, uuid: str) -> None:
        with self._live(uuid) as domain:
            if _state(domain) is not State.RUNNING:
                raise Failure("VM_BAD_POWER_STATE", uuid, "running", "paused")
            domain.suspend()

    def unpause(self, uuid: str) -> None:
        with self._live(uuid, expected="paused") as domain:
            if _state(domain) is not State.PAUSED:
                raise Failure("VM_BAD_POWER_STATE", uuid, "paused", "running")
            domain.resume()

    def suspend(self, uuid: str, path: Path) -> None:
        with self._turns.of(uuid), refusing(uuid), self._apart() as handle:
            handle.lookupByUUIDString(uuid).save(os.fspath(path))

    def resume(self, domain: Domain, path: Path, *, paused: bool = False) -> int:
        with self._turns.of(domain.uuid), self._apart() as handle:
            ready = self._prepare(domain)
            try:
                self._restore(handle, self._repointed(handle, ready, path), path, paused)
                return int(handle.lookupByUUIDString(domain.uuid).ID())
            except libvirt.libvirtError as error:
                self._refuse_start(handle, domain, error)

    def abandon_suspend(self, uuid: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        try:
            domain = self._lookup(uuid)
            while domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE and time.monotonic() < deadline:
                with suppress(libvirt.libvirtError):  # it may have come too far
                    domain.abortJob()
                time.sleep(0.05)
        except libvirt.libvirtError as error:
            log.debug("Suspend of %s: %s", uuid, error)  # the VM is gone: all has been written

    def await_start(self, uuid: str) -> None:
        # libvirt lets nobody ask QEMU anything before a start or restore has ended.
        with suppress(libvirt.libvirtError):
            self._lookup(uuid).memoryStats()

    def is_saved(self, path: Path) -> bool:
        try:
            self._connection.handle().saveImageGetXMLDesc(os.fspath(path))
        except libvirt.libvirtError:  # libvirt marks a file as whole when it is
            return False
        return True

    def readdress(self, path: Path, uuid: str, new_uuid: str) -> None:
        readdress(path, uuid, new_uuid)

    def statuses(self) -> list[Status]:
        try:
            return [
                Status(domain.UUIDString(), domain.ID(), state)
                for domain, state in self._states(self._connection.handle())
            ]
        except libvirt.libvirtError as error:
            raise Failure("INTERNAL_ERROR", f"libvirt: {error}") from error

    def state(self, uuid: str) -> State | None:
        try:
            return happenings.STATES.get(self._lookup(uuid).state()[0])
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise failure_of(error, uuid) from error

    def runs(self, uuid: str) -> bool:
        try:
            return bool(self._lookup(uuid).isActive())
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return False
            raise failure_of(error, uuid) from error

    # Devices

    def plug_disk(self, uuid: str, disk: Disk) -> None:
        with self._live(uuid) as domain:
            domain.attachDeviceFlags(self._renderer.disk_document(disk), LIVE)

    def unplug_disk(self, uuid: str, device: int, *, timeout: float = 30.0) -> None:
        self._unplug(uuid, DeviceId("disk", device), timeout)

    def change_media(self, uuid: str, disk: Disk) -> None:
        with self._live(uuid) as domain:
            domain.updateDeviceFlags(self._renderer.disk_document(disk), LIVE)

    def plug_interface(self, uuid: str, interface: Interface) -> None:
        with self._live(uuid) as domain:
            domain.attachDeviceFlags(self._renderer.interface_document(interface), LIVE)

    def unplug_interface(self, uuid: str, device: int, *, timeout: float = 30.0) -> None:
        self._unplug(uuid, DeviceId("interface", device), timeout)

    def unplug_usb(self, uuid: str, number: int, *, timeout: float = 30.0) -> None:
        self._unplug(uuid, DeviceId("usb", number), timeout)

    def snapshot_disks(
        self, uuid: str, overlays: Mapping[int, Path], bitmaps: Mapping[int, str] | None = None
    ) -> None:
        self._disks.snapshot(uuid, overlays, bitmaps or {})

    def commit_disk(self, uuid: str, device: int, layer: Path, progress: Progress | None = None) -> None:
        self._disks.commit(uuid, device, layer, progress)

    def mirror_disk(
        self,
        uuid: str,
        device: int,
        to: Path,
        *,
        format: Literal["raw", "qcow2"] = "qcow2",
        shallow: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._disks.mirror(uuid, device, to, format, shallow, progress)

    def resize_disk(self, uuid: str, device: int, size: int) -> None:
        self._disks.resize(uuid, device, size)

    def limit_disk(self, uuid: str, device: int, limits: Limits) -> None:
        self._disks.limit(uuid, device, limits)

    def disk_statistics(self, uuid: str) -> dict[int, DiskStatistics]:
        return self._disks.statistics(uuid)

    def bitmap_add(self, uuid: str, device: int, name: str) -> None:
        self._disks.bitmap_add(uuid, device, name)

    def bitmap_remove(self, uuid: str, device: int, name: str) -> None:
        self._disks.bitmap_remove(uuid, device, name)

    def bitmaps(self, uuid: str, device: int) -> list[Bitmap]:
        return self._disks.bitmaps(uuid, device)

    def devices(self, uuid: str) -> set[DeviceId]:
        with self._live(uuid) as domain:
            return image.devices(domain.XMLDesc())

    def set_carrier(self, uuid: str, device: int, carrier: bool) -> None:
        with self._live(uuid) as domain:
            document = image.with_carrier(domain.XMLDesc(), DeviceId("interface", device), carrier)
            if document is None:
                raise Failure("DEVICE_ALREADY_DETACHED", uuid)
            domain.updateDeviceFlags(document, LIVE)

    # The rest

    def watch(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        return self._announcer.watch(callback)

    def usages(self) -> list[Usage]:
        try:
            return domain_stats.all_at_once(self._connection.handle(), time.monotonic)
        except libvirt.libvirtError as error:
            raise Failure("INTERNAL_ERROR", f"libvirt: {error}") from error

    def versions(self) -> dict[str, str]:
        handle = self._connection.handle()
        try:
            found = {"libvirt": handle.getLibVersion(), self._product: handle.getVersion()}
        except libvirt.libvirtError as error:
            raise Failure("INTERNAL_ERROR", f"libvirt: {error}") from error
        # One number holds all three: 7002022 is 7.2.22.
        return {name: f"{n // 1_000_000}.{n // 1000 % 1000}.{n % 1000}" for name, n in found.items()}

    def vnc(self, uuid: str) -> Path:
        with refusing(uuid):
            self._lookup(uuid)
        if not self.places.vnc(uuid).exists():
            raise Failure("VM_LACKS_FEATURE", uuid)
        return self.places.vnc(uuid)

    def serial(self, uuid: str) -> Console:
        with refusing(uuid):
            self._lookup(uuid)
        if not self.places.serial(uuid).exists():
            raise Failure("VM_LACKS_FEATURE", uuid)
        return Console(self.places.serial(uuid), self.places.serial_log(uuid))

    def channel(self, uuid: str, name: str) -> Path | None:
        socket = self.places.channel(uuid, name)
        return socket if socket.exists() else None

    def guest_info(self, uuid: str) -> GuestInfo:
        wanted = (
            libvirt.VIR_DOMAIN_GUEST_INFO_OS
            | libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME
            | libvirt.VIR_DOMAIN_GUEST_INFO_INTERFACES
        )
        with self._live(uuid) as domain:
            return agent_info.read(domain.guestInfo(wanted))

    def screenshot(self, uuid: str) -> bytes:
        with self._live(uuid) as domain:
            stream = domain.connect().newStream()
            domain.screenshot(stream, 0)
            picture = bytearray()
            stream.recvAll(lambda _, data, into: into.extend(data), picture)
            stream.finish()
            return bytes(picture)

    def sleep(self, uuid: str) -> None:
        with self._live(uuid) as domain:
            domain.pMSuspendForDuration(libvirt.VIR_NODE_SUSPEND_TARGET_MEM, 0)

    def rouse(self, uuid: str) -> None:
        with self._live(uuid) as domain:
            if domain.state()[0] == libvirt.VIR_DOMAIN_PMSUSPENDED:
                domain.pMWakeup()

    def set_memory_target(self, uuid: str, target: int) -> None:
        with self._live(uuid) as domain:
            domain.setMemoryFlags(target // 1024, LIVE)

    def set_vcpus(self, uuid: str, vcpus: int) -> None:
        with self._live(uuid) as domain:
            domain.setVcpusFlags(vcpus, LIVE)

    def rename(self, uuid: str, name: str) -> None:
        title = " ".join(name.split())
        with self._live(uuid) as domain:
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, title, None, None, LIVE)

    def forget(self, uuid: str) -> None:
        shutil.rmtree(self.places.of(uuid), ignore_errors=True)

    def settle(self, timeout: float = 10.0) -> bool:
        """Wait until the events that have come in are delivered."""
        return self._announcer.settle(timeout)

    def close(self) -> None:
        self._connection.close()
        self._announcer.close()

    # What a driver for another libvirt hypervisor may put differently

    def _create(self, handle: libvirt.virConnect, document: str, paused: bool) -> libvirt.virDomain:
        return handle.createXML(document, libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)

    def _restore(self, handle: libvirt.virConnect, document: str, path: Path, paused: bool) -> None:
        flag = libvirt.VIR_DOMAIN_SAVE_PAUSED if paused else libvirt.VIR_DOMAIN_SAVE_RUNNING
        handle.restoreFlags(os.fspath(path), document, flag)

    def _apart(self) -> Any:
        return self._connection.apart()

    def _prepare(self, domain: Domain) -> Domain:
        """Make the directory for the VM's sockets and logs, which the user that guests run as must be able to write;
        the VM as it is to be rendered."""
        directory = self.places.of(domain.uuid)
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        if self._owner is not None and os.geteuid() == 0:
            os.chown(directory, *self._owner)
        return domain

    # Inside

    @contextmanager
    def _live(self, uuid: str, expected: str = "running") -> Iterator[libvirt.virDomain]:
        with self._turns.of(uuid), refusing(uuid, expected):
            yield self._lookup(uuid)

    def _lookup(self, uuid: str) -> libvirt.virDomain:
        return self._connection.handle().lookupByUUIDString(uuid)

    def _refuse_start(
        self, handle: libvirt.virConnect, domain: Domain, error: libvirt.libvirtError
    ) -> NoReturn:
        failure = failure_of(error, domain.uuid, expected="halted")
        if already_exists(error):
            domid = "-1"
            with suppress(libvirt.libvirtError):
                domid = str(handle.lookupByUUIDString(domain.uuid).ID())
            failure = Failure("DOMAIN_EXISTS", domain.uuid, domid)
        elif failure.code == "HOST_NOT_ENOUGH_FREE_MEMORY":
            free = 0
            with suppress(libvirt.libvirtError):
                free = handle.getFreeMemory()
            failure = Failure(failure.code, str(domain.memory_static_max), str(free))
        raise failure from error

    def _repointed(self, handle: libvirt.virConnect, domain: Domain, path: Path) -> str:
        saved = handle.saveImageGetXMLDesc(os.fspath(path), libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
        return image.repointed(saved, self._renderer.domain(domain), ovmf.executables())

    def _unplug(self, uuid: str, device: DeviceId, timeout: float) -> None:
        with self._removals.expect(uuid, device) as removal:
            # The turn ends before the wait: a guest that does not answer must not keep others from the VM.
            with self._live(uuid) as domain:
                domain.detachDeviceAlias(happenings.alias(device), LIVE)
            outcome = removal.wait(timeout)
        kind = IN_XENAPI[device.kind]
        if outcome is Outcome.REJECTED:
            raise Failure("DEVICE_DETACH_REJECTED", kind, uuid, f"The guest keeps {kind} {device.number}")
        if outcome is Outcome.NONE:
            raise Failure("DEVICE_DETACH_TIMEOUT", kind, uuid)

    def _states(self, handle: libvirt.virConnect) -> list[tuple[libvirt.virDomain, State]]:
        # One call for all of them, which does not wait for those that are busy.
        flags = (
            libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
            | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        )
        found = handle.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, flags)
        states = ((domain, happenings.STATES.get(stats["state.state"])) for domain, stats in found)
        return [(domain, state) for domain, state in states if state is not None]

    def _opened(self, handle: libvirt.virConnect, again: bool) -> None:
        """A new handle: listen to it, and learn what happened while nobody did."""
        with self._guard:
            self._touched.clear()
        happenings.subscribe(handle, self._happened, self._rejected, self._jobs.happened)
        if self._owner is None:
            self._owner = image.owner(handle.getCapabilities())
        now = {domain.UUIDString(): state for domain, state in self._states(handle)}
        with self._guard:
            # An event that came in meanwhile knows better than the list.
            changed = [uuid for uuid in now.keys() | self._known.keys() if uuid not in self._touched]
            before = {uuid: self._known.get(uuid) for uuid in changed}
            for uuid in changed:
                self._know(uuid, now.get(uuid))
        if again:
            for uuid in changed:
                for event in missed(uuid, before[uuid], now.get(uuid)):
                    self._announcer.announce(event)

    def _know(self, uuid: str, state: State | None) -> None:
        if state is None:
            self._known.pop(uuid, None)
        else:
            self._known[uuid] = state

    def _happened(self, event: Event) -> None:
        """In libvirt's event thread: note, pass on, do not wait."""
        with self._guard:
            if event.kind in _STATE_AFTER:
                self._touched.add(event.uuid)
                self._know(event.uuid, _STATE_AFTER[event.kind])
            elif event.kind in _ENDED:
                self._touched.add(event.uuid)
                self._know(event.uuid, None)
        if event.kind in _ENDED:
            self._removals.all_of(event.uuid)
            self._jobs.ended(event.uuid)
        elif event.kind is EventKind.DEVICE_REMOVED and event.device is not None:
            self._removals.settle(event.uuid, event.device, Outcome.REMOVED)
        self._announcer.announce(event)

    def _told(self, event: Event) -> Event | None:
        """In the watchers' thread: what an event of the layer below means."""
        return event

    def _rejected(self, uuid: str, device: DeviceId) -> None:
        self._removals.settle(uuid, device, Outcome.REJECTED)


def missed(uuid: str, before: State | None, now: State | None) -> list[Event]:
    """The events that lead from one state to the other."""
    if before is now:
        return []
    if now is None:
        return [Event(uuid, EventKind.HALTED, reason=Reason.UNKNOWN)]
    started = [Event(uuid, EventKind.STARTED)] if before is None else []
    if now is State.PAUSED:
        return [*started, Event(uuid, EventKind.PAUSED)]
    return started or [Event(uuid, EventKind.RESUMED)]


def _state(domain: libvirt.virDomain) -> State:
    return happenings.STATES.get(domain.state()[0], State.HALTED)
