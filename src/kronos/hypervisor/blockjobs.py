"""The disks of a running VM through libvirt: snapshots, merging and copying by its block jobs, figures, bitmaps.

libvirt moves bitmaps itself: a snapshot goes on with all of them, a merge or copy puts them together. It has no call
that adds one but its checkpoints, which are a bitmap and a note. The notes end with the VM, the bitmaps stay in the
image; so one that is found there without a note is given one again.
"""

from __future__ import annotations

import json
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import libvirt

from kronos.datamodel.errors import Failure
from kronos.hypervisor import image
from kronos.hypervisor.base import DeviceId, Limits
from kronos.hypervisor.disk_facts import Bitmap, DiskStatistics, Progress
from kronos.hypervisor.happenings import alias
from kronos.system.commands import CommandFailed, run

_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_INTERVAL = 1.0  # seconds between two reports of progress
_GONE = -1

Live = Callable[[str], AbstractContextManager[libvirt.virDomain]]


class Layer(NamedTuple):
    """One file of a live disk, with libvirt's name for it in this disk."""

    name: str
    path: Path


class Expected:
    """All jobs of a host that somebody waits for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: list[tuple[str, str, queue.SimpleQueue[int]]] = []

    @contextmanager
    def news(self, uuid: str, target: str) -> Iterator[queue.SimpleQueue[int]]:
        """What becomes of the job of a disk, as libvirt's numbers, from before it begins."""
        entry = (uuid, target, queue.SimpleQueue[int]())
        with self._guard:
            self._waiting.append(entry)
        try:
            yield entry[2]
        finally:
            with self._guard:
                self._waiting.remove(entry)

    def happened(self, uuid: str, target: str, status: int) -> None:
        """A job has changed; called in libvirt's event thread."""
        with self._guard:
            for owner, wanted, news in self._waiting:
                if (owner, wanted) == (uuid, target):
                    news.put(status)

    def ended(self, uuid: str) -> None:
        """The VM has ended, and its jobs with it."""
        with self._guard:
            for owner, _, news in self._waiting:
                if owner == uuid:
                    news.put(_GONE)


