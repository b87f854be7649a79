"""Whether an installer has Xen's front ends, and a RAM disk to which they are added."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.boot.eliloader import frontends
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.initramfs import Archive

RELEASE = "6.1.0-50-amd64"
NET, BLOCK = "xen_netfront", "xen_blkfront"


def kernel(payload: bytes = b"\x7fELF, and no driver") -> bytes:
    """As much of a bzImage as says a release and has a kernel in it."""
    packed = gzip.compress(payload)
    head = bytearray(1024)
    head[0x1F1] = 1
    struct.pack_into("<4sHHI", head, 0x202, b"HdrS", 0x20F, 0, 0)
    struct.pack_into("<H", head, 0x20E, 0x300 - 0x200)
    struct.pack_into("<II", head, 0x248, 0, len(packed))
    text = f"{RELEASE} (builder@example) #1 SMP\0".encode()
    head[0x300 : 0x300 + len(text)] = text
    return bytes(head) + packed


def ramdisk(*modules: str) -> bytes:
    archive = Archive()
    archive.file("init", b"#!/bin/sh\n", executable=True)
    for name in modules:
        archive.file(f"lib/modules/{RELEASE}/kernel/drivers/{name}.ko.xz", b"x" * 7)
    return archive.packed()


def test_a_kernel_says_its_release() -> None:
    assert frontends.release(kernel()) == RELEASE
    assert frontends.release(b"MZ" * 1000) == ""


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lambda data: lzma.compress(data, check=lzma.CHECK_CRC32)]
)
def test_modules_of_the_ramdisk_are_there(pack) -> None:  # type: ignore[no-untyped-def]
    packed = pack(ramdisk("net/xen-netfront"))
    assert frontends.lacking(kernel(), packed, [NET, BLOCK]) == [BLOCK]


def test_modules_are_found_behind_the_microcode_that_many_ramdisks_begin_with() -> None:
    both = ramdisk() + bytes(512) + gzip.compress(ramdisk("net/xen-netfront"))
    assert frontends.lacking(kernel(), both, [NET]) == []


def test_what_is_built_in_is_there() -> None:
    built_in = kernel(b"\x7fELF\0xen_netfront.max_queues\0")
    assert frontends.lacking(built_in, ramdisk(), [NET, BLOCK]) == [BLOCK]


@given(st.binary(max_size=300))
def test_nothing_is_said_of_what_cannot_be_read(noise: bytes) -> None:
    assert frontends.lacking(b"MZ", noise, [NET]) == []
    frontends.lacking(kernel(), b"070701" + noise, [NET])


def test_drivers_are_added_with_a_program_that_loads_them(tmp_path: Path) -> None:
    tree = tmp_path / RELEASE
    (tree / "kernel").mkdir(parents=True)
    (tree / "modules.builtin").write_text("")
    (tree / "kernel/xen-netfront.ko").write_bytes(b"\x7fELF\0depends=xenbus\0")
    (tree / "kernel/xenbus.ko").write_bytes(b"\x7fELF\0depends=\0")
    added, argument = frontends.additions(kernel(), [NET], tmp_path)
    assert argument == "rdinit=/eliloader-drivers"
    names = [path for path, _ in frontends._entries(added, 0) if path]
    assert names == [
        "eliloader-drivers.d",
        "eliloader-drivers.d/00-xenbus.ko",
        "eliloader-drivers.d/01-xen_netfront.ko",
        "eliloader-drivers",
    ], "each after what it needs"
    assert frontends.lacking(kernel(), ramdisk() + added, ["xenbus"]) == [
        "xenbus"
    ], "they keep their order, not names"


@pytest.mark.parametrize("present", ["nothing", "another kernel", "not this driver"])
def test_drivers_that_nobody_has_are_missed(tmp_path: Path, present: str) -> None:
    if present == "another kernel":
        (tmp_path / "5.10").mkdir()
    if present == "not this driver":
        (tmp_path / RELEASE).mkdir()
        (tmp_path / RELEASE / "modules.builtin").write_text("")
    with pytest.raises(InstallFailed) as caught:
        frontends.additions(kernel(), [NET], tmp_path)
    assert caught.value.code == "SUPPORT_PACKAGE_MISSING"
    assert f"{NET} for kernel {RELEASE}" in caught.value.params[0]
