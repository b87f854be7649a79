from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.boot.compression import LZ4_LEGACY, UnreadableData, compress_lz4, compress_xz, decompress


@given(st.binary(max_size=3000) | st.binary(min_size=1, max_size=3).map(lambda unit: unit * 5000))
def test_lz4_comes_back_as_it_was(data: bytes) -> None:
    # As in a kernel, the unpacked size follows.
    assert decompress(compress_lz4(data) + struct.pack("<I", len(data))) == data


def test_lz4_of_several_blocks_comes_back() -> None:
    data = b"0123456789abcdef" * (3 << 16) * 3
    packed = compress_lz4(data)
    assert len(packed) < len(data) // 50
    assert decompress(packed + bytes(4)) == data


@pytest.mark.skipif(not shutil.which("lz4"), reason="no lz4 command")
def test_lz4_is_what_the_lz4_command_reads() -> None:
    data = b"kernel " * 100_000
    done = subprocess.run(["lz4", "-dc"], input=compress_lz4(data), capture_output=True, check=True)
    assert done.stdout == data


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
        compress_xz,
    ],
    ids=["gzip", "bzip2", "xz", "lzma", "xz for the kernel"],
)
def test_what_follows_the_data_is_ignored(compress: object) -> None:
    assert callable(compress)
    assert decompress(compress(b"kernel" * 100) + b"\x58\2\0\0") == b"kernel" * 100


@pytest.mark.skipif(not shutil.which("zstd"), reason="no zstd command")
def test_zstandard_is_unpacked() -> None:
    packed = subprocess.run(["zstd", "-c"], input=b"kernel" * 100, capture_output=True, check=True).stdout
    assert decompress(packed + b"\x58\2\0\0") == b"kernel" * 100


def test_xz_for_the_kernel_wants_no_large_window() -> None:
    done = lzma.LZMADecompressor(memlimit=4 << 20).decompress(compress_xz(bytes(8 << 20)))
    assert len(done) == 8 << 20


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF", b"\x1f\x8b\x08", LZ4_LEGACY + struct.pack("<I", 99) + b"short"]
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableData):
        decompress(data)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, compress_lz4], ids=["gzip", "xz", "lz4"])
def test_a_bomb_is_refused_at_its_limit(compress: object) -> None:
    assert callable(compress)
    bomb = compress(bytes(64 << 20)) + bytes(4)
    tracemalloc.start()
    with pytest.raises(UnreadableData):
        decompress(bomb, largest=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20
