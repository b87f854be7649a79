"""A disc that is made here is read by what reads discs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kronos.boot.disc import SECTOR, disc


@pytest.mark.parametrize("content", [b"", b"<unattend/>", b"x" * SECTOR, b"y" * (5 * SECTOR + 1)])
def test_its_file_is_found_by_its_description(content: bytes) -> None:
    image = disc("ANSWERS", "UNATTEND.XML", content)
    description = image[16 * SECTOR : 17 * SECTOR]
    assert description[:7] == b"\x01CD001\x01"
    assert int.from_bytes(description[80:84], "little") * SECTOR == len(image)
    root = int.from_bytes(description[158:162], "little")
    folder = image[root * SECTOR : (root + 1) * SECTOR]
    entry = folder[68:]  # after itself and its parent
    assert entry[33 : 33 + entry[32]] == b"UNATTEND.XML;1"
    place, size = (int.from_bytes(entry[at : at + 4], "little") for at in (2, 10))
    assert image[place * SECTOR : place * SECTOR + size] == content


def test_the_systems_tools_know_it_for_a_disc(tmp_path: Path) -> None:
    path = tmp_path / "disc.iso"
    path.write_bytes(disc("ANSWERS", "UNATTEND.XML", b"<unattend/>"))
    told = subprocess.run(
        ["blkid", "-p", path], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert 'TYPE="iso9660"' in told
    assert 'LABEL="ANSWERS"' in told


@pytest.mark.parametrize(
    ("label", "name"), [("A", "unattend.xml"), ("A", "MUCHTOOLONG.XML"), ("a b", "A.B"), ("", "A.B")]
)
def test_names_are_those_that_every_system_reads(label: str, name: str) -> None:
    with pytest.raises(ValueError, match="no name on a disc"):
        disc(label, name, b"")
