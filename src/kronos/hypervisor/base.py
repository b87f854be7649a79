"""What a virtual machine is, in XenAPI's words, and what every hypervisor driver can do with one.

A driver keeps no record of its own: a VM exists here from `start` or `resume` until it halts or is
suspended, and whoever calls holds the record. Every `Failure` that names a VM names it by uuid; the caller,
who knows references, puts the reference in its place.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from kronos.datamodel.errors import Failure
from kronos.hypervisor.abilities import Saving, Words
from kronos.hypervisor.disk_facts import Bitmap, DiskStatistics, Progress
from kronos.hypervisor.hardware import HostUSB, Kept
from kronos.hypervisor.hardware import Platform as Platform
from kronos.hypervisor.usage import PhysicalMemory as PhysicalMemory
from kronos.hypervisor.usage import Usage
from kronos.system.hardware import Topology

Kind = Literal["hvm", "pv", "pvh", "pv_in_pvh"]
Action = Literal["destroy", "restart", "preserve", "coredump-destroy", "coredump-restart"]
DeviceClass = Literal["disk", "interface", "usb"]

IN_XENAPI: dict[DeviceClass, str] = {"disk": "VBD", "interface": "VIF", "usb": "VUSB"}
"""What clients call a device."""


@dataclass(frozen=True)
class DirectKernel:
    """Boot a kernel that lies in files of this host, not on the VM's disks."""

    kernel: Path
    ramdisk: Path | None = None
    cmdline: str = ""


@dataclass(frozen=True)
class Firmware:
    """Boot as a PC does. `order` is XenAPI's HVM_boot_params:order: c disk, d CD, n network, tried left to
    right."""

    type: Literal["bios", "uefi"] = "bios"
    order: str = "cd"
    secure_boot: bool = False
    nvram: Path | None = None


@dataclass(frozen=True)
class Limits:
    """Quality of service of one disk; 0 means without limit."""

    bytes_per_second: int = 0
    requests_per_second: int = 0


@dataclass(frozen=True)
class Disk:
    """One VBD: `device` is its userdevice number; `path` is None for an empty CD drive.

    `bus` is None for what the hypervisor does best, or names the one that a guest without drivers needs. A VHD must be
    whole by itself.
    """

    device: int
    path: Path | None
    format: Literal["raw", "qcow2", "vhd"] = "raw"
    read_only: bool = False
    cdrom: bool = False
    bootable: bool = False
    serial: str = ""
    limits: Limits = field(default_factory=Limits)
    bus: Literal["ide", "sata", "scsi", "virtio"] | None = None
    shared: bool = False


@dataclass(frozen=True)
class Interface:
    """One VIF. With `bridge` the hypervisor makes a tap and joins it to that bridge, under the name `tap` if one
    is given; with `tap` alone the device is the caller's, made and joined to its network before the start.
    `model` as in Disk.bus."""

    device: int
    mac: str
    bridge: str | None = None
    mtu: int = 1500
    tap: str | None = None
    carrier: bool = True
    model: str | None = None


@dataclass(frozen=True)
class Channel:
    """A named byte stream between guest and host, a unix socket at `path` here (None: in the VM's directory, or
    wherever the driver likes)."""

    name: str
    path: Path | None = None


@dataclass(frozen=True)
class Domain:
    """A VM as a driver starts it. Memory is in bytes; `weight`, `cap` (percent of one CPU) and `mask` (host
    CPU numbers) are VCPUs_params, None where not set; `clock_offset` is the distance of the VM's clock from
    UTC in seconds."""

    uuid: str
    name: str
    memory_static_max: int
    memory_target: int
    boot: DirectKernel | Firmware
    kind: Kind = "hvm"
    vcpus_max: int = 1
    vcpus: int = 1
    cores_per_socket: int = 1
    weight: int | None = None
    cap: int | None = None
    mask: Sequence[int] | None = None
    disks: Sequence[Disk] = ()
    interfaces: Sequence[Interface] = ()
    usb: Sequence[HostUSB] = ()
    pci: Sequence[str] = ()
    tpm: bool = False
    kept: Kept = field(default_factory=Kept)
    channels: Sequence[Channel] = ()
    platform: Platform = field(default_factory=Platform)
    on_poweroff: Action = "destroy"
    on_reboot: Action = "restart"
    on_crash: Action = "destroy"
    clock_offset: int = 0
    xenstore: Mapping[str, str] = field(default_factory=dict)
    """What the guest finds in xenstore below its domain's path, where there is one."""


