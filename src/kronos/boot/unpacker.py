"""Machine code that unpacks a kernel and enters it: `unpacker.S` as bytes, because a host need not have an assembler.

It is the protected-mode part of a bzImage, 388 bytes of which the last 20 are its parameters.
"""

from __future__ import annotations

import struct

ADDRESS = 0x100000
"""Where boot loaders put the protected-mode part of a kernel that cannot be relocated."""

CLEARED_AT_A_TIME = 32
"""The unpacked size must be a multiple of this, in bytes."""

_CODE = bytes.fromhex(
    """
    fcbc0010100089f58b35700110008b3d780110003b3574011000737cad8d14060fb61e4689d9c1e904742983f90f750d
    0fb6064601c13dff00000074f38b06890783c60483c70483e90477f101ce01cf39d673c00fb70683c60283e30f89d983
    f90f750e0fb61e4601d981fbff00000074f283c1045689fe29c683f80472148b06890783c60483c70483e90477f101cf
    5eeb8df3a45eeb8831c03b3d7c011000731c890789470489470889470c89471089471489471889471c83c720ebdcbf00
    101000b9000c0000f3abc7050010100003201000c7050020100003301000bf00301000b883000000890783c708050000
    20003d8300004075ef0f20e083c8200f22e0b8001010000f22d8b9800000c00f320d000100000f300f0115680110000f
    20c00d000000800f22c0ea310110001000b8180000008ed88ec08ed089ee8b042580011000ffe0900000000000000000
    0000000000000000ffff0000009aaf00ffff00000092cf001f00480110006690
    """
)
_SIZE = 4096
_MAGIC_SIZE = 4


def code(packed_size: int, *, target: int, target_end: int, entry: int) -> bytes:
    """The code, one page, to be followed by `packed_size` bytes in LZ4's legacy container.

    It unpacks them to the physical address `target`, clears memory from there to `target_end`, and enters the
    64-bit kernel at the physical address `entry`.
    """
    packed = ADDRESS + _SIZE
    parameters = struct.pack("<5I", packed + _MAGIC_SIZE, packed + packed_size, target, target_end, entry)
    return (_CODE + parameters).ljust(_SIZE, b"\0")
