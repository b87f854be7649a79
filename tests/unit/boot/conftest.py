"""Kernels and modules small enough to make in a test."""

from __future__ import annotations

import lzma
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

KERNEL_AT = 0x1000000
VIRTUAL = 0xFFFFFFFF80000000


def elf_kernel(text: bytes, data: bytes, zeros: int) -> bytes:
    """An x86-64 kernel with two segments a MiB apart, the second followed by `zeros` bytes, and a note."""
    offset = 0x1000
    segments = [
        (1, 5, offset, VIRTUAL + KERNEL_AT, KERNEL_AT, len(text), len(text), 0x200000),
        (1, 6, offset + len(text), 0, KERNEL_AT + 0x100000, len(data), len(data) + zeros, 0x200000),
        (4, 4, offset, VIRTUAL + KERNEL_AT, KERNEL_AT, 4, 4, 4),
    ]
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        62,
        1,
        KERNEL_AT,
        64,
        0,
        0,
        64,
        56,
        len(segments),
        64,
        0,
        0,
    )
    table = b"".join(struct.pack("<IIQQQQQQ", *segment) for segment in segments)
    return (header + table).ljust(offset, b"\0") + text + data


def bz_image(payload: bytes, version: int = 0x20F) -> bytes:
    """A bzImage: two sectors of setup, 64 bytes of unpacker, `payload`."""
    setup = bytearray(3 * 512)
    setup[0:2] = b"MZ"
    setup[0x1F1] = 2
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<BBH", setup, 0x234, 1, 21, 0x7F)
    struct.pack_into("<II", setup, 0x248, 64, len(payload))
    return bytes(setup) + bytes(64) + payload


@pytest.fixture(scope="session")
def small_kernel() -> bytes:
    return bz_image(lzma.compress(elf_kernel(b"\xeb\xfe" * 500, b"data" * 300, 5000)))


@pytest.fixture(scope="session")
def large_kernel() -> bytes:
    """One that cannot be packed any smaller than 16 MiB."""
    data = random.Random(1).randbytes(16 << 20)
    return bz_image(lzma.compress(elf_kernel(b"\xeb\xfe" * 500, data, 0), preset=0))


@pytest.fixture
def module_tree(tmp_path: Path) -> Callable[[dict[str, dict[str, list[str]]]], Path]:
    """Makes a /lib/modules/<release> from {file: {tag: values}}."""

    def make(modules: dict[str, dict[str, list[str]]], built_in: str = "") -> Path:
        tree = tmp_path / "lib/modules/6.1.0-test"
        (tree / "kernel").mkdir(parents=True)
        (tree / "modules.builtin").write_text(built_in)
        for name, tags in modules.items():
            info = "".join(f"{tag}={value}\0" for tag, values in tags.items() for value in values)
            content = b"\x7fELF code \0license=GPL\0" + info.encode() + b"vermagic=6.1\0"
            path = tree / "kernel" / name
            path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
        return tree

    return make
