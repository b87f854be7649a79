"""VDIs as streams: exported and imported as raw bytes, VHD or qcow2."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from kronos.api.sr import contents
from kronos.api.vdi import volumes
from kronos.api.vdi.copying import kept_from_others
from kronos.datamodel.errors import Failure
from kronos.db.records import SR, VDI
from kronos.dispatch.call import Call
from kronos.storage.base import Attachment
from kronos.storage.faults import as_failures
from kronos.storage.images import image
from kronos.storage.images.qcow2 import BadImage
from kronos.transfer import changes, qcow2, raw, vhd
from kronos.transfer import disk as disks
from kronos.transfer.changes import Blocks
from kronos.transfer.disk import Disk
from kronos.transfer.stream import BadStream, Gone, PrematureEnd, Reader, Sink, TooBig

_TYPES: Final = {
    "raw": "application/octet-stream",
    "vhd": "application/vhd",
    "qcow2": "application/x-qemu-disk",
}
_RECEIVED: Final = ("raw", "vhd")
_SHOWN_EVERY: Final = 0.5


@dataclass(frozen=True)
class Export:
    """A disk that is ready to be sent: `length` bytes."""

    content_type: str
    filename: str
    length: int
    send: Callable[[Sink], None]


class Progress:
    """Tells a task how much of `total` bytes is done, now and then, and stops where it was cancelled."""

    def __init__(self, call: Call, total: int) -> None:
        self._task = call.task
        self._total = max(total, 1)
        self._done = 0
        self._shown = time.monotonic()

    def __call__(self, size: int) -> None:
        self._task.check()
        self._done += size
        clock = time.monotonic()
        if clock - self._shown >= _SHOWN_EVERY:
            self._shown = clock
            self._task.progress(min(0.99, self._done / self._total))


@contextmanager
def told(call: Call, vdi: VDI | None = None) -> Iterator[None]:
    """What goes wrong with a stream or a disk, as a client is told of it; a cancelled task comes first.

    Raises VDI_IO_ERROR [text] for a stream that breaks off, IMPORT_ERROR [text] for one that is none,
    VDI_TOO_SMALL [vdi, size], CLIENT_ERROR [text], TASK_CANCELLED, SR_BACKEND_FAILURE_44, 47, 202.
    """
    try:
        with as_failures():
            yield
    except (Failure, PrematureEnd, BadStream, TooBig, Gone) as error:
        call.task.check()
        if isinstance(error, PrematureEnd):
            raise Failure("VDI_IO_ERROR", str(error)) from error
        if isinstance(error, BadStream):
            raise Failure("IMPORT_ERROR", str(error)) from error
        if isinstance(error, TooBig):
            raise Failure("VDI_TOO_SMALL", vdi.ref if vdi is not None else "", str(error.size)) from error
        if isinstance(error, Gone):
            raise Failure("CLIENT_ERROR", str(error)) from error
        raise


# --- export ----------------------------------------------------------------------------------------------------------


def check_format(form: str, *, sending: bool) -> None:
    """Raises INTERNAL_ERROR for a format that is not served."""
    if form not in (_TYPES if sending else _RECEIVED):
        raise Failure("INTERNAL_ERROR", f"Unknown format {form[:40]}")


@contextmanager
def exported(call: Call, vdi: VDI, form: str, base: VDI | None = None) -> Iterator[Export]:
    """A disk, or what makes it another than `base`, for as long as the block runs; no VM may write to it meanwhile.

    Raises VDI_IN_USE [vdi, copy], VDI_TOO_LARGE [vdi, size] for a VHD, SR_HAS_NO_PBDS, and as `told` does.
    """
    if form == "vhd" and vdi.virtual_size > vhd.LARGEST:
        raise Failure("VDI_TOO_LARGE", vdi.ref, str(vhd.LARGEST))
    with ExitStack() as stack:
        if form == "raw":
            base = None  # the whole is asked for, whatever it is to be compared with
        disk, attachment = stack.enter_context(_read(call, vdi, layers=base is not None))
        name = f"{vdi.uuid}.{form}"
        if form == "raw":
            send = _plainly(call, disk)
            yield Export(_TYPES[form], name, disk.size, send)
            return
        grain = vhd.BLOCK if form == "vhd" else qcow2.CLUSTER
        blocks: Blocks = changes.Allocated(disk, grain)
        if base is not None:
            older, other = stack.enter_context(_read(call, base, layers=True))
            shared = _shared(attachment, other)
            with told(call):
                blocks = changes.Changed(disk, older, grain, shared, Progress(call, 1))
        with told(call):
            yield _image(call, disk, vdi, form, name, blocks, base)


@contextmanager
def read(call: Call, vdi: VDI) -> Iterator[Disk]:
    """A disk that no VM may write to as long as the block runs. Raises VDI_IN_USE [vdi, copy]."""
    with _read(call, vdi, layers=False) as (disk, _):
        yield disk


@contextmanager
def _read(call: Call, vdi: VDI, *, layers: bool) -> Iterator[tuple[Disk, Attachment]]:
    with (
        call.pipeline.holds.hold(vdi, "copy", call.task),
        volumes.opened(call, vdi, writable=False) as attachment,
        as_failures(),
        disks.opened(attachment.path, attachment.format, layers=layers) as disk,
    ):
        yield disk, attachment


def _plainly(call: Call, disk: Disk) -> Callable[[Sink], None]:
    def send(sink: Sink) -> None:
        with told(call):
            raw.send(disk, sink, Progress(call, disk.size))

    return send


def _image(
    call: Call, disk: Disk, vdi: VDI, form: str, name: str, blocks: Blocks, base: VDI | None
) -> Export:
    total = sum(count for _, count in blocks) * (vhd.BLOCK if form == "vhd" else qcow2.CLUSTER)
    parent = base.uuid if base is not None else ""

    def send(sink: Sink) -> None:
        with told(call):
            if form == "vhd":
                vhd.send(disk, blocks, sink, Progress(call, total), vdi.uuid, parent)
            else:
                qcow2.send(disk, blocks, sink, Progress(call, total))

    if form == "vhd":
        length = vhd.length(disk.size, blocks, differencing=bool(parent))
    else:
        length = qcow2.length(disk.size, blocks)
    return Export(_TYPES[form], name, length, send)


def _shared(one: Attachment, other: Attachment) -> tuple[int, int] | None:
    """How many images each of two disks has for itself, above the first that both have; None where there is none."""
    mine, theirs = _chain(one), _chain(other)
    for depth, name in enumerate(mine):
        if name in theirs:
            return depth, theirs.index(name)
    return None


def _chain(attachment: Attachment) -> list[str]:
    path, found = attachment.path, []
    try:
        while str(path) not in found:
            found.append(str(path))
            backing = image.inspect(path).backing
            if not backing:
                break
            path = path.parent / backing
    except (BadImage, OSError):
        return []  # not a file of a kind that could share anything
    return found


# --- import ----------------------------------------------------------------------------------------------------------


def fill(call: Call, vdi: VDI, disk: Disk, form: str, reader: Reader, *, pieces: bool = False) -> None:
    """Write a stream over a disk that is open; when this returns it is on disk. Raises as `told` does."""
    with told(call, vdi):
        progress = Progress(call, reader.left or disk.size)
        if form == "vhd":
            vhd.receive(reader, disk, progress)
        elif pieces:
            raw.receive_pieces(reader, disk, progress)
        else:
            raw.receive(reader, disk, progress)
        call.task.check()


@contextmanager
def written(call: Call, vdi: VDI) -> Iterator[Disk]:
    """A disk to write to for as long as the block runs. Raises VDI_IN_USE, VDI_READONLY, SR_HAS_NO_PBDS."""
    if vdi.read_only:
        raise Failure("VDI_READONLY", vdi.ref)
    sr = call.db.get(SR, vdi.SR)
    with kept_from_others(call, vdi):
        try:
            with (
                volumes.opened(call, vdi, writable=True) as attachment,
                as_failures(),
                disks.opened(attachment.path, attachment.format, writable=True) as disk,
            ):
                yield disk
        finally:
            volumes.refresh(call.db, sr, vdi, volumes.plugged(call.machine, sr).volume(vdi.uuid))
    contents.look_again(call, sr)


def opener(call: Call, vdi: VDI, *, writable: bool) -> Callable[[], AbstractContextManager[Disk]]:
    """What opens a disk when its turn comes."""
    return lambda: written(call, vdi) if writable else read(call, vdi)