class LiveDisks:
    """The live disks of all VMs of one libvirt; `live(uuid)` takes the VM's turn for the length of a with block.

    A VM's turn is not held while its job runs: libvirt refuses a second job on the same disk itself.
    """

    def __init__(self, live: Live, expected: Expected) -> None:
        self._live = live
        self._expected = expected

    def snapshot(self, uuid: str, overlays: Mapping[int, Path], bitmaps: Mapping[int, str]) -> None:
        """As Hypervisor.snapshot_disks."""
        flags = (
            libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        )
        with self._live(uuid) as domain:
            targets = image.targets(domain.XMLDesc())
            wanted = {_target(targets, uuid, number): path for number, path in overlays.items()}
            # A new bitmap begins in the old file, a moment early, and goes on in the new one, empty, at the right one.
            added = []
            try:
                for number, name in bitmaps.items():
                    added.append(_note(domain, targets, _target(targets, uuid, number), name))
                domain.snapshotCreateXML(image.snapshot(list(targets.values()), wanted), flags)
            except BaseException:
                for note in added:
                    with suppress(libvirt.libvirtError):
                        note.delete(0)
                raise

    def commit(self, uuid: str, device: int, layer: Path, progress: Progress | None) -> None:
        """As Hypervisor.commit_disk."""
        with self._live(uuid) as domain:
            target = _target(image.targets(domain.XMLDesc()), uuid, device)
        with self._expected.news(uuid, target) as news:
            with self._live(uuid) as domain:
                layers = _layers(domain.XMLDesc(), device)
                place = _place(layers, layer)
                if place + 1 >= len(layers):
                    raise Failure("INTERNAL_ERROR", f"There is nothing beneath {layer}")
                base = layers[place + 1].name
                if place:
                    _commit_middle(domain, target, base, layers[place].name)
                else:
                    domain.blockCommit(target, base, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
            self._see_through(uuid, target, news, progress, pivots=not place)

    def mirror(
        self, uuid: str, device: int, to: Path, form: str, shallow: bool, progress: Progress | None
    ) -> None:
        """As Hypervisor.mirror_disk."""
        flags = libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
        if shallow:
            flags |= libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW
        with self._live(uuid) as domain:
            target = _target(image.targets(domain.XMLDesc()), uuid, device)
        with self._expected.news(uuid, target) as news:
            with self._live(uuid) as domain:
                domain.blockCopy(target, _destination(to, form), {}, flags)
            self._see_through(uuid, target, news, progress, pivots=True)

    def resize(self, uuid: str, device: int, size: int) -> None:
        """As Hypervisor.resize_disk."""
        with self._live(uuid) as domain:
            target = _target(image.targets(domain.XMLDesc()), uuid, device)
            domain.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def limit(self, uuid: str, device: int, limits: Limits) -> None:
        """As Hypervisor.limit_disk."""
        with self._live(uuid) as domain:
            target = _target(image.targets(domain.XMLDesc()), uuid, device)
            values = {
                "total_bytes_sec": limits.bytes_per_second,
                "total_iops_sec": limits.requests_per_second,
            }
            domain.setBlockIoTune(target, values, _LIVE)

    def statistics(self, uuid: str) -> dict[int, DiskStatistics]:
        """As Hypervisor.disk_statistics."""
        with self._live(uuid) as domain:
            targets = image.targets(domain.XMLDesc())
            return {number: _statistics(domain.blockStatsFlags(name)) for number, name in targets.items()}

    def bitmap_add(self, uuid: str, device: int, name: str) -> None:
        """As Hypervisor.bitmap_add."""
        with self._live(uuid) as domain:
            targets = image.targets(domain.XMLDesc())
            _note(domain, targets, _target(targets, uuid, device), name)

    def bitmap_remove(self, uuid: str, device: int, name: str) -> None:
        """As Hypervisor.bitmap_remove; libvirt removes it from the files beneath the top too."""
        with self._live(uuid) as domain:
            document = domain.XMLDesc()
            targets = image.targets(document)
            target = _target(targets, uuid, device)
            if name in _names(domain, document, device, target):
                _noted(domain, targets, target, name).delete(0)

    def bitmaps(self, uuid: str, device: int) -> list[Bitmap]:
        """As Hypervisor.bitmaps."""
        with self._live(uuid) as domain:
            document = domain.XMLDesc()
            targets = image.targets(document)
            target = _target(targets, uuid, device)
            return [
                _bitmap(domain, targets, target, name) for name in _names(domain, document, device, target)
            ]

    def _see_through(
        self, uuid: str, target: str, news: queue.SimpleQueue[int], progress: Progress | None, *, pivots: bool
    ) -> None:
        """Wait for the end of a job that has begun, or cancel it when anything is in the way."""
        try:
            if pivots:
                self._await(uuid, target, news, libvirt.VIR_DOMAIN_BLOCK_JOB_READY, progress)
                with self._live(uuid) as domain:
                    domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
            self._await(
                uuid, target, news, libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED, None if pivots else progress
            )
        except BaseException:
            with suppress(Failure), self._live(uuid) as domain:
                domain.blockJobAbort(target, 0)
            raise

    def _await(
        self, uuid: str, target: str, news: queue.SimpleQueue[int], wanted: int, progress: Progress | None
    ) -> None:
        self._report(uuid, target, progress)
        while True:
            try:
                status = news.get(timeout=_INTERVAL)
            except queue.Empty:
                self._report(uuid, target, progress)
                continue
            if status == wanted:
                return
            if status == _GONE:
                raise Failure("VM_BAD_POWER_STATE", uuid, "running", "halted")
            if status != libvirt.VIR_DOMAIN_BLOCK_JOB_READY:
                raise Failure("INTERNAL_ERROR", f"libvirt: the block job of {target} ended with {status}")

    def _report(self, uuid: str, target: str, progress: Progress | None) -> None:
        if progress is not None:
            with self._live(uuid) as domain:
                known = domain.blockJobInfo(target)
            if known:
                progress(int(known["cur"]), int(known["end"]))


def _target(targets: Mapping[int, str], uuid: str, device: int) -> str:
    if device not in targets:
        raise Failure("DEVICE_ALREADY_DETACHED", uuid)
    return targets[device]


def _layers(document: str, device: int) -> list[Layer]:
    """The files of a disk, top first."""
    wanted = alias(DeviceId("disk", device))
    # libvirt's own writer made it, so it has no entities.
    for disk in ElementTree.fromstring(document).iterfind("devices/disk"):  # noqa: S314  # libvirt's own writing
        found, target = disk.find("alias"), disk.find("target")
        if found is None or target is None or found.get("name") != wanted:
            continue
        layers = []
        element: Element | None = disk
        while element is not None and (source := element.find("source")) is not None:
            # The number of the top stands at its source, that of the others at the element around it.
            number = source.get("index", element.get("index", ""))
            path = Path(source.get("file") or source.get("dev") or "")
            layers.append(Layer(f"{target.get('dev')}[{number}]", path))
            element = element.find("backingStore")
        return layers
    return []


def _place(layers: Sequence[Layer], layer: Path) -> int:
    for place, each in enumerate(layers):
        if each.path == layer or (each.path.exists() and layer.exists() and each.path.samefile(layer)):
            return place
    raise Failure("INTERNAL_ERROR", f"{layer} is no part of the disk")


def _commit_middle(domain: libvirt.virDomain, target: str, base: str, top: str) -> None:
    """The layer above keeps the manner in which it names the one beneath: by a bare name, or a path."""
    try:
        domain.blockCommit(target, base, top, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE)
    except libvirt.libvirtError as error:
        if "relative" not in str(error):
            raise
        domain.blockCommit(target, base, top, 0, 0)


def _destination(to: Path, form: str) -> str:
    block = stat.S_ISBLK(to.stat().st_mode)
    disk = Element("disk", type="block" if block else "file")
    SubElement(disk, "driver", name="qemu", type=form)
    SubElement(disk, "source", {"dev" if block else "file": os.fspath(to)})
    return ElementTree.tostring(disk, encoding="unicode")


def _statistics(untrusted: Mapping[str, int]) -> DiskStatistics:
    names = ("rd_bytes", "rd_operations", "rd_total_times", "wr_bytes", "wr_operations", "wr_total_times")
    return DiskStatistics(
        *(int(untrusted.get(name, 0)) for name in (*names, "flush_operations", "flush_total_times"))
    )


def _note(
    domain: libvirt.virDomain, targets: Mapping[int, str], target: str, name: str, *, again: bool = False
) -> libvirt.virDomainCheckpoint:
    """Add a bitmap, or with `again` note one that is there."""
    root = Element("domaincheckpoint")
    SubElement(root, "name").text = name  # libvirt wants it to be the bitmap's
    if again:
        SubElement(root, "creationTime").text = str(int(time.time()))
    disks = SubElement(root, "disks")
    for each in targets.values():
        disk = SubElement(disks, "disk", name=each, checkpoint="bitmap" if each == target else "no")
        if each == target:
            disk.set("bitmap", name)
    flags = 0
    if again:
        flags |= libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
        flags |= libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
    return domain.checkpointCreateXML(ElementTree.tostring(root, encoding="unicode"), flags)


def _noted(
    domain: libvirt.virDomain, targets: Mapping[int, str], target: str, name: str
) -> libvirt.virDomainCheckpoint:
    try:
        return domain.checkpointLookupByName(name)
    except libvirt.libvirtError:
        return _note(domain, targets, target, name, again=True)


def _names(domain: libvirt.virDomain, document: str, device: int, target: str) -> list[str]:
    """The bitmaps of a disk: those that are noted, and those that are in its files."""
    names = [note.getName() for note in domain.listAllCheckpoints(0) if target in _noted_disks(note)]
    layers = _layers(document, device)
    if layers:
        names += _stored(layers[0].path)
    return list(dict.fromkeys(names))


def _stored(top: Path) -> list[str]:
    try:
        said = run(["qemu-img", "info", "-U", "--output=json", os.fspath(top)])
    except CommandFailed as error:
        raise Failure("INTERNAL_ERROR", str(error)) from error
    data = json.loads(said).get("format-specific", {}).get("data", {})
    return [str(each["name"]) for each in data.get("bitmaps", [])]


def _bitmap(domain: libvirt.virDomain, targets: Mapping[int, str], target: str, name: str) -> Bitmap:
    wanted = libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE | libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN
    try:
        described = _noted(domain, targets, target, name).getXMLDesc(wanted)
    except libvirt.libvirtError:  # libvirt finds it damaged
        return Bitmap(name, 0, usable=False)
    size = _disks_of(described).get(target)
    return Bitmap(name, int(size or 0), usable=size is not None)


def _noted_disks(note: libvirt.virDomainCheckpoint) -> set[str]:
    return set(_disks_of(note.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN)))


def _disks_of(described: str) -> dict[str, str | None]:
    """The disks that a note is of, and how much of each has changed where that was asked for."""
    disks = ElementTree.fromstring(described).iterfind("disks/disk")  # noqa: S314  # libvirt's own writing
    return {disk.get("name", ""): disk.get("size") for disk in disks if disk.get("checkpoint") == "bitmap"}
