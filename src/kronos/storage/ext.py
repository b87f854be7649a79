"""SR type `ext`: one file system over local disks, by LVM. Its names are XenServer's.

The volume group XSLocalEXT-<SR's uuid> is over all the disks; in it is one logical volume, <SR's uuid>, with ext4,
mounted at /run/sr-mount/<SR's uuid>. The disks in device_config matter to `create` and `probe` alone: an SR is found
by its group's name, so that it does not matter what the kernel calls its disks at the next start.
"""

from __future__ import annotations

import logging
import os
import struct
import uuid as uuids
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kronos.datamodel.errors import Failure
from kronos.storage.base import Candidate, Space, Volume, nothing
from kronos.storage.block import devices, freedom, lvm, mounts
from kronos.storage.block.lvm import Physical
from kronos.storage.block.turn import Run, turn
from kronos.storage.directory.driver import DirectoryDriver
from kronos.storage.faults import Fault, as_failures
from kronos.system.commands import CommandFailed

GROUP = "XSLocalEXT-"
# Whoever writes to it is root or a guest's QEMU: no blocks are kept for root. Few files, and large.
_FILE_SYSTEM = ("-t", "ext4", "-T", "largefile", "-m", "0", "-e", "remount-ro", "-E", "nodiscard", "-q")
_CORRECTED = 1
"""What e2fsck ends with when it found faults and corrected all of them."""

log = logging.getLogger(__name__)


