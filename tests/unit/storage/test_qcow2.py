"""qcow2 headers: what is written here QEMU accepts, and nothing that is read can do harm."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kronos.storage.images import image, qcow2
from kronos.storage.images.qcow2 import CLUSTER, BadImage, Header
from kronos.system.commands import run

GIB = 1 << 30


def header_of(path: Path) -> Header:
    with path.open("rb") as file:
        return qcow2.read_header(file, os.fstat(file.fileno()).st_size)


def written(path: Path, size: int, backing: str = "", form: str = "") -> Path:
    with path.open("w+b") as file:
        qcow2.write_empty(file, size, backing, form)
    return path


def qemu_info(path: Path) -> Any:
    return json.loads(run(["qemu-img", "info", "--output=json", str(path)]))


SIZES = [512, 65536, GIB, 512 * GIB, 512 * GIB + 512, 4096 * GIB, 16384 * GIB]


@pytest.mark.parametrize("size", SIZES)
def test_qemu_accepts_what_is_written(tmp_path: Path, size: int) -> None:
    path = written(tmp_path / "d.qcow2", size)
    run(["qemu-img", "check", "-q", "-f", "qcow2", str(path)])
    info = qemu_info(path)
    assert info["format"] == "qcow2" and info["virtual-size"] == size
    assert info["format-specific"]["data"]["compat"] == "1.1" and not info["dirty-flag"]


def test_qemu_accepts_an_overlay_with_the_format_of_its_parent(tmp_path: Path) -> None:
    written(tmp_path / "a.qcow2", GIB)
    path = written(tmp_path / "b.qcow2", GIB, "a.qcow2", "qcow2")
    run(["qemu-img", "check", "-q", "-f", "qcow2", str(path)])
    info = qemu_info(path)
    assert info["backing-filename"] == "a.qcow2" and info["backing-filename-format"] == "qcow2"
    assert info["full-backing-filename"] == str(tmp_path / "a.qcow2")


def test_qemu_writes_all_over_what_is_written(tmp_path: Path) -> None:
    path = written(tmp_path / "d.qcow2", 16384 * GIB)
    for offset in (0, 8191 * GIB, 16383 * GIB):
        run(["qemu-io", "-f", "qcow2", "-c", f"write -q -P 5 {offset} 1M", str(path)])
    run(["qemu-img", "check", "-q", "-f", "qcow2", str(path)])
    with path.open("rb") as file:
        assert not qcow2.is_empty(file, header_of(path))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backing", ["", "x.raw", "ü" * 100 + ".qcow2"])
def test_what_is_written_is_read(tmp_path: Path, size: int, backing: str) -> None:
    path = written(tmp_path / "d.qcow2", size, backing, image.format_of(backing))
    header = header_of(path)
    assert (header.virtual_size, header.backing_file) == (size, backing)
    assert header.backing_format == image.format_of(backing)
    with path.open("rb") as file:
        assert qcow2.is_empty(file, header)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on,cluster_size=128k",
        "compression_type=zstd",
        "lazy_refcounts=on",
        "refcount_bits=1",
        "preallocation=metadata",
    ],
)
def test_what_qemu_writes_is_read(tmp_path: Path, options: str) -> None:
    path = tmp_path / "d.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), str(path), "300M"])
    assert header_of(path).virtual_size == 300 << 20
    run(["qemu-img", "resize", "-q", "-f", "qcow2", "--preallocation=off", str(path), "3G"])
    assert header_of(path).virtual_size == 3 * GIB
    with path.open("rb") as file:
        assert qcow2.is_empty(file, header_of(path)) == (options != "preallocation=metadata")


def test_an_overlay_made_by_qemu_is_read(tmp_path: Path) -> None:
    written(tmp_path / "a.qcow2", GIB)
    path = tmp_path / "b.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", str(path)])
    assert image.inspect(path) == image.Image("qcow2", GIB, "a.qcow2")


def test_an_external_data_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'x'}", str(path), "1M"])
    with pytest.raises(BadImage):
        header_of(path)


def test_a_data_file_name_alone_is_refused(tmp_path: Path) -> None:
    """Without the incompatible bit QEMU ignores it, but nothing good writes such an image."""
    path = written(tmp_path / "d.qcow2", GIB)
    with path.open("r+b") as file:
        file.seek(104)
        file.write(struct.pack(">II", 0x44415441, 11) + b"/etc/shadow".ljust(16, b"\0"))
    with pytest.raises(BadImage, match="data file"):
        header_of(path)


FIELDS = {
    "magic": (0, ">I", 0x514649FC),
    "version": (4, ">I", 4),
    "backing name in the clouds": (8, ">Q", 1 << 63),
    "backing name over the header": (8, ">QI", (50, 10)),
    "backing name of 1024 bytes": (8, ">QI", (4096, 1024)),
    "backing name of nothing": (8, ">QI", (4096, 0)),
    "backing name across the cluster": (8, ">QI", (65530, 100)),
    "tiny clusters": (20, ">I", 8),
    "huge clusters": (20, ">I", 22),
    "no size": (24, ">Q", 0),
    "negative size": (24, ">Q", (1 << 64) - 512),
    "encrypted with LUKS": (32, ">I", 2),
    "more than the L1 table maps": (24, ">Q", 2 * GIB),
    "no L1 table": (36, ">I", 0),
    "endless L1 table": (36, ">I", 0xFFFFFFFF),
    "L1 table at an odd place": (40, ">Q", 3 * CLUSTER + 8),
    "L1 table past the end": (40, ">Q", 4 * CLUSTER),
    "refcounts over the header": (48, ">Q", 0),
    "refcounts past the end": (48, ">Q", 1 << 40),
    "no refcounts": (56, ">I", 0),
    "endless refcounts": (56, ">I", 1 << 20),
    "corrupt": (72, ">Q", 2),
    "unknown feature": (72, ">Q", 1 << 40),
    "refcount order": (96, ">I", 7),
    "short header": (100, ">I", 72),
    "long header": (100, ">I", 1 << 31),
    "odd header": (100, ">I", 105),
    "extension past the end": (104, ">II", (0x1234, 0xFFFFFFF0)),
}


@pytest.mark.parametrize("wrong", FIELDS)
def test_nonsense_is_refused(tmp_path: Path, wrong: str) -> None:
    path = written(tmp_path / "d.qcow2", GIB)
    header_of(path)
    offset, layout, values = FIELDS[wrong]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack(layout, *(values if isinstance(values, tuple) else (values,))))
    with pytest.raises(BadImage):
        header_of(path)


@pytest.mark.parametrize("length", [0, 1, 71, 72, 103, 111, CLUSTER, 3 * CLUSTER])
def test_an_image_that_was_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    path = written(tmp_path / "d.qcow2", GIB)
    os.truncate(path, length)
    with pytest.raises(BadImage):
        header_of(path)


def good_header() -> bytes:
    file = io.BytesIO()
    qcow2.write_empty(file, GIB, "parent.qcow2", "qcow2")
    return file.getvalue()


GOOD = good_header()


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=12),
    length=st.integers(0, len(GOOD)) | st.just(len(GOOD)),
)
@example(changes=[], length=len(GOOD))
def test_a_damaged_header_is_read_within_bounds_or_refused(
    tmp_path_factory: Any, changes: list[tuple[int, int]], length: int
) -> None:
    raw = bytearray(GOOD)
    for offset, value in changes:
        raw[offset] = value
    path = tmp_path_factory.getbasetemp() / "damaged.qcow2"
    path.write_bytes(raw[:length])
    try:
        header = header_of(path)
        with path.open("rb") as file:
            qcow2.is_empty(file, header)
    except BadImage:
        return
    assert 0 < header.virtual_size <= qcow2.MAXIMUM_SIZE
    assert len(header.backing_file.encode()) <= 1023
    assert 9 <= header.cluster_bits <= 21
    assert header.l1_entries * 8 <= 32 << 20


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400).map(lambda tail: qcow2.MAGIC + struct.pack(">I", 3) + tail))
def test_noise_is_read_within_bounds_or_refused(tmp_path_factory: Any, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.qcow2"
    path.write_bytes(raw)
    with pytest.raises(BadImage):
        header_of(path)
