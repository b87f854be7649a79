"""VHD disks: which of them QEMU can be given.

Its driver opens a differencing VHD as if it were a whole one, and reads zeros where the parent's content should be.
Form: Microsoft's Virtual Hard Disk Image Format Specification; the footer is the last sector.
"""

from __future__ import annotations

import struct
from pathlib import Path

from kronos.datamodel.errors import Failure

_SECTOR = 512
_FOOTER = struct.Struct(">8s52xI")  # cookie, type of disk
_COOKIE = b"conectix"
_WHOLE = (2, 3)  # fixed, dynamic


def check(path: Path) -> None:
    """Refuse what is no VHD, or one that needs another. Raises INTERNAL_ERROR."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _SECTOR))
            untrusted_footer = file.read(_SECTOR)
    except OSError as error:
        raise Failure("INTERNAL_ERROR", f"{path}: {error.strerror}") from error
    if len(untrusted_footer) < _FOOTER.size:
        raise Failure("INTERNAL_ERROR", f"{path} is no VHD")
    cookie, kind = _FOOTER.unpack_from(untrusted_footer)
    if cookie != _COOKIE:
        raise Failure("INTERNAL_ERROR", f"{path} is no VHD")
    if kind not in _WHOLE:
        raise Failure("INTERNAL_ERROR", f"{path} is a VHD that needs another one, which QEMU cannot read")