class ExtDriver(DirectoryDriver):
    """Disks as qcow2 files in one file system over local disks."""

    type = "ext"
    label = "Local disks"
    description = "Disks as qcow2 files in one ext4 file system that spans local disks, by LVM"
    configuration = {"device": "Local disks or partitions without data, separated by commas (required)"}

    def __init__(self, sr_uuid: str, *, device: str = "") -> None:
        """Raises SR_BACKEND_FAILURE_90 (no device), 91 (not a path of a device)."""
        if not device:
            raise Fault.DEVICE_MISSING.failure()
        self._devices = device.split(",")
        for each in self._devices:
            if not each.startswith("/dev/") or not each.isprintable() or ".." in Path(each).parts:
                raise Fault.DEVICE_INVALID.failure(f"{each!r} is not the path of a device")
        super().__init__(sr_uuid, mounts.BASE / sr_uuid)
        self._group = f"{GROUP}{sr_uuid}"

    # The SR.

    def create(self, size: int) -> None:
        """Take the disks, all of which must be free, whole. `size` is not used. The SR is not attached afterwards.

        Raises SR_BACKEND_FAILURE_42 (there is such an SR), what `devices.examine` and `freedom.check` raise, and
        50, 52, 55, 57, 77 for a step that fails; nothing is left then.
        """
        with as_failures(), turn() as run:
            if self._members(run):
                raise Fault.SR_EXISTS.failure(self._group)
            disks = [devices.examine(name) for name in self._devices]
            freedom.check(disks)
            with ExitStack() as undo:
                undo.callback(self._undo_creation, run)
                for disk, identity in zip(disks, self._identities(), strict=True):
                    with _step(Fault.PHYSICAL_CREATE):
                        lvm.make_physical(run, disk.path, identity)
                with _step(Fault.GROUP_CREATE):
                    lvm.make_group(run, self._group, [disk.path for disk in disks])
                with _step(Fault.VOLUME_CREATE):
                    lvm.make_volume(run, self._group, self.sr_uuid)
                    volume = lvm.logical_volumes(run, self._group)[self.sr_uuid]
                with _step(Fault.FILE_SYSTEM_CREATE):
                    run(["mke2fs", *_FILE_SYSTEM, "-U", self.sr_uuid, volume])
                self._mount(run)
                self.root.chmod(0o711)
                super().create(size)
                self._unmount(run)
                undo.pop_all()

    def attach(self) -> None:
        with as_failures(), turn() as run, ExitStack() as undo:
            if self._mount(run):
                undo.callback(self._unmount, run)
            super().attach()
            undo.pop_all()

    def detach(self) -> None:
        """Raises SR_BACKEND_FAILURE_16 while something in it is open; it is attached then as before."""
        with as_failures(), turn() as run:
            was_open = self.directory.close()
            try:
                self._unmount(run)
            except Failure:
                if was_open:
                    self.directory.open()
                raise

    def destroy(self, began: Callable[[], None] = nothing) -> None:
        """Wipe an attached SR that holds no volumes: the disks are free then. Raises SR_NOT_EMPTY, 51."""
        with as_failures(), turn() as run:
            with self.directory.locked():
                self._check_empty()
            began()
            self.directory.close()
            self._remove(run)

    def discard(self) -> None:
        with as_failures(), turn() as run:
            self.directory.close()
            self._remove(run)

    def probe(self) -> list[Candidate]:
        """The SRs on these disks, or the disks as a place for one."""
        with as_failures(), turn() as run:
            named = {os.path.realpath(name): name for name in self._devices}
            rows = _listed(run)
            groups = {
                row.group
                for row in rows
                if row.group.startswith(GROUP) and os.path.realpath(row.name) in named
            }
            if groups:
                members = {group: [row for row in rows if row.group == group] for group in sorted(groups)}
                return [self._candidate(run, rows, named) for rows in members.values()]
            disks = [devices.examine(name) for name in self._devices]
            try:
                freedom.check(disks)
            except Failure:
                return []
            return [Candidate({"device": ",".join(self._devices)}, True)]

    def stat(self) -> Space:
        self._check_mounted()
        return super().stat()

    def scan(self) -> list[Volume]:
        self._check_mounted()
        return super().scan()

    # Inside. All of it is done in turn.

    def _members(self, run: Run) -> list[Physical]:
        return [row for row in _listed(run) if row.group == self._group]

    def _volume(self, run: Run) -> str:
        """The logical volume's device, which is active when this returns.

        Raises SR_BACKEND_FAILURE_47 (disks are missing), 52.
        """
        members = self._members(run)
        if not members or members[0].missing:
            # At the start of a host its disks may just be coming up.
            with suppress(CommandFailed):
                run(["udevadm", "settle", "--timeout=20"])
            members = self._members(run)
        if not members:
            raise Fault.SR_UNAVAILABLE.failure(f"no disk of the volume group {self._group} is there")
        if len({row.group_uuid for row in members}) > 1:
            raise Fault.SR_UNAVAILABLE.failure(f"there are several volume groups {self._group}")
        if missing := members[0].missing:
            raise Fault.SR_UNAVAILABLE.failure(
                f"{missing} of the {len(members)} disks of the volume group {self._group} are missing"
            )
        volume = lvm.logical_volumes(run, self._group).get(self.sr_uuid)
        if volume is None:
            raise Fault.SR_UNAVAILABLE.failure(f"the volume group {self._group} has no volume {self.sr_uuid}")
        with _step(Fault.VOLUME_MOUNT):
            lvm.activate(run, self._group, self.sr_uuid)
        return volume

    def _mount(self, run: Run) -> bool:
        """Have it mounted. False: it is already. Raises SR_BACKEND_FAILURE_47, 52."""
        volume = self._volume(run)
        with _step(Fault.VOLUME_MOUNT):
            if there := mounts.device_at(self.root):
                if there != mounts.number_of(volume):
                    raise Fault.VOLUME_MOUNT.failure(f"something else is mounted at {self.root}")
                return False
            _mend(run, volume)
            mounts.mount(run, volume, self.root)
            if not mounts.device_at(self.root):
                raise Fault.VOLUME_MOUNT.failure(f"what was mounted at {self.root} is not seen here")
        return True

    def _unmount(self, run: Run) -> None:
        """Raises SR_BACKEND_FAILURE_16."""
        if mounts.device_at(self.root):
            with _step(Fault.SR_IN_USE):
                mounts.unmount(run, self.root)
        with suppress(OSError):
            self.root.rmdir()
        try:
            if self.sr_uuid in lvm.logical_volumes(run, self._group):
                lvm.deactivate(run, self._group, self.sr_uuid)
        except CommandFailed as failed:  # it is not mounted any more, which is what counts
            log.warning("The volume of the SR %s stays active: %s", self.sr_uuid, failed)

    def _remove(self, run: Run) -> None:
        """Take away whatever there is of this SR, and nothing else. Raises SR_BACKEND_FAILURE_16, 51."""
        rows = _listed(run)
        members = [row for row in rows if row.group == self._group]
        if any(row.missing for row in members):
            raise Fault.VOLUME_DELETE.failure(f"disks of the volume group {self._group} are missing")
        # Disks that were to become part of the group when somebody pulled the plug: their identity says so.
        identities = set(self._identities())
        early = [row for row in rows if not row.group and row.uuid in identities]
        with _step(Fault.VOLUME_DELETE):
            if members:
                self._unmount(run)
                if self.sr_uuid in lvm.logical_volumes(run, self._group):
                    lvm.remove_volume(run, self._group, self.sr_uuid)
                lvm.remove_group(run, self._group)
            for row in (*members, *early):
                lvm.remove_physical(run, row.name)

    def _undo_creation(self, run: Run) -> None:
        try:
            self._remove(run)
        except Failure as failure:
            log.warning("The unfinished SR %s stays on %s: %s", self.sr_uuid, self._devices, failure)

    def _identities(self) -> Iterator[str]:
        """LVM's identity of each disk of an SR that is made here; nobody else's disk has one of these."""
        for number in range(len(self._devices)):
            text = uuids.uuid5(uuids.UUID(self.sr_uuid), str(number)).hex
            ends = (0, 6, 10, 14, 18, 22, 26, 32)
            yield "-".join(text[start:end] for start, end in zip(ends, ends[1:], strict=False))

    def _candidate(self, run: Run, rows: list[Physical], named: dict[str, str]) -> Candidate:
        uuid = rows[0].group.removeprefix(GROUP)
        config = {"device": ",".join(named.get(os.path.realpath(row.name), row.name) for row in rows)}
        if rows[0].missing:
            return Candidate({"device": ",".join(self._devices)}, False, uuid)
        volume = lvm.logical_volumes(run, rows[0].group).get(uuid)
        return Candidate(config, volume is not None, uuid, _space(volume) if volume else None)

    def _check_mounted(self) -> None:
        """An empty mount point is no SR whose disks are gone. Raises SR_BACKEND_FAILURE_47."""
        if self.directory.is_open and not mounts.device_at(self.root):
            raise Fault.SR_UNAVAILABLE.failure(f"nothing is mounted at {self.root}")


