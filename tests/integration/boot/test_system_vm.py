"""The system VM's disk: made once, made anew with the tiny guest, and readable by a host that boots it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kronos.boot import system_vm
from kronos.boot.guest_disk.loader import load
from kronos.boot.tiny_guest import TinyGuest


@pytest.fixture
def directory(tiny: TinyGuest, tmp_path: Path) -> Path:
    """A directory of this test's own with the tiny guest in it."""
    made = tmp_path / "guest"
    shutil.copytree(tiny.kernel.parent, made)
    return made


def raw(image: Path) -> bytes:
    """The disk as a guest sees it."""
    disk = image.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, disk], check=True, timeout=60)
    return disk.read_bytes()


def test_it_is_made_once(directory: Path) -> None:
    image = system_vm.system_vm(directory)
    before = image.stat().st_ino
    assert system_vm.system_vm(directory).stat().st_ino == before
    assert sorted(path.name for path in directory.glob("system-vm*")) == [
        "system-vm.json",
        "system-vm.lock",
        "system-vm.qcow2",
    ]


def test_what_one_that_was_killed_left_of_its_work_goes(directory: Path) -> None:
    (directory / "system-vm-x/content/grub").mkdir(parents=True)
    image = system_vm.system_vm(directory)
    assert image.stat().st_size and not list(directory.glob("system-vm-*"))


def test_it_is_made_anew_when_the_tiny_guest_is(directory: Path) -> None:
    image = system_vm.system_vm(directory)
    before = image.stat().st_ino
    stamp = directory / "tiny-guest.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"release": "another"}))
    assert system_vm.system_vm(directory).stat().st_ino != before


def test_it_is_a_disk_of_the_templates_size_with_one_partition(directory: Path) -> None:
    disk = raw(system_vm.system_vm(directory))
    assert len(disk) == system_vm.SIZE
    assert disk[510:512] == b"\x55\xaa"
    first, *others = (disk[446 + 16 * number : 462 + 16 * number] for number in range(4))
    start, length = (int.from_bytes(first[at : at + 4], "little") for at in (8, 12))
    assert (first[0], first[4]) == (0x80, 0x83)
    assert (start + length) * 512 == len(disk)
    assert others == [bytes(16)] * 3
    label = disk[start * 512 + 1024 + 0x78 :][:16].rstrip(b"\0")
    assert label.decode() == system_vm.LABEL


def test_a_host_that_reads_it_boots_the_tiny_guest_as_a_system_vm(directory: Path, tmp_path: Path) -> None:
    target = tmp_path / "loaded"
    target.mkdir()
    found = load(system_vm.system_vm(directory), "qcow2", target)
    assert found.kernel.read_bytes() == (directory / "tiny-guest-vmlinuz").read_bytes()
    assert found.ramdisk is not None
    assert found.ramdisk.read_bytes() == (directory / "tiny-guest-initrd").read_bytes()
    assert "kronos.role=system" in found.arguments.split()