class State(enum.Enum):
    """The power states a hypervisor sees; the values are XenAPI's vm_power_state."""

    RUNNING = "Running"
    PAUSED = "Paused"
    HALTED = "Halted"
    SUSPENDED = "Suspended"


@dataclass(frozen=True)
class Status:
    """A VM that this hypervisor holds now. `domid` is this hypervisor's own number for this run of the VM."""

    uuid: str
    domid: int
    state: State


class DeviceId(NamedTuple):
    """Which device of a VM: the VBD with this userdevice, the VIF with this device number, or that HostUSB."""

    kind: DeviceClass
    number: int


class EventKind(enum.Enum):
    """What happened to a VM, whoever caused it."""

    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    REBOOTED = "rebooted"
    CRASHED = "crashed"
    HALTED = "halted"
    SUSPENDED = "suspended"
    DEVICE_REMOVED = "device_removed"
    AGENT_CONNECTED = "agent_connected"
    AGENT_DISCONNECTED = "agent_disconnected"
    MEMORY_CHANGED = "memory_changed"
    CLOCK_CHANGED = "clock_changed"
    DISK_FAILED = "disk_failed"


class Reason(enum.Enum):
    """Why a VM halted. UNKNOWN: it went while nobody could watch (the hypervisor's daemon was away). REBOOTED: it asked
    to be started again, and its Domain's `on_reboot` leaves that to the toolstack."""

    SHUTDOWN = "shutdown"
    REBOOTED = "rebooted"
    DESTROYED = "destroyed"
    CRASHED = "crashed"
    MIGRATED = "migrated"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Event:
    """One happening. `reason` comes with HALTED, `device` with DEVICE_REMOVED and DISK_FAILED, `value` with
    MEMORY_CHANGED (bytes the guest has), CLOCK_CHANGED (seconds from UTC) and REBOOTED (the new domid; 0 where it stays
    the same)."""

    uuid: str
    kind: EventKind
    reason: Reason | None = None
    device: DeviceId | None = None
    value: int = 0


class Console(NamedTuple):
    """A serial console: a unix socket (one client at a time) and the file of what was printed from the start
    on."""

    socket: Path
    log: Path


@dataclass(frozen=True)
class GuestInfo:
    """What the agent inside the guest says; `networks` maps a MAC address (lower case) to its IP
    addresses."""

    hostname: str = ""
    os: dict[str, str] = field(default_factory=dict)
    networks: dict[str, tuple[str, ...]] = field(default_factory=dict)


GUEST_CHANNEL = "org.kronos.channel"
"""The channel that every VM has: what the host gives the guest, and what the guest says of itself."""


