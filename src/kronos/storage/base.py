"""What every storage driver offers: an SR and its volumes, in plain values.

A driver serves one SR on one host and knows nothing of the database. The SR itself keeps what a VDI record needs
(names, type, lineage), so that a host that has never seen it can fill its database from `scan`.

Optional methods decide the SR type's capabilities: see `registry`. Sizes are bytes, times seconds since 1970 UTC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from kronos.datamodel.errors import Failure
from kronos.storage.faults import Fault

SECTOR = 512
LARGEST_DISK = 16 << 40
"""Bytes; a driver may have a bound of its own."""


def nothing() -> None:
    """What is to be done at a moment that nobody waits for."""


@dataclass(frozen=True)
class Space:
    """How big an SR is: its file system or volume group, what is used of it, what its disks could come to."""

    physical_size: int
    physical_utilisation: int
    virtual_allocation: int


@dataclass(frozen=True)
class Volume:
    """A VDI as the SR knows it. Field names are those of the VDI record; `parent` and `snapshot_of` are uuids."""

    uuid: str
    location: str
    virtual_size: int
    physical_utilisation: int
    format: str
    name_label: str = ""
    name_description: str = ""
    type: str = "user"
    sharable: bool = False
    read_only: bool = False
    managed: bool = True
    parent: str = ""
    is_a_snapshot: bool = False
    snapshot_of: str = ""
    snapshot_time: float = 0.0
    sm_config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attachment:
    """Where a hypervisor finds an attached volume, and how it must read it (never by guessing)."""

    path: Path
    format: str
    read_only: bool


@dataclass(frozen=True)
class Candidate:
    """An SR, or a place for one, that `probe` found. `sr_uuid` is empty when there is none yet."""

    configuration: Mapping[str, str]
    complete: bool
    sr_uuid: str = ""
    space: Space | None = None


class LiveSwitch(Protocol):
    """Makes the guest that has a volume open write to `overlay` from one moment on (QEMU's blockdev-snapshot).

    VM_LACKS_FEATURE means that nothing was tried. After any other error the driver assumes that the guest may
    have switched, and goes on with the overlay, which shows the same content either way.
    """

    def __call__(self, uuid: str, overlay: Path) -> None: ...


class PendingSnapshot(Protocol):
    """A live snapshot between its preparation and its end, so that many disks can switch in one moment."""

    def announce(self) -> Path:
        """Write down that the guest is about to switch, and say to which file: an empty qcow2 overlay."""
        ...

    @property
    def volume(self) -> Volume:
        """The new volume. Only once the `with` block has ended well."""
        ...


class StorageDriver(ABC):
    """One SR on this host. device_config's keys are the keyword arguments of `__init__`."""

    label: ClassVar[str] = ""
    """SM.name_label"""
    description: ClassVar[str] = ""
    """SM.name_description"""
    version: ClassVar[str] = "1.0"
    content_type: ClassVar[str] = "user"
    """SR.content_type of an SR of this type"""
    configuration: ClassVar[Mapping[str, str]] = {}
    """A description for each key of device_config"""
    traits: ClassVar[frozenset[str]] = frozenset()
    """Capabilities that no method shows, such as THIN_PROVISIONING"""
    image_formats: ClassVar[tuple[str, ...]] = ()
    """SM.supported_image_formats"""
    for_tests: ClassVar[bool] = False

    def __init__(self, sr_uuid: str) -> None:
        self.sr_uuid = sr_uuid

    # The SR.

    @abstractmethod
    def attach(self) -> None:
        """Make the SR usable on this host, finishing or undoing what a crash interrupted. Idempotent.

        Raises SR_BACKEND_FAILURE_47.
        """

    @abstractmethod
    def detach(self) -> None:
        """Let go of the SR. Idempotent."""

    @abstractmethod
    def stat(self) -> Space:
        """Raises SR_NOT_ATTACHED, as every method below does before `attach`."""

    def space_now(self) -> tuple[int, int] | None:
        """Its physical size and utilisation, from a driver that can tell without a program and without waiting."""
        return None

    @abstractmethod
    def scan(self) -> list[Volume]:
        """Every volume, the unmanaged parents of chains among them, in order of uuid."""

    def create(self, size: int) -> None:
        """Make an empty SR. `size` may be 0: what the place holds. Raises SR_BACKEND_FAILURE_42."""
        raise self._unsupported()

    def destroy(self, began: Callable[[], None] = nothing) -> None:
        """Wipe an attached SR that holds no volumes. Raises SR_NOT_EMPTY.

        It calls `began` when it is certain that there are none, before its first step: from then on the destruction
        has to be finished, by `discard` if the process dies.
        """
        raise self._unsupported()

    def discard(self) -> None:
        """Remove what there is of an SR that nobody was told of, or that was being destroyed, whole or not."""
        self.attach()
        self.destroy()

    def probe(self) -> list[Candidate]:
        """What can be found with this device_config; needs no `attach`."""
        raise self._unsupported()

    # Volumes. All raise VDI_MISSING for a uuid that the SR does not have.

    @abstractmethod
    def volume(self, uuid: str) -> Volume:
        """One volume, managed or not, as `scan` would show it."""

    @abstractmethod
    def volume_attach(self, uuid: str, writable: bool) -> Attachment:
        """Make the volume's content available on this host. Raises VDI_READONLY, SR_BACKEND_FAILURE_46."""

    @abstractmethod
    def volume_detach(self, uuid: str) -> None:
        """Idempotent."""

    def volume_create(
        self,
        uuid: str,
        virtual_size: int,
        *,
        name_label: str = "",
        name_description: str = "",
        type: str = "user",
        sharable: bool = False,
        read_only: bool = False,
        sm_config: Mapping[str, str] | None = None,
    ) -> Volume:
        """A new disk that reads as zeros. Its size is `virtual_size`, rounded up to the next sector.

        Raises SR_BACKEND_FAILURE_79 (size not above 0), VDI_TOO_LARGE, SR_BACKEND_FAILURE_43, 44.
        """
        raise self._unsupported()

    def volume_destroy(self, uuid: str) -> None:
        """Raises VDI_IN_USE when the hypervisor has it open and that can be seen from here."""
        raise self._unsupported()

    def volume_resize(self, uuid: str, virtual_size: int) -> Volume:
        """Grow a disk that no guest has open; in a running guest its hypervisor does that, and `volume` shows it.

        Raises SR_BACKEND_FAILURE_79 for a smaller size, VDI_TOO_LARGE, VDI_IN_USE.
        """
        raise self._unsupported()

    def volume_snapshot(self, uuid: str, new_uuid: str, *, live: LiveSwitch | None = None) -> Volume:
        """A volume `new_uuid` with the present content of `uuid`, in constant time.

        Without `live` the caller promises that no guest has the disk open for writing.

        Raises SR_BACKEND_FAILURE_109, 43, VDI_IN_USE, and what `live` raises.
        """
        raise self._unsupported()

    def volume_clone(self, uuid: str, new_uuid: str, *, live: LiveSwitch | None = None) -> Volume:
        """As volume_snapshot, but the new volume is a disk in its own right."""
        raise self._unsupported()

    def volume_revert(self, uuid: str, source: str) -> Volume:
        """Give a disk the content and size of another volume, which keeps them, in constant time; what it held is gone.

        The caller promises that no guest has either open. Raises SR_BACKEND_FAILURE_109, VDI_IN_USE.
        """
        raise self._unsupported()

    def live_snapshot(
        self, uuid: str, new_uuid: str, *, clone: bool = False
    ) -> AbstractContextManager[PendingSnapshot]:
        """volume_snapshot in two halves: many disks, of several SRs too, can be prepared and switch together."""
        raise self._unsupported()

    def volume_update(
        self,
        uuid: str,
        *,
        name_label: str | None = None,
        name_description: str | None = None,
        sharable: bool | None = None,
        read_only: bool | None = None,
        snapshot_of: str | None = None,
        sm_config: Mapping[str, str] | None = None,
    ) -> Volume:
        """Keep what the VDI's record says in the SR as well; None leaves a value as it is."""
        raise self._unsupported()

    def volume_introduce(self, uuid: str, location: str) -> Volume:
        """Take in what lies at `location` as volume `uuid`; nothing changes if it is that volume already.

        Raises VDI_LOCATION_MISSING, LOCATION_NOT_UNIQUE, SR_BACKEND_FAILURE_43, SR_BACKEND_FAILURE_46 (not an
        image that may be opened).
        """
        raise self._unsupported()

    def _unsupported(self) -> Failure:
        return Failure("SR_OPERATION_NOT_SUPPORTED", self.sr_uuid)

    def _missing(self, uuid: str) -> Failure:
        return Failure("VDI_MISSING", self.sr_uuid, uuid)


def whole_sectors(uuid: str, untrusted_size: int, maximum: int = LARGEST_DISK) -> int:
    """The size a disk gets when `untrusted_size` bytes are asked for: the next multiple of a sector.

    XenServer rounds up to 2 MiB, a VHD's block. Nothing in qcow2 asks for that, and an exact size lets a disk
    move to another SR, or out and in again, without growing.

    Raises SR_BACKEND_FAILURE_79, VDI_TOO_LARGE.
    """
    if untrusted_size <= 0:
        raise Fault.VDI_SIZE.failure(f"{untrusted_size} is not above 0")
    size = -(-untrusted_size // SECTOR) * SECTOR
    if size > maximum:
        raise Failure("VDI_TOO_LARGE", uuid, str(maximum))
    return size
