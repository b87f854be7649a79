"""Whose a memory image is: libvirt writes a VM's document before its memory, and resumes no other VM from it.

Form of QEMU's: libvirt, src/qemu/qemu_saveimage.h (virQEMUSaveHeader); of Xen's: see `savefile`. Both begin with
sixteen bytes, a version and the length of the document in the byte order of the machine. A uuid always has as many
characters, so the document keeps its length and nothing behind it moves.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from kronos.datamodel.errors import Failure
from kronos.hypervisor import savefile

QEMU_MAGIC = b"LibvirtQemudSave"
_BEGINNING = struct.Struct("=16sII")
_LENGTHS = {QEMU_MAGIC: 92, savefile.MAGIC: 64}
"""The lengths of the headers, behind which the documents begin."""


def readdress(path: Path, uuid: str, new_uuid: str) -> None:
    """Have an image be another VM's: wherever its document has the uuid of the one it has the other's.

    Raises VM_CHECKPOINT_RESUME_FAILED [new_uuid] for what is no image, or not one of `uuid`; OSError.
    """
    with path.open("r+b") as file:
        magic, _, length = _BEGINNING.unpack(file.read(_BEGINNING.size).ljust(_BEGINNING.size, b"\0"))
        place = _LENGTHS.get(magic)
        if place is None or not 0 < length <= savefile.DOCUMENT_LIMIT:
            raise Failure("VM_CHECKPOINT_RESUME_FAILED", new_uuid)
        file.seek(place)
        document = file.read(length)
        changed = document.replace(uuid.encode(), new_uuid.encode())
        if changed == document or len(changed) != len(document):
            raise Failure("VM_CHECKPOINT_RESUME_FAILED", new_uuid)
        file.seek(place)
        file.write(changed)
        file.flush()
        os.fsync(file.fileno())
