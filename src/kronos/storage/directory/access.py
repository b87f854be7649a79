"""The inside of an SR's directory: its lock, its parts, and what every operation needs of them."""

from __future__ import annotations

import fcntl
import os
import threading
import uuid as uuids
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kronos.datamodel.errors import Failure
from kronos.storage.base import Volume
from kronos.storage.directory import presentation
from kronos.storage.directory.catalogue import SIDECAR, Catalogue, chain
from kronos.storage.directory.files import Files
from kronos.storage.directory.recovery import Recovery
from kronos.storage.directory.sidecar import UUID, BadSidecar, Intent, Sidecar
from kronos.storage.faults import Fault, as_failures
from kronos.storage.images.image import Image, format_of, in_use
from kronos.storage.images.qcow2 import BadImage

LOCK = ".lock"


class Directory:
    """One SR's directory. All but the SR's own methods is called with the lock held."""

    def __init__(self, sr_uuid: str, root: Path) -> None:
        self.sr_uuid = sr_uuid
        self.root = root
        self.files = Files(root)
        self.catalogue = Catalogue(self.files)
        self.recovery = Recovery(self.files, self.catalogue)
        self.switching: set[str] = set()
        """Volumes whose guest may be moving to another file at this moment."""
        self._mutex = threading.RLock()
        self._lock: int | None = None
        self._depth = 0

    def open(self) -> bool:
        """From now on the directory may be used. False: it could be already."""
        with self._mutex:
            if self._lock is not None:
                return False
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = os.open(self.root / LOCK, flags, 0o600)
            return True

    def close(self) -> bool:
        """False: it was already."""
        with self._mutex:
            if self._lock is None:
                return False
            os.close(self._lock)
            self._lock = None
            return True

    @property
    def is_open(self) -> bool:
        return self._lock is not None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other user of the SR out, threads and hosts alike. May be nested.

        Raises SR_NOT_ATTACHED, and the faults of `as_failures` for what goes wrong within.
        """
        with self._mutex, as_failures():
            if self._lock is None:
                raise Failure("SR_NOT_ATTACHED", self.sr_uuid)
            lock = self._lock
            if self._depth == 0:
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._depth += 1
            try:
                if self._depth == 1 and self.recovery.unsettled:
                    self.recovery.settle()
                yield
            finally:
                self._depth -= 1
                if self._depth == 0 and self._lock is not None:
                    fcntl.flock(lock, fcntl.LOCK_UN)

    def required(self, uuid: str) -> Sidecar:
        """The sidecar of a volume that is to be used; a volume without one gets it now."""
        try:
            return self.catalogue.sidecar(uuid) or self.adopt(uuid, self.loose_name(uuid))
        except BadSidecar as bad:
            raise Fault.VDI_UNAVAILABLE.failure(f"{uuid}{SIDECAR}: {bad}") from bad

    def check_new(self, uuid: str) -> None:
        """Raises SR_BACKEND_FAILURE_43, UUID_INVALID."""
        if not UUID.fullmatch(uuid):
            raise Failure("UUID_INVALID", "VDI", uuid)
        if any(self.files.exists(uuid + suffix) for suffix in (SIDECAR, ".qcow2", ".raw", ".img")):
            raise Fault.VDI_EXISTS.failure(uuid)

    def check_not_switching(self, uuid: str) -> None:
        if uuid in self.switching:
            raise Failure("VDI_IN_USE", uuid, "snapshot")

    def check_not_written(self, uuid: str, layers: Iterable[str], operation: str) -> None:
        """Raises VDI_IN_USE when a QEMU is seen to write to any of the images.

        All of them, since after a live snapshot that failed halfway the guest may still be on a parent.
        """
        if any(in_use(self.root / name, for_writing=True) for name in layers):
            raise Failure("VDI_IN_USE", uuid, operation)

    def checked_chain(self, head: str) -> dict[str, Image]:
        try:
            return chain(head, self.catalogue.image)
        except BadImage as bad:
            raise Fault.VDI_UNAVAILABLE.failure(str(bad)) from bad

    def present(self, sidecar: Sidecar) -> Volume:
        return presentation.managed(self.sr_uuid, self.files, self.catalogue.image, sidecar)

    def adopt(self, uuid: str, name: str) -> Sidecar:
        """Give an image that has none a sidecar, and a name of our own: a parent's uuid must not be its child's."""
        self.checked_chain(name)
        head = layer_name(format_of(name))
        label = "" if UUID.fullmatch(Path(name).stem) else Path(name).stem
        sidecar = Sidecar(uuid, head, name, label)
        with self.recovery.operation(Intent(files=(head,), volume=uuid, renamed=name)):
            self.recovery.write(sidecar)
            self.files.rename(name, head)
        return sidecar

    def loose_name(self, uuid: str) -> str:
        """The file of a volume that has no sidecar. Raises VDI_MISSING, VDI_NOT_MANAGED."""
        contents = self.catalogue.contents()
        pending = self.recovery.pending_files(contents)
        for name in contents.loose():
            if Path(name).stem == uuid and name not in pending:
                return name
        if any(presentation.hidden_uuid(self.sr_uuid, name) == uuid for name in contents.parents()):
            raise Failure("VDI_NOT_MANAGED", uuid)
        raise Failure("VDI_MISSING", self.sr_uuid, uuid)


def layer_name(form: str) -> str:
    """A name for a new image file."""
    return f"{uuids.uuid4()}.{form}"


def is_layer(name: str) -> bool:
    """May the name be one of ours? Other files that serve as parents are somebody's, and stay."""
    return bool(UUID.fullmatch(Path(name).stem))
