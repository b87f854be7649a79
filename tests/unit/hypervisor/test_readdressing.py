"""A memory image becomes another VM's: its document says so, and nothing else of it changes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor import savefile
from kronos.hypervisor.readdressing import QEMU_MAGIC, readdress

ONE = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"
DOCUMENT = f"<domain><uuid>{ONE}</uuid><source path='/run/{ONE}/vnc'/></domain>"
MEMORY = b"memory, in which the uuid is too: " + ONE.encode() * 3


def of_qemu(document: str) -> bytes:
    """As libvirt's driver for QEMU writes it: six words and room for fourteen more."""
    text = document.encode() + bytes(100)
    return struct.pack("=16s6I56x", QEMU_MAGIC, 2, len(text), 1, 0, 0, 0)[:92] + text


@pytest.mark.parametrize("written", [of_qemu, savefile.head])
def test_all_of_the_document_and_none_of_the_memory_is_the_others(tmp_path: Path, written) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "image"
    path.write_bytes(written(DOCUMENT) + MEMORY)
    readdress(path, ONE, OTHER)
    assert path.read_bytes() == written(DOCUMENT.replace(ONE, OTHER)) + MEMORY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no image at all" * 100,
        of_qemu(DOCUMENT.replace(ONE, OTHER)),
        struct.pack("=16sII", QEMU_MAGIC, 2, 1 << 30) + DOCUMENT.encode(),
        struct.pack("=16sII", QEMU_MAGIC, 2, 0) + DOCUMENT.encode(),
    ],
    ids=["nothing", "something else", "another VM's", "too long", "without a document"],
)
def test_what_is_not_an_image_of_the_vm_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(Failure, match="VM_CHECKPOINT_RESUME_FAILED"):
        readdress(path, ONE, OTHER)
    assert path.read_bytes() == content
