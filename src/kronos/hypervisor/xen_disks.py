"""The disks of Xen's guests: what libvirt's libxl driver does with them, and what is done with the guest's QEMU.

Disks in files go by links of ours (see claims); block devices are the kernel's own, by their own names.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import libvirt

from kronos.datamodel.errors import Failure
from kronos.hypervisor import image
from kronos.hypervisor.base import DeviceId, Disk, Domain, Limits
from kronos.hypervisor.claims import Claims, Mode
from kronos.hypervisor.disk_facts import Bitmap, DiskStatistics, Progress
from kronos.hypervisor.libvirt import LIVE, LibvirtHypervisor
from kronos.hypervisor.qdisk import QdiskDisks
from kronos.hypervisor.refusals import refusing
from kronos.hypervisor.xen_rendering import XenRenderer


class XenDisks(LibvirtHypervisor):
    """The part of the Xen driver that has to do with disks."""

    _renderer: XenRenderer

    def __init__(self, uri: str, run_directory: Path) -> None:
        root = run_directory.absolute()
        self._claims = Claims(root, lambda uuid: self.places.of(uuid), self._is_there)
        self._qdisks = QdiskDisks(lambda uuid: self.places.of(uuid) / "monitor", self._claims)
        super().__init__(uri, run_directory)

    def _is_there(self, uuid: str) -> bool:
        try:
            self._lookup(uuid)
        except libvirt.libvirtError as error:
            return bool(error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN)
        return True

    # --- coming and going --------------------------------------------------------------------------------------------

    def _claimed(self, domain: Domain) -> Domain:
        """The domain with the names of its disks that Xen is to have. Raises INTERNAL_ERROR for images in use."""
        renderer = self._renderer.of(domain.kind == "hvm")
        return replace(domain, disks=[self._claim(domain.uuid, renderer, disk) for disk in domain.disks])

    def _claim(self, uuid: str, renderer: XenRenderer, disk: Disk) -> Disk:
        if disk.path is None or _is_raw_device(disk):
            return disk
        mode: Mode = "shared" if disk.shared else "read" if disk.read_only or disk.cdrom else "write"
        return replace(
            disk, path=self._claims.claim(uuid, renderer.target(disk), disk.path, mode, form=disk.format)
        )

    def _limit_at_start(self, domain: Domain) -> None:
        """libxl has no limits of its own; those of QEMU hold until the guest's next reboot."""
        renderer = self._renderer.of(domain.kind == "hvm")
        for disk in domain.disks:
            if disk.limits != Limits() and disk.path is not None and not _is_raw_device(disk):
                self._claims.keep_limits(domain.uuid, renderer.target(disk), disk.limits)
        self._limit_again(domain.uuid)

    def _is_limited(self, uuid: str) -> bool:
        return bool(self._claims.limits(uuid))

    def _limit_again(self, uuid: str) -> None:
        for target, limits in self._claims.limits(uuid).items():
            self._qdisks.await_plugged(uuid, target)
            self._qdisks.limit(uuid, target, limits)

    def _release(self, uuid: str) -> None:
        """The VM has ended: its images are free."""
        self._claims.release_all(uuid)

    def plug_disk(self, uuid: str, disk: Disk) -> None:
        with self._live(uuid) as domain:
            renderer = self._renderer.of(_is_emulated(domain), plugged=True)
            target = renderer.target(disk)
            if target in image.targets(domain.XMLDesc()).values():
                raise Failure("DEVICE_ALREADY_ATTACHED", uuid)
            if (disk.read_only or disk.cdrom) and not _is_raw_device(disk):
                # libvirt plugs no CD drives, and QEMU has no paravirtual disks that cannot be written.
                raise Failure("VM_LACKS_FEATURE", uuid)
            claimed = self._claim(uuid, renderer, disk)
            try:
                domain.attachDeviceFlags(renderer.disk_document(claimed), LIVE)
                if claimed is not disk:
                    self._qdisks.await_plugged(uuid, target)
                    if disk.limits != Limits():
                        self._qdisks.limit(uuid, target, disk.limits)
                        self._claims.keep_limits(uuid, target, disk.limits)
            except BaseException:
                if claimed is not disk:
                    self._give_up(domain, uuid, disk.device, target)
                raise

    def _give_up(self, domain: libvirt.virDomain, uuid: str, device: int, target: str) -> None:
        """Undo a plug that libvirt may take for done."""
        document = image.device_document(domain.XMLDesc(), DeviceId("disk", device))
        if document is not None:
            with suppress(libvirt.libvirtError):
                domain.detachDeviceFlags(document, LIVE)
        with suppress(Failure, OSError):
            self._qdisks.unplugged(uuid, target, timeout=5.0)
        self._claims.release(uuid, target)

    def _gone(self, uuid: str, target: str) -> None:
        """A disk was unplugged."""
        if target in self._claims.targets(uuid):
            self._qdisks.unplugged(uuid, target)

    def change_media(self, uuid: str, disk: Disk) -> None:
        with self._live(uuid) as domain:
            if _is_emulated(domain):
                renderer = self._renderer.of(True)
                domain.updateDeviceFlags(renderer.disk_document(disk), LIVE)
                return
            present = DeviceId("disk", disk.device) in image.devices(domain.XMLDesc())
        if not present and disk.path is None:
            raise Failure("DEVICE_ALREADY_DETACHED", uuid)
        raise Failure("VM_LACKS_FEATURE", uuid)  # a paravirtual drive's medium is there for the whole run

    # --- while they are in use ---------------------------------------------------------------------------------------

    def _of(self, uuid: str, device: int) -> str:
        """Xen's name for a disk. Raises DEVICE_ALREADY_DETACHED, VM_LACKS_FEATURE for a block device."""
        with refusing(uuid):
            targets = image.targets(self._lookup(uuid).XMLDesc())
        if device not in targets:
            raise Failure("DEVICE_ALREADY_DETACHED", uuid)
        if targets[device] not in self._claims.targets(uuid):
            raise Failure("VM_LACKS_FEATURE", uuid)  # the kernel's back end has none of this
        return targets[device]

    def snapshot_disks(
        self, uuid: str, overlays: Mapping[int, Path], bitmaps: Mapping[int, str] | None = None
    ) -> None:
        with self._turns.of(uuid):
            targets = {number: self._of(uuid, number) for number in overlays}
            named = {targets[number]: name for number, name in (bitmaps or {}).items() if number in targets}
            self._qdisks.snapshot(uuid, {targets[number]: path for number, path in overlays.items()}, named)

    def commit_disk(self, uuid: str, device: int, layer: Path, progress: Progress | None = None) -> None:
        # Without the VM's turn, as it may take long; the disk has one of its own.
        self._qdisks.commit(uuid, self._of(uuid, device), layer, progress)

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
        target = self._of(uuid, device)
        self._qdisks.mirror(uuid, target, to, form=format, shallow=shallow, progress=progress)

    def resize_disk(self, uuid: str, device: int, size: int) -> None:
        with self._turns.of(uuid):
            self._qdisks.resize(uuid, self._of(uuid, device), size)

    def limit_disk(self, uuid: str, device: int, limits: Limits) -> None:
        with self._turns.of(uuid):
            target = self._of(uuid, device)
            self._qdisks.limit(uuid, target, limits)
            self._claims.keep_limits(uuid, target, limits)

    def disk_statistics(self, uuid: str) -> dict[int, DiskStatistics]:
        with refusing(uuid):
            domain = self._lookup(uuid)
            targets = image.targets(domain.XMLDesc())
            known = self._qdisks.statistics(uuid) if self._claims.targets(uuid) else {}
            return {
                number: known[target] if target in known else _kernel_statistics(domain, target)
                for number, target in targets.items()
            }

    def bitmap_add(self, uuid: str, device: int, name: str) -> None:
        with self._turns.of(uuid):
            self._qdisks.bitmap_add(uuid, self._of(uuid, device), name)

    def bitmap_remove(self, uuid: str, device: int, name: str) -> None:
        with self._turns.of(uuid):
            self._qdisks.bitmap_remove(uuid, self._of(uuid, device), name)

    def bitmaps(self, uuid: str, device: int) -> list[Bitmap]:
        with self._turns.of(uuid):
            return self._qdisks.bitmaps(uuid, self._of(uuid, device))


def _is_emulated(domain: libvirt.virDomain) -> bool:
    return str(domain.OSType()) == "hvm"


def _is_raw_device(disk: Disk) -> bool:
    if disk.path is None or disk.format != "raw":
        return False
    try:
        return stat.S_ISBLK(disk.path.stat().st_mode)
    except OSError:
        return False


def _kernel_statistics(domain: libvirt.virDomain, target: str) -> DiskStatistics:
    """libvirt knows of the kernel's back end what sysfs shows: requests and sectors."""
    reads, read_bytes, writes, written_bytes, _ = domain.blockStats(target)
    return DiskStatistics(read_bytes, reads, 0, written_bytes, writes, 0)
