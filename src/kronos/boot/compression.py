"""The compressions that kernels and their modules come in, through libraries that every distribution's base has.

LZ4 and Zstandard are called in the C libraries themselves: Debian 12's Python has neither, and package managers, which
no host lacks, depend on both libraries.
"""

from __future__ import annotations

import bz2
import ctypes
import functools
import lzma
import struct
import zlib
from collections.abc import Callable

LZ4_LEGACY = struct.pack("<I", 0x184C2102)
"""Magic number of LZ4's older container, the only one that kernels and Xen's domain builder read."""

_LZ4_BLOCK = 8 << 20  # fixed by that container
_LZ4_LEVEL = 9
_SIZE = struct.Struct("<I")


class UnreadableData(ValueError):
    """Compressed data of an unknown kind, damaged, or cut off."""


def decompress(data: bytes, largest: int = 256 << 20) -> bytes:
    """Unpack `data` by its magic number; never more than `largest` bytes. What follows the data is ignored.

    Raises UnreadableData.
    """
    for magic, unpack in _KINDS.items():
        if data.startswith(magic):
            try:
                return unpack(data, largest)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, struct.error) as error:
                raise UnreadableData(str(error)) from error
    raise UnreadableData(f"unknown compression, beginning with {data[:6].hex()}")


def compress_lz4(data: bytes) -> bytes:
    """`data` in LZ4's legacy container, at a level that takes about a second for a kernel. Raises OSError."""
    library = _lz4()
    packed = bytearray(LZ4_LEGACY)
    for start in range(0, len(data), _LZ4_BLOCK):
        block = data[start : start + _LZ4_BLOCK]
        room = ctypes.create_string_buffer(library.LZ4_compressBound(len(block)))
        size = library.LZ4_compress_HC(block, room, len(block), len(room), _LZ4_LEVEL)
        packed += _SIZE.pack(size) + room.raw[:size]
    return bytes(packed)


def _unpack_lz4(data: bytes, largest: int) -> bytes:
    library = _lz4()
    unpacked = bytearray()
    position = len(LZ4_LEGACY)
    while position + _SIZE.size < len(data):  # the last word is not a block but the size of it all
        (size,) = _SIZE.unpack_from(data, position)
        position += _SIZE.size
        block = data[position : position + size]
        room = ctypes.create_string_buffer(_LZ4_BLOCK)
        length = library.LZ4_decompress_safe(block, room, len(block), len(room))
        if size != len(block) or length < 0 or len(unpacked) + length > largest:
            raise UnreadableData("damaged LZ4 block")
        unpacked += room.raw[:length]
        position += size
    return bytes(unpacked)


def _unpack_zstd(data: bytes, largest: int) -> bytes:
    library = _zstd()
    frame = library.ZSTD_findFrameCompressedSize(data, len(data))
    if library.ZSTD_isError(frame):
        raise UnreadableData("damaged Zstandard frame")
    bound = library.ZSTD_decompressBound(data[:frame], frame)
    room = ctypes.create_string_buffer(min(bound, largest))
    length = library.ZSTD_decompress(room, len(room), data, frame)
    if library.ZSTD_isError(length):
        raise UnreadableData("damaged Zstandard frame")
    return room.raw[:length]


def _unpack_xz(data: bytes, largest: int) -> bytes:
    return _whole(lzma.LZMADecompressor(), data, largest)


def _unpack_bzip2(data: bytes, largest: int) -> bytes:
    return _whole(bz2.BZ2Decompressor(), data, largest)


def _unpack_gzip(data: bytes, largest: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    return _checked(stream.decompress(data, largest), stream.eof)


def _whole(stream: lzma.LZMADecompressor | bz2.BZ2Decompressor, data: bytes, largest: int) -> bytes:
    return _checked(stream.decompress(data, largest), stream.eof)


def _checked(unpacked: bytes, ended: bool) -> bytes:
    if not ended:
        raise UnreadableData("cut off, or larger than expected")
    return unpacked


_KINDS: dict[bytes, Callable[[bytes, int], bytes]] = {
    b"\xfd7zXZ\0": _unpack_xz,
    b"\x5d\0\0": _unpack_xz,  # LZMA's older container
    b"\x28\xb5\x2f\xfd": _unpack_zstd,
    b"\x1f\x8b": _unpack_gzip,
    b"BZh": _unpack_bzip2,
    LZ4_LEGACY: _unpack_lz4,
}


def compress_xz(data: bytes) -> bytes:
    """`data` as xz that the kernel's decoder takes, which knows one checksum and has little memory for a window."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 20}]
    return lzma.compress(data, check=lzma.CHECK_CRC32, filters=filters)


@functools.cache
def _lz4() -> ctypes.CDLL:
    library = ctypes.CDLL("liblz4.so.1")
    pointer, number = ctypes.c_char_p, ctypes.c_int
    library.LZ4_compressBound.argtypes = [number]
    library.LZ4_compress_HC.argtypes = [pointer, pointer, number, number, number]
    library.LZ4_decompress_safe.argtypes = [pointer, pointer, number, number]
    return library


@functools.cache
def _zstd() -> ctypes.CDLL:
    library = ctypes.CDLL("libzstd.so.1")
    pointer, size = ctypes.c_char_p, ctypes.c_size_t
    library.ZSTD_findFrameCompressedSize.argtypes = [pointer, size]
    library.ZSTD_findFrameCompressedSize.restype = size
    library.ZSTD_decompressBound.argtypes = [pointer, size]
    library.ZSTD_decompressBound.restype = ctypes.c_ulonglong
    library.ZSTD_decompress.argtypes = [pointer, size, pointer, size]
    library.ZSTD_decompress.restype = size
    library.ZSTD_isError.argtypes = [size]
    return library
