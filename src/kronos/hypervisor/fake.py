"""VMs in memory: the same contract without a hypervisor, and guests that do what a test tells them."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.hypervisor.announcer import Announcer
from kronos.hypervisor.base import (
    IN_XENAPI,
    Console,
    DeviceClass,
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
from kronos.hypervisor.disk_facts import DiskStatistics
from kronos.hypervisor.hardware import HostUSB, Kept
from kronos.hypervisor.usage import Usage

_AFTER_END = {"destroy": State.HALTED, "restart": State.RUNNING, "preserve": State.PAUSED}


@dataclass
class Guest:
    """One VM. `obeys` is whether it shuts down, reboots and lets devices go when asked."""

    domain: Domain
    domid: int
    state: State
    obeys: bool = True
    info: GuestInfo | None = None
    memory: int = 0
    vcpus: int = 0
    disks: dict[int, Disk] = field(default_factory=dict)
    interfaces: dict[int, Interface] = field(default_factory=dict)
    usb: dict[int, HostUSB] = field(default_factory=dict)


class Fake(Hypervisor):
    """A host that keeps its VMs in `guests`; `memory` bytes bound what they may have together, None is no
    bound.

    Domids count from 1, and events come in the order of the calls. What a guest does by itself (`power_off`,
    `crash`, `agent`) is a method beside those of the interface.
    """

    type = "FAKE"

    def __init__(self, run_directory: Path = Path("/run/kronos/vm"), *, memory: int | None = None) -> None:
        self.run_directory = run_directory
        self.memory = memory
        self.guests: dict[str, Guest] = {}
        self.firmware: dict[str, Kept] = {}
        self.trees: dict[str, dict[str, str]] = {}
        """What is in the xenstore of each guest that has one."""
        self.offered: dict[str, str] = {}
        self.asleep: set[str] = set()
        self._guard = threading.RLock()
        self._domids = itertools.count(1)
        self._announcer = Announcer("fake-hypervisor-events")

    # The interface

    def start(self, domain: Domain, *, paused: bool = False) -> int:
        with self._guard:
            guest = self._add(domain)
            self._announce(domain.uuid, EventKind.STARTED)
            if paused:
                self._to(guest, State.PAUSED, EventKind.PAUSED)
            return guest.domid

    def destroy(self, uuid: str) -> None:
        with self._in(uuid):
            self._end(uuid, EventKind.HALTED, Reason.DESTROYED)

    def shutdown(self, uuid: str) -> None:
        with self._in(uuid, State.RUNNING) as guest:
            if guest.obeys:
                self.power_off(uuid)

    def reboot(self, uuid: str) -> None:
        with self._in(uuid, State.RUNNING) as guest:
            if not guest.obeys:
                return
            if guest.domain.on_reboot == "restart":
                self._announce(uuid, EventKind.REBOOTED)
            else:
                self._end(uuid, EventKind.HALTED, Reason.REBOOTED)

    def pause(self, uuid: str) -> None:
        with self._in(uuid, State.RUNNING) as guest:
            self._to(guest, State.PAUSED, EventKind.PAUSED)

    def unpause(self, uuid: str) -> None:
        with self._in(uuid, State.PAUSED) as guest:
            self._to(guest, State.RUNNING, EventKind.RESUMED)

    def suspend(self, uuid: str, path: Path) -> None:
        with self._in(uuid) as guest:
            _write_image(path, {"uuid": uuid, "memory": guest.memory})
            self._end(uuid, EventKind.SUSPENDED, None)

    def resume(self, domain: Domain, path: Path, *, paused: bool = False) -> int:
        try:
            image = _read_image(path)
        except (OSError, ValueError) as error:
            raise Failure("INTERNAL_ERROR", f"{path}: {error}") from error
        if not isinstance(image, dict) or image.get("uuid") != domain.uuid:
            raise Failure("VM_CHECKPOINT_RESUME_FAILED", domain.uuid)
        return self.start(domain, paused=paused)

    saves_beside = True

    def save_memory(self, uuid: str, path: Path) -> None:
        with self._in(uuid, State.PAUSED) as guest:
            _write_image(path, {"uuid": uuid, "memory": guest.memory})

    def readdress(self, path: Path, uuid: str, new_uuid: str) -> None:
        _write_image(path, _read_image(path) | {"uuid": new_uuid})

    def is_saved(self, path: Path) -> bool:
        try:
            return "memory" in _read_image(path)
        except (OSError, ValueError):
            return False

    def statuses(self) -> list[Status]:
        with self._guard:
            return [Status(uuid, guest.domid, guest.state) for uuid, guest in self.guests.items()]

    def plug_disk(self, uuid: str, disk: Disk) -> None:
        with self._in(uuid) as guest:
            if disk.device in guest.disks:
                raise Failure("DEVICE_ALREADY_ATTACHED", uuid)
            guest.disks[disk.device] = disk

    def unplug_disk(self, uuid: str, device: int, *, timeout: float = 30.0) -> None:
        self._unplug(uuid, DeviceId("disk", device))

    def change_media(self, uuid: str, disk: Disk) -> None:
        with self._in(uuid) as guest:
            drive = guest.disks.get(disk.device)
            if drive is None:
                raise Failure("DEVICE_ALREADY_DETACHED", uuid)
            guest.disks[disk.device] = replace(drive, path=disk.path, format=disk.format)

    def plug_interface(self, uuid: str, interface: Interface) -> None:
        with self._in(uuid) as guest:
            if interface.device in guest.interfaces:
                raise Failure("DEVICE_ALREADY_ATTACHED", uuid)
            guest.interfaces[interface.device] = interface

    def unplug_interface(self, uuid: str, device: int, *, timeout: float = 30.0) -> None:
        self._unplug(uuid, DeviceId("interface", device))

    def unplug_usb(self, uuid: str, number: int, *, timeout: float = 30.0) -> None:
        self._unplug(uuid, DeviceId("usb", number))

    def kept(self, uuid: str) -> Kept:
        return self.firmware.get(uuid, Kept())

    def forget(self, uuid: str) -> None:
        self.firmware.pop(uuid, None)

    def devices(self, uuid: str) -> set[DeviceId]:
        with self._in(uuid) as guest:
            disks = {DeviceId("disk", number) for number in guest.disks}
            usb = {DeviceId("usb", number) for number in guest.usb}
            return disks | usb | {DeviceId("interface", number) for number in guest.interfaces}

    def watch(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        return self._announcer.watch(callback)

    def usages(self) -> list[Usage]:
        with self._guard:
            return [
                Usage(
                    uuid,
                    guest.domid,
                    guest.state is State.RUNNING,
                    time.monotonic(),
                    vcpus=dict.fromkeys(range(guest.vcpus), 0),
                    disks={number: DiskStatistics() for number in guest.disks},
                    memory=guest.memory,
                )
                for uuid, guest in self.guests.items()
            ]

    def vnc(self, uuid: str) -> Path:
        with self._in(uuid):
            return self.run_directory / uuid / "vnc"

    def serial(self, uuid: str) -> Console:
        with self._in(uuid):
            return Console(self.run_directory / uuid / "serial", self.run_directory / uuid / "serial.log")

    def channel(self, uuid: str, name: str) -> Path | None:
        # Whoever tests a guest listens there.
        socket = self.run_directory / uuid / name.rpartition(".")[2]
        return socket if socket.exists() else None

    def guest_info(self, uuid: str) -> GuestInfo:
        with self._in(uuid) as guest:
            if guest.info is None:
                raise Failure("VM_MISSING_PV_DRIVERS", uuid)
            return guest.info

    def guest_tree(self, uuid: str) -> Mapping[str, str] | None:
        return self.trees.get(uuid)

    def tell(self, uuid: str, words: Mapping[str, str | None]) -> None:
        with self._in(uuid):
            if uuid not in self.trees:
                raise Failure("VM_LACKS_FEATURE", uuid)
            for key, value in words.items():
                if value is None:
                    kept = {k: v for k, v in self.trees[uuid].items() if not f"{k}/".startswith(f"{key}/")}
                    self.trees[uuid] = kept
                else:
                    self.trees[uuid][key] = value

    def offer(self, features: Mapping[str, str]) -> None:
        self.offered = dict(features)

    def sleep(self, uuid: str) -> None:
        with self._in(uuid, State.RUNNING):
            self.asleep.add(uuid)

    def rouse(self, uuid: str) -> None:
        with self._in(uuid, State.RUNNING):
            self.asleep.discard(uuid)

    def snapshot_disks(
        self, uuid: str, overlays: Mapping[int, Path], bitmaps: Mapping[int, str] | None = None
    ) -> None:
        with self._in(uuid) as guest:
            for device in overlays:
                self._disk(guest, device)
            for device, overlay in overlays.items():
                guest.disks[device] = replace(guest.disks[device], path=overlay, format="qcow2")

    def resize_disk(self, uuid: str, device: int, size: int) -> None:
        with self._in(uuid) as guest:
            self._disk(guest, device)

    def limit_disk(self, uuid: str, device: int, limits: Limits) -> None:
        with self._in(uuid) as guest:
            guest.disks[device] = replace(self._disk(guest, device), limits=limits)

    def set_carrier(self, uuid: str, device: int, carrier: bool) -> None:
        with self._in(uuid) as guest:
            if device not in guest.interfaces:
                raise Failure("DEVICE_ALREADY_DETACHED", uuid)
            guest.interfaces[device] = replace(guest.interfaces[device], carrier=carrier)

    def set_memory_target(self, uuid: str, target: int) -> None:
        with self._in(uuid) as guest:
            guest.memory = target
            self._announce(uuid, EventKind.MEMORY_CHANGED, value=target)

    def set_vcpus(self, uuid: str, vcpus: int) -> None:
        with self._in(uuid) as guest:
            if not 1 <= vcpus <= guest.domain.vcpus_max:
                raise Failure("INTERNAL_ERROR", f"{vcpus} virtual CPUs of {guest.domain.vcpus_max}")
            guest.vcpus = vcpus

    def rename(self, uuid: str, name: str) -> None:
        with self._in(uuid) as guest:
            guest.domain = replace(guest.domain, name=name)

    def close(self) -> None:
        self._announcer.close()

    # What guests do by themselves

    def power_off(self, uuid: str) -> None:
        """The guest switches itself off."""
        with self._in(uuid) as guest:
            self._after(guest, guest.domain.on_poweroff, Reason.SHUTDOWN)

    def crash(self, uuid: str) -> None:
        """The guest's kernel says that it crashed."""
        with self._in(uuid) as guest:
            self._announce(uuid, EventKind.CRASHED)
            self._after(guest, guest.domain.on_crash, Reason.CRASHED)

    def agent(self, uuid: str, info: GuestInfo | None) -> None:
        """The guest's agent starts to answer, or stops."""
        with self._in(uuid) as guest:
            guest.info = info
            self._announce(uuid, EventKind.AGENT_CONNECTED if info else EventKind.AGENT_DISCONNECTED)

    def settle(self, timeout: float = 10.0) -> bool:
        """Wait until every event so far is delivered."""
        return self._announcer.settle(timeout)

    # Inside

    def _add(self, domain: Domain) -> Guest:
        if domain.uuid in self.guests:
            raise Failure("DOMAIN_EXISTS", domain.uuid, str(self.guests[domain.uuid].domid))
        if self.memory is not None:
            free = self.memory - sum(one.domain.memory_static_max for one in self.guests.values())
            if domain.memory_static_max > free:
                raise Failure("HOST_NOT_ENOUGH_FREE_MEMORY", str(domain.memory_static_max), str(free))
        guest = Guest(
            domain, next(self._domids), State.RUNNING, memory=domain.memory_target, vcpus=domain.vcpus
        )
        guest.disks = {disk.device: disk for disk in domain.disks}
        guest.interfaces = {interface.device: interface for interface in domain.interfaces}
        guest.usb = {usb.number: usb for usb in domain.usb}
        self.firmware[domain.uuid] = domain.kept
        self.guests[domain.uuid] = guest
        return guest

    @contextmanager
    def _in(self, uuid: str, *expected: State) -> Iterator[Guest]:
        wanted = expected[0].value.lower() if expected else "running"
        with self._guard:
            guest = self.guests.get(uuid)
            if guest is None:
                raise Failure("VM_BAD_POWER_STATE", uuid, wanted, "halted")
            if expected and guest.state not in expected:
                raise Failure("VM_BAD_POWER_STATE", uuid, wanted, guest.state.value.lower())
            yield guest

    def _disk(self, guest: Guest, device: int) -> Disk:
        if device not in guest.disks:
            raise Failure("DEVICE_ALREADY_DETACHED", guest.domain.uuid)
        return guest.disks[device]

    def _unplug(self, uuid: str, device: DeviceId) -> None:
        with self._in(uuid) as guest:
            of_kind: dict[DeviceClass, dict[int, Any]]
            of_kind = {"disk": guest.disks, "interface": guest.interfaces, "usb": guest.usb}
            devices = of_kind[device.kind]
            if device.number not in devices:
                raise Failure("DEVICE_ALREADY_DETACHED", uuid)
            if not guest.obeys:
                raise Failure("DEVICE_DETACH_TIMEOUT", IN_XENAPI[device.kind], uuid)
            del devices[device.number]
            self._announce(uuid, EventKind.DEVICE_REMOVED, device=device)

    def _after(self, guest: Guest, action: str, reason: Reason) -> None:
        match _AFTER_END[action]:
            case State.HALTED:
                self._end(guest.domain.uuid, EventKind.HALTED, reason)
            case State.PAUSED:
                self._to(guest, State.PAUSED, EventKind.PAUSED)
            case _:
                self._announce(guest.domain.uuid, EventKind.REBOOTED)

    def _end(self, uuid: str, kind: EventKind, reason: Reason | None) -> None:
        del self.guests[uuid]
        self._announce(uuid, kind, reason=reason)

    def _to(self, guest: Guest, state: State, kind: EventKind) -> None:
        guest.state = state
        self._announce(guest.domain.uuid, kind)

    def _announce(
        self,
        uuid: str,
        kind: EventKind,
        *,
        reason: Reason | None = None,
        device: DeviceId | None = None,
        value: int = 0,
    ) -> None:
        self._announcer.announce(Event(uuid, kind, reason=reason, device=device, value=value))


def _write_image(path: Path, image: dict[str, object]) -> None:
    path.write_text(json.dumps(image) + "\n")


def _read_image(path: Path) -> Any:
    """Raises ValueError, OSError. Behind the first line may be the rest of a disk."""
    with path.open() as file:
        return json.loads(file.readline())
