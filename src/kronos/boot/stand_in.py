"""A kernel that is never run: what a resumed guest's machine is given where its own kernel was.

QEMU builds a machine for a kernel, and the file has to be there when the machine's memory comes back, although nothing
of it is used: the guest's kernel is in the memory. The files that a boot loader made are gone by then.

Fields: Linux, Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import struct

_SECTORS = 1
_SECTOR = 512


def stand_in() -> bytes:
    """A bzImage of one sector of set-up code and one of kernel, which does nothing but halt."""
    image = bytearray(_SECTOR * (_SECTORS + 2))
    image[0x1F1] = _SECTORS
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    struct.pack_into(
        "<2sIH", image, 0x200, b"\xeb\x66", 0x53726448, 0x020F
    )  # a jump, "HdrS", the protocol's version
    image[0x211] = 0x81  # loaded high, with a heap
    struct.pack_into("<I", image, 0x22C, 0x7FFFFFFF)  # the highest address of a RAM disk
    struct.pack_into("<I", image, 0x238, 2047)  # the longest command line
    image[_SECTOR * (_SECTORS + 1) :] = b"\xf4" * _SECTOR
    return bytes(image)
