from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.boot import bzimage, unpacker
from kronos.boot.bzimage import TooLarge, UnusableKernel, kernel_elf, repack

KERNEL_AT = 0x1000000


def test_a_repacked_kernel_keeps_every_byte_at_its_place_in_memory(small_kernel: bytes) -> None:
    elf = kernel_elf(repack(small_kernel))
    # The file begins a page below the kernel, so an offset in it is an address less that.
    assert elf[0x1000 : 0x1000 + 1000] == b"\xeb\xfe" * 500
    assert elf[0x101000 : 0x101000 + 1200] == b"data" * 300
    assert not any(elf[0x1000 + 1000 : 0x101000])


def test_a_repacked_kernel_holds_an_elf_file_that_loads_the_same(small_kernel: bytes) -> None:
    elf = kernel_elf(repack(small_kernel))
    kinds = [struct.unpack_from("<IIQQQQQQ", elf, 64 + 56 * index) for index in range(3)]
    text, data, note = kinds
    assert (text[2], text[4], text[6]) == (0x1000, KERNEL_AT, 1000)
    assert (data[2], data[4], data[6]) == (0x101000, KERNEL_AT + 0x100000, 1200 + 5000)
    assert elf[note[2] : note[2] + note[5]] == b"\xeb\xfe\xeb\xfe"


def test_the_unpacker_is_told_where_all_lies(small_kernel: bytes) -> None:
    image = repack(small_kernel)
    setup = 3 * 512
    end_of_code = setup + image[setup : setup + 4096].rstrip(b"\0").rfind(struct.pack("<I", KERNEL_AT)) + 4
    source, source_end, target, target_end, entry = struct.unpack_from("<5I", image, end_of_code - 20)
    assert (target, target_end, entry) == (KERNEL_AT - 4096, KERNEL_AT + 0x100000 + 1200 + 5000, KERNEL_AT)
    packed = image[setup + source - unpacker.ADDRESS - 4 : setup + source_end - unpacker.ADDRESS]
    offset, length = struct.unpack_from("<II", image, 0x248)
    assert packed == image[setup + offset : setup + offset + length - 4]


def test_what_is_unpacked_is_whole_steps_of_the_clearing_loop(small_kernel: bytes) -> None:
    assert len(kernel_elf(repack(small_kernel))) % unpacker.CLEARED_AT_A_TIME == 0


def test_a_repacked_kernel_offers_neither_relocation_nor_an_efi_stub(small_kernel: bytes) -> None:
    image = repack(small_kernel)
    assert image[:2] == b"\0\0"
    assert struct.unpack_from("<BxH", image, 0x234) == (0, 0)
    assert struct.unpack_from("<I", image, 0x264) == (0,)


def test_a_kernel_that_would_reach_into_its_own_place_is_not_repacked(large_kernel: bytes) -> None:
    with pytest.raises(TooLarge, match="do not fit below 0xfff000"):
        repack(large_kernel)


def test_a_repacked_kernel_can_be_repacked(small_kernel: bytes) -> None:
    once = repack(small_kernel)
    assert repack(once) == once


@given(st.binary(max_size=700) | st.integers(1, 1500).map(lambda size: b"HdrS" * size))
def test_no_kernel_is_refused(data: bytes) -> None:
    with pytest.raises(UnusableKernel):
        repack(data)


@given(at=st.integers(0, 0x267), value=st.integers(0, 255))
def test_a_changed_header_is_refused_or_does_no_harm(small_kernel: bytes, at: int, value: int) -> None:
    image = bytearray(small_kernel)
    image[at] = value
    try:
        repacked = repack(bytes(image))
    except UnusableKernel:
        return
    assert kernel_elf(repacked)[0x1000 : 0x1000 + 1000] == b"\xeb\xfe" * 500


@pytest.mark.skipif(not (shutil.which("as") and shutil.which("ld")), reason="no assembler")
def test_the_unpackers_bytes_are_those_of_its_source(tmp_path: Path) -> None:
    source = Path(bzimage.__file__).with_name("unpacker.S")
    subprocess.run(["as", "--64", str(source), "-o", str(tmp_path / "o")], check=True)
    link = ["ld", "-m", "elf_x86_64", "-Ttext", f"{unpacker.ADDRESS:#x}", str(tmp_path / "o"), "-o"]
    subprocess.run([*link, str(tmp_path / "elf")], check=True, capture_output=True)
    copy = ["objcopy", "-O", "binary", "-j", ".text", str(tmp_path / "elf"), str(tmp_path / "bin")]
    subprocess.run(copy, check=True)
    assembled = (tmp_path / "bin").read_bytes()
    packed = unpacker.ADDRESS + 4096
    parameters = struct.pack("<5I", packed + 4, packed + 7, 1, 2, 3)
    assert unpacker.code(7, target=1, target_end=2, entry=3) == (assembled[:-20] + parameters).ljust(
        4096, b"\0"
    )
