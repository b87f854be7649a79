"""Memory images of Xen's guests: what is one, and what is all of one."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kronos.hypervisor import savefile
from kronos.hypervisor.savefile import UnusableSavefile

DOCUMENT = "<domain type='xen'><name>one</name></domain>"


def record(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def memory(*pages: bytes) -> bytes:
    """libxc's part: image header, domain header, page records, and the one that ends it."""
    return bytes(40) + b"".join(record(1, page) for page in pages) + record(0)


def stream(*pages: bytes) -> bytes:
    """libxl's stream: its header, the memory, an emulator's state, the end."""
    return b"LibxlFmt" + bytes(8) + record(1) + memory(*pages) + record(2, b"state") + record(0)


def image(*pages: bytes) -> bytes:
    return savefile.head(DOCUMENT) + stream(*pages)


def test_its_document_is_read(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(image(b"page"))
    found = savefile.read(tmp_path / "image")
    assert found.untrusted_document == DOCUMENT
    assert (tmp_path / "image").read_bytes()[found.stream :].startswith(b"LibxlFmt")


def test_one_with_its_last_record_is_whole(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(image(b"page" * 1000, b"another"))
    assert savefile.is_whole(tmp_path / "image")


def test_what_follows_the_last_record_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(image(b"page") + bytes(1 << 16))
    assert savefile.is_whole(tmp_path / "disk")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(min_value=0))
def test_one_that_is_cut_off_anywhere_is_not_whole(tmp_path: Path, cut: int) -> None:
    whole = image(b"page" * 50, b"x")
    (tmp_path / "image").write_bytes(whole[: cut % len(whole)])
    assert not savefile.is_whole(tmp_path / "image")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(untrusted=st.binary(max_size=400), keep=st.integers(min_value=0, max_value=200))
def test_anything_else_is_refused_and_does_no_harm(tmp_path: Path, untrusted: bytes, keep: int) -> None:
    (tmp_path / "image").write_bytes(image(b"page")[:keep] + untrusted)
    savefile.is_whole(tmp_path / "image")
    try:
        found = savefile.read(tmp_path / "image")
    except UnusableSavefile:
        return
    assert len(found.untrusted_document) <= savefile.DOCUMENT_LIMIT


@pytest.mark.parametrize("length", [0, savefile.DOCUMENT_LIMIT + 1, 0xFFFFFFFF])
def test_a_document_without_measure_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "image").write_bytes(struct.pack("<16sII40x", savefile.MAGIC, 2, length) + bytes(100))
    with pytest.raises(UnusableSavefile):
        savefile.read(tmp_path / "image")


def test_what_is_not_there_is_not_whole(tmp_path: Path) -> None:
    assert not savefile.is_whole(tmp_path / "nothing")