class Hypervisor(Saving, Words, ABC):
    """A way to run VMs on this host.

    Calls block, so they belong on worker threads; those on one VM take turns, those on different VMs do not
    wait for each other. A call about a VM that is not in the state it needs raises
    `VM_BAD_POWER_STATE(uuid, expected, actual)`; what the layer below refuses raises `INTERNAL_ERROR(text)`;
    a driver without an optional ability raises `VM_LACKS_FEATURE(uuid)`.
    """

    type: str
    """'XEN', 'KVM', 'QEMU' (emulated CPUs) or 'FAKE'."""

    @abstractmethod
    def start(self, domain: Domain, *, paused: bool = False) -> int:
        """Make the VM and let it run, or leave it paused before its first instruction; its domid.

        Raises DOMAIN_EXISTS, HOST_NOT_ENOUGH_FREE_MEMORY.
        """

    @abstractmethod
    def destroy(self, uuid: str) -> None:
        """Power cut: on return the VM is gone, and its devices are free."""

    @abstractmethod
    def shutdown(self, uuid: str) -> None:
        """Ask the guest to shut down, by agent or power button, and return; HALTED follows if it obeys."""

    @abstractmethod
    def reboot(self, uuid: str) -> None:
        """Ask the guest to reboot, and return; REBOOTED follows if it obeys."""

    @abstractmethod
    def pause(self, uuid: str) -> None:
        """Stop all virtual CPUs."""

    @abstractmethod
    def unpause(self, uuid: str) -> None:
        """Let the virtual CPUs of a paused VM run."""

    @abstractmethod
    def suspend(self, uuid: str, path: Path) -> None:
        """Write the VM's memory and device state to `path`, a file or block device, and end it: SUSPENDED
        follows."""

    @abstractmethod
    def resume(self, domain: Domain, path: Path, *, paused: bool = False) -> int:
        """Bring back what `suspend` wrote; its domid.

        The virtual hardware comes from the image; where its disks and networks are on this host comes from
        `domain`.
        """

    @abstractmethod
    def statuses(self) -> list[Status]:
        """Every VM that is running or paused here: the truth after a restart."""

    def runs(self, uuid: str) -> bool:
        """Is this VM running or paused here now?"""
        return any(status.uuid == uuid for status in self.statuses())

    def state(self, uuid: str) -> State | None:
        """What this VM does now: RUNNING or PAUSED; None where it is not here."""
        return next((status.state for status in self.statuses() if status.uuid == uuid), None)

    def ended(self) -> set[str]:
        """VMs that ended while nobody watched, whose HALTED is told to the first who does: it knows the reason."""
        return set()

    @abstractmethod
    def plug_disk(self, uuid: str, disk: Disk) -> None:
        """Add a disk to a live VM. Raises DEVICE_ALREADY_ATTACHED."""

    @abstractmethod
    def unplug_disk(self, uuid: str, device: int, *, timeout: float = 30.0) -> None:
        """Take a disk out of a live VM; on return nothing holds it open.

        Raises DEVICE_ALREADY_DETACHED, DEVICE_DETACH_REJECTED, DEVICE_DETACH_TIMEOUT when the guest does not
        let go within `timeout` seconds (DEVICE_REMOVED still follows if it does so later).
        """

    @abstractmethod
    def change_media(self, uuid: str, disk: Disk) -> None:
        """Put `disk.path` into the CD drive `disk.device` of a live VM, or empty it when the path is None."""

    @abstractmethod
    def plug_interface(self, uuid: str, interface: Interface) -> None:
        """Add a network interface to a live VM. Raises DEVICE_ALREADY_ATTACHED."""

    @abstractmethod
    def unplug_interface(self, uuid: str, device: int, *, timeout: float = 30.0) -> None:
        """As unplug_disk, for an interface."""

    @abstractmethod
    def watch(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Tell `callback` of every event from now on; the returned function ends that.

        Events of a driver arrive one after the other in a thread of the driver, which may make calls from
        there.
        """

    # What follows are abilities that a driver has by overriding them.

    def versions(self) -> dict[str, str]:
        """The versions of the layers below, by name: libvirt, qemu, xen."""
        return {}

    def physical_memory(self) -> PhysicalMemory | None:
        """The machine's memory as the hypervisor counts it; None where /proc of this system tells of all of it.

        Asked after each VM that comes or goes, so it has to be cheap. Raises INTERNAL_ERROR.
        """
        return None

    def physical_processors(self) -> int | None:
        """How many logical CPUs the machine has; None where /proc of this system shows them all. Raises
        INTERNAL_ERROR."""
        return None

    def topology(self) -> Topology | None:
        """How the machine's CPUs are arranged; None where this system's kernel shows it. Raises INTERNAL_ERROR."""
        return None

    def usages(self) -> list[Usage]:
        """What every VM here has used so far. It waits for none of them. Raises INTERNAL_ERROR."""
        return []

    def scheduler(self) -> str | None:
        """The name of the hypervisor's own scheduler of virtual CPUs (credit2); None where this system's kernel
        does that. Raises INTERNAL_ERROR."""
        return None

    def live_migration_obstacle(self, uuid: str) -> str:
        """Why a VM cannot be moved while it runs, in a sentence; empty where it can. Raises VM_BAD_POWER_STATE."""
        return ""

    def unplug_usb(self, uuid: str, number: int, *, timeout: float = 30.0) -> None:
        """As unplug_disk, for a USB device of the host."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def kept(self, uuid: str) -> Kept:
        """What the firmware of a VM that runs, or ran last, has to begin with the next time. Raises INTERNAL_ERROR."""
        return Kept()

    def devices(self, uuid: str) -> set[DeviceId]:
        """The disks, interfaces and USB devices of the host that a live VM has now."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def vnc(self, uuid: str) -> Path:
        """The unix socket where the VM's screen speaks RFB."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def serial(self, uuid: str) -> Console:
        """The VM's first serial port. The guest never waits for a reader; the log keeps what nobody read."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def channel(self, uuid: str, name: str) -> Path | None:
        """The host's end of a live VM's channel: a unix socket that takes one client at a time, or a terminal device.
        None where the VM has no channel of that name. Asks nothing of the layer below, as it is called often."""
        return None

    def guest_info(self, uuid: str) -> GuestInfo:
        """What the guest's agent tells now. Raises VM_MISSING_PV_DRIVERS when none answers."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def screenshot(self, uuid: str) -> bytes:
        """The VM's screen as a PNG or PPM image."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def snapshot_disks(
        self, uuid: str, overlays: Mapping[int, Path], bitmaps: Mapping[int, str] | None = None
    ) -> None:
        """From one moment on write to these files instead, one for each device number, all or none of them.

        They exist, are qcow2 and are backed by the disks' present files, which change no more. Bitmaps go on in the
        new files, empty, under their names; `bitmaps` names one more for a disk, that begins at that moment.
        """
        raise Failure("VM_LACKS_FEATURE", uuid)

    def snapshot_disk(self, uuid: str, device: int, overlay: Path) -> None:
        """snapshot_disks for one."""
        self.snapshot_disks(uuid, {device: overlay})

    def commit_disk(self, uuid: str, device: int, layer: Path, progress: Progress | None = None) -> None:
        """Put what is in `layer`, one of the files that a live disk consists of, into the file beneath it.

        On return nothing holds `layer` open, and nothing needs it; where it was the top, the guest writes to the file
        beneath from then on. That must be the disk's alone. Bitmaps are put together.
        """
        raise Failure("VM_LACKS_FEATURE", uuid)

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
        """Copy a live disk to `to` and go on there: an image that exists, of the disk's size and empty.

        `shallow` copies the top file alone: `to` is then backed by a copy of what the top is backed by. On return
        nothing holds the old file. Bitmaps move too. Until then the disk is where it was, and stays there in case of
        an error.
        """
        raise Failure("VM_LACKS_FEATURE", uuid)

    def disk_statistics(self, uuid: str) -> dict[int, DiskStatistics]:
        """What a live VM's guest has done with its disks, by device number."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def bitmap_add(self, uuid: str, device: int, name: str) -> None:
        """Note from now on which parts of a live disk change, in units of 64 KiB, in a bitmap in its top file.

        No other disk of the VM has a bitmap of this name.
        """
        raise Failure("VM_LACKS_FEATURE", uuid)

    def bitmap_remove(self, uuid: str, device: int, name: str) -> None:
        """Drop a bitmap of a live disk, maybe also its parts in files beneath the top; without effect when there is
        none of that name."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def bitmaps(self, uuid: str, device: int) -> list[Bitmap]:
        """The bitmaps of a live disk's top file."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def resize_disk(self, uuid: str, device: int, size: int) -> None:
        """Grow a disk of a live VM to `size` bytes."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def limit_disk(self, uuid: str, device: int, limits: Limits) -> None:
        """Change the quality of service of a disk of a live VM."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def set_carrier(self, uuid: str, device: int, carrier: bool) -> None:
        """Plug or pull the cable of an interface."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def set_memory_target(self, uuid: str, target: int) -> None:
        """Ask the balloon of a live VM for `target` bytes."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def set_vcpus(self, uuid: str, vcpus: int) -> None:
        """Change the number of virtual CPUs of a live VM, up to vcpus_max."""
        raise Failure("VM_LACKS_FEATURE", uuid)

    def forget(self, uuid: str) -> None:
        """The VM's record is gone: drop what is kept of halted VMs (the log of the serial console)."""

    def rename(self, uuid: str, name: str) -> None:
        """Tell the layer below the VM's new name, for those who look there."""

    def close(self) -> None:
        """Let go of the layer below; VMs run on."""