def _listed(run: Run) -> list[Physical]:
    with _step(Fault.PHYSICAL_LIST):
        return lvm.physical_volumes(run)


def _mend(run: Run, volume: str) -> None:
    """What a power cut left of the file system is put in order. Raises CommandFailed where that needs a person."""
    try:
        run(["e2fsck", "-p", volume])
    except CommandFailed as failed:
        if failed.status != _CORRECTED:
            raise
        log.warning("The file system on %s had faults, which are corrected", volume)


def _space(volume: str) -> Space | None:
    """What an ext4 file system that is not mounted says of itself; nothing where it cannot be read."""
    try:
        with Path(volume).open("rb") as file:
            file.seek(1024)
            block = file.read(1024)
        (magic,) = struct.unpack_from("<H", block, 56)
        if magic != 0xEF53:
            return None
        blocks, _, free, _, _, scale = struct.unpack_from("<6I", block, 4)
        (wide,) = struct.unpack_from("<I", block, 96)
        if wide & 0x80:  # numbers of 64 bits
            high, _, high_free = struct.unpack_from("<3I", block, 336)
            blocks, free = blocks | high << 32, free | high_free << 32
    except (OSError, struct.error):
        return None
    size = 1024 << scale
    return Space(blocks * size, (blocks - free) * size, 0)


@contextmanager
def _step(fault: Fault) -> Iterator[None]:
    """A command that fails is this fault."""
    try:
        yield
    except CommandFailed as failed:
        raise fault.failure(failed.stderr or str(failed)) from failed
