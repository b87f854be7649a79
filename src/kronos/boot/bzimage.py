"""Linux's bzImage: reading one, and writing one that unpacks faster than the distribution's.

Distributions choose xz or Zstandard for size. Under emulation the guest spends more time on unpacking such a kernel
than on the whole of its boot. `repack` keeps the distribution's real-mode part, which asks the firmware for memory map
and video mode, and its kernel proper, byte for byte; only the unpacker between the two is ours (`unpacker.S`).

Fields: Linux, Documentation/arch/x86/boot.rst. ELF: System V ABI, and its AMD64 supplement.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kronos.boot import unpacker
from kronos.boot.compression import UnreadableData, compress_lz4, decompress

PAGE = 4096
SECTOR = 512

_SETUP_SECTORS = 0x1F1
_SYSTEM_SIZE = 0x1F4
_MAGIC = 0x202
_VERSION = 0x206
_RELOCATABLE = 0x234
_LOAD_FLAGS_64BIT = 0x236
_PAYLOAD = 0x248
_PREFERRED_ADDRESS = 0x258
_INIT_SIZE = 0x260
_EFI_HANDOVER = 0x264

_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_PT_LOAD = 1
_PT_NOTE = 4
_LARGEST_KERNEL = 1 << 30


class UnusableKernel(ValueError):
    """A file that is no bzImage for x86-64, or one that cannot be repacked; the text says why."""


class TooLarge(UnusableKernel):
    """A kernel that is whole, and whose repacked form would not fit where boot loaders put it."""


@dataclass(frozen=True)
class _Segment:
    kind: int
    flags: int
    virtual: int
    address: int
    content: bytes
    size: int

    @property
    def end(self) -> int:
        return self.address + self.size


@dataclass(frozen=True)
class _Kernel:
    header: bytes
    entry: int
    segments: tuple[_Segment, ...]

    @property
    def loaded(self) -> tuple[_Segment, ...]:
        return tuple(segment for segment in self.segments if segment.kind == _PT_LOAD)

    @property
    def start(self) -> int:
        return min(segment.address for segment in self.loaded)

    @property
    def end(self) -> int:
        return max(segment.end for segment in self.loaded)


def repack(untrusted_image: bytes) -> bytes:
    """The same kernel as a bzImage that unpacks with LZ4. It is not relocatable: no random address, no EFI stub.

    Its payload is an ELF file in LZ4's legacy container, as Xen's domain builder wants for PVH guests.

    Raises UnusableKernel, which is TooLarge for a kernel that boots only as it is; OSError.
    """
    setup, kernel = _read(untrusted_image)
    image = _lay_out(kernel)
    start = kernel.start - PAGE
    # The firmware's data end below 1 MiB; the kernel begins at 16 MiB; the packed form has to fit between.
    payload = compress_lz4(image)
    code = unpacker.code(len(payload), target=start, target_end=kernel.end, entry=kernel.entry)
    if unpacker.ADDRESS + len(code) + len(payload) > start:
        raise TooLarge(f"{len(payload)} bytes do not fit below {start:#x}")
    # Every packed kernel ends with the size of what it unpacks to.
    protected = code + payload + struct.pack("<I", len(image))
    protected += bytes(-len(protected) % 16)
    return _new_setup(setup, len(code), len(payload) + 4, len(protected), kernel.end) + protected


def kernel_elf(untrusted_image: bytes) -> bytes:
    """The ELF file inside a bzImage. Raises UnusableKernel."""
    setup_size = _setup_size(untrusted_image)
    offset, length = struct.unpack_from("<II", untrusted_image, _PAYLOAD)
    packed = untrusted_image[setup_size + offset : setup_size + offset + length]
    if len(packed) != length:
        raise UnusableKernel("the file is cut off")
    try:
        return decompress(packed, _LARGEST_KERNEL)
    except UnreadableData as error:
        raise UnusableKernel(f"its kernel cannot be unpacked: {error}") from error


def _setup_size(untrusted_image: bytes) -> int:
    if len(untrusted_image) < 0x268 or untrusted_image[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise UnusableKernel("no Linux bzImage")
    (version,) = struct.unpack_from("<H", untrusted_image, _VERSION)
    if version < 0x20C:  # 64-bit kernels have it since 3.8
        raise UnusableKernel(f"boot protocol {version >> 8}.{version & 255} is too old")
    return ((untrusted_image[_SETUP_SECTORS] or 4) + 1) * SECTOR


def _read(untrusted_image: bytes) -> tuple[bytes, _Kernel]:
    elf = kernel_elf(untrusted_image)
    try:
        kernel = _parse_elf(elf)
    except struct.error as error:
        raise UnusableKernel("its ELF file is cut off") from error
    if not kernel.loaded or not 0 < kernel.end - kernel.start < _LARGEST_KERNEL:
        raise UnusableKernel("its ELF file has no sensible segments")
    # The unpacker maps the first GiB, and leaves the kernel's header the page below the kernel.
    if kernel.start % PAGE or kernel.start < 2 * unpacker.ADDRESS or kernel.end > 1 << 30:
        raise UnusableKernel(f"the kernel wants {kernel.start:#x}-{kernel.end:#x}")
    if not kernel.start <= kernel.entry < kernel.end:
        raise UnusableKernel(f"its entry {kernel.entry:#x} is outside of it")
    return untrusted_image[: _setup_size(untrusted_image)], kernel


def _parse_elf(elf: bytes) -> _Kernel:
    fields = _ELF_HEADER.unpack_from(elf)
    if fields[0][:6] != b"\x7fELF\x02\x01" or fields[2] != 62:
        raise UnusableKernel("no x86-64 kernel inside")
    entry, table, entry_size, count = fields[4], fields[5], fields[9], fields[10]
    segments = []
    for index in range(count):
        kind, flags, offset, virtual, physical, in_file, in_memory, _ = _SEGMENT.unpack_from(
            elf, table + index * entry_size
        )
        if kind in (_PT_LOAD, _PT_NOTE):
            content = elf[offset : offset + in_file]
            segments.append(_Segment(kind, flags, virtual, physical, content, in_memory))
    return _Kernel(elf[: _ELF_HEADER.size], entry, tuple(segments))


def _lay_out(kernel: _Kernel) -> bytes:
    """One ELF file in which each byte lies as far from the start as it will in memory.

    So the unpacker only unpacks, to the page below the kernel, and need not know of segments.
    """
    base = kernel.start - PAGE
    image = bytearray(kernel.end - base)
    for segment in kernel.loaded:
        image[segment.address - base : segment.address - base + len(segment.content)] = segment.content
    header = bytearray(kernel.header)
    struct.pack_into("<QQ", header, 0x20, _ELF_HEADER.size, 0)  # segments follow at once; no sections
    struct.pack_into("<HHHHH", header, 0x36, _SEGMENT.size, len(kernel.segments), 0, 0, 0)
    if len(header) + _SEGMENT.size * len(kernel.segments) > PAGE:
        raise UnusableKernel("too many segments")
    image[: len(header)] = header
    used = len(bytes(image).rstrip(b"\0"))
    for index, segment in enumerate(kernel.segments):
        offset = segment.address - base
        # The zeros at the end are left out of the file; there `in_file` is less than the size in memory.
        in_file = max(0, min(len(segment.content), used - offset))
        alignment = PAGE if segment.kind == _PT_LOAD else 4
        values = (
            segment.kind,
            segment.flags,
            offset,
            segment.virtual,
            segment.address,
            in_file,
            segment.size,
        )
        _SEGMENT.pack_into(image, len(header) + index * _SEGMENT.size, *values, alignment)
    return bytes(image[: used + -used % unpacker.CLEARED_AT_A_TIME])


def _new_setup(setup: bytes, payload_offset: int, payload_size: int, size: int, end: int) -> bytes:
    new = bytearray(setup)
    new[:2] = b"\0\0"  # "MZ" would offer the stub that is gone to UEFI
    struct.pack_into("<I", new, _SYSTEM_SIZE, size // 16)
    struct.pack_into("<B", new, _RELOCATABLE, 0)
    struct.pack_into("<H", new, _LOAD_FLAGS_64BIT, 0)  # no 64-bit entry, no EFI
    struct.pack_into("<II", new, _PAYLOAD, payload_offset, payload_size)
    struct.pack_into("<Q", new, _PREFERRED_ADDRESS, unpacker.ADDRESS)
    struct.pack_into("<I", new, _INIT_SIZE, end - unpacker.ADDRESS)
    struct.pack_into("<I", new, _EFI_HANDOVER, 0)
    return bytes(new)
