"""Guests' disks made in user space: file systems from a tree of files, partition tables, LVM, image formats."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path

MIB = 1 << 20
# The least that each mkfs takes, and enough for the trees of the tests. Holes take no space.
_SIZES = {"ext2": 64, "ext3": 64, "ext4": 64, "xfs": 320, "btrfs": 128, "vfat": 48}


def run(*argv: str | Path, text: str | None = None) -> str:
    """Run a tool and return what it says; a failure is the test's."""
    done = subprocess.run(
        [os.fspath(word) for word in argv],
        input=text,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}{done.stdout}"
    return done.stdout


def tree(directory: Path, files: dict[str, bytes | str], links: dict[str, str] | None = None) -> Path:
    """Write files and symbolic links below `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = directory / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, target in (links or {}).items():
        path = directory / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return directory


def file_system(kind: str, content: Path, image: Path, *, label: str = "", uuid: str = "") -> Path:
    """Make `image` a file system of the kind that holds a tree: ext2, ext3, ext4, xfs, btrfs, vfat or iso9660."""
    if kind == "iso9660":
        run("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-V", label or "CD", "-o", image, content)
        return image
    with image.open("xb") as file:
        file.truncate(_SIZES[kind] * MIB)
    named = ["-L", label] if label else []
    if kind == "xfs":
        protofile = image.with_suffix(".proto")
        protofile.write_text("/dev/null\n0 0\n" + "\n".join(_prototype(content, top=True)) + "\n")
        run("mkfs.xfs", "-q", *named, *(["-m", f"uuid={uuid}"] if uuid else []), "-p", protofile, image)
    elif kind == "btrfs":
        run("mkfs.btrfs", "-q", *named, *(["-U", uuid] if uuid else []), "--rootdir", content, image)
    elif kind == "vfat":
        run("mkfs.vfat", "-F", "32", *(["-n", label] if label else []), image)
        run("mcopy", "-s", "-i", image, *content.iterdir(), "::/")
    else:
        run(f"mkfs.{kind}", "-q", "-F", *named, *(["-U", uuid] if uuid else []), "-d", content, image)
    return image


def _prototype(path: Path, *, top: bool = False) -> list[str]:
    """The tree in the words of mkfs.xfs."""
    name = "" if top else f"{path.name} "
    if path.is_symlink():
        return [f"{name}l--777 0 0 {path.readlink()}"]
    if path.is_dir():
        inside = [line for child in sorted(path.iterdir()) for line in _prototype(child)]
        return [f"{name}d--755 0 0", *inside, "$"]
    return [f"{name}---644 0 0 {path}"]


def place(image: Path, content: Path, offset: int) -> None:
    """Copy `content` into `image` at a multiple of 1 MiB, holes left out."""
    with content.open("rb") as source, image.open("r+b") as target:
        target.truncate(max(image.stat().st_size, offset + content.stat().st_size))
        at = 0
        while block := source.read(MIB):
            if block.strip(b"\0"):
                target.seek(offset + at)
                target.write(block)
            at += len(block)


def partitioned(table: str, contents: Sequence[Path], image: Path, *, logical: bool = False) -> Path:
    """A disk with a partition for each content; the table is `dos` or `gpt`. `logical`: in an extended partition."""
    at, script, places = 1, [f"label: {table}", "unit: sectors"], list[int]()
    if logical:
        script.append("start=2048, type=5")
        at = 2
    for content in contents:
        length = -(-content.stat().st_size // MIB)
        script.append(f"start={at * 2048}, size={length * 2048}")
        places.append(at)
        at += length + 1
    with image.open("xb") as file:
        file.truncate((at + 1) * MIB)
    run("sfdisk", "-q", image, text="\n".join(script) + "\n")
    for content, where in zip(contents, places, strict=True):
        place(image, content, where * MIB)
    return image


def converted(image: Path, form: str, target: Path) -> Path:
    """The same disk as qcow2 or vpc."""
    exact = ["-o", "force_size=on"] if form == "vpc" else []
    run("qemu-img", "convert", "-f", "raw", "-O", form, *exact, image, target)
    return target


_EXTENT = 4 * MIB
_DATA_AT = MIB
_METADATA_AT, _METADATA_SIZE = 4096, MIB - 4096


def physical_volume(group: str, volumes: dict[str, Path], image: Path) -> Path:
    """An LVM2 physical volume that holds a whole volume group, as its on-disk format has it; needs no device-mapper."""
    identity = "KronosTestPhysicalVolume00000001"
    extents = {name: -(-content.stat().st_size // _EXTENT) for name, content in volumes.items()}
    with image.open("xb") as file:
        file.truncate(_DATA_AT + (sum(extents.values()) + 1) * _EXTENT)
    text = _metadata(group, identity, extents, image.stat().st_size // 512).encode() + b"\0"
    with image.open("r+b") as file:
        areas = struct.pack("<QQQQ", _DATA_AT, 0, 0, 0) + struct.pack(
            "<QQQQ", _METADATA_AT, _METADATA_SIZE, 0, 0
        )
        inner = struct.pack("<I8s", 32, b"LVM2 001")
        inner += struct.pack("<32sQ", identity.encode(), image.stat().st_size) + areas
        inner = inner.ljust(512 - 20, b"\0")
        file.seek(512)
        file.write(struct.pack("<8sQI", b"LABELONE", 1, _checksum(inner)) + inner)
        located = struct.pack("<QQII", 512, len(text), _checksum(text), 0)
        header = b" LVM2 x[5A%r0N*>" + struct.pack("<IQQ", 1, _METADATA_AT, _METADATA_SIZE) + located
        header = header.ljust(512 - 4, b"\0")
        file.seek(_METADATA_AT)
        file.write(struct.pack("<I", _checksum(header)) + header + text)
    at = 0
    for name, content in volumes.items():
        place(image, content, _DATA_AT + at * _EXTENT)
        at += extents[name]
    return image


def _checksum(data: bytes) -> int:
    """LVM's CRC-32 begins with a number of its own and is not inverted."""
    return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _dashed(identity: str) -> str:
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(identity[start:end] for start, end in zip(cuts, cuts[1:], strict=False))


def _metadata(group: str, identity: str, extents: dict[str, int], sectors: int) -> str:
    volumes, at = [], 0
    for number, (name, count) in enumerate(extents.items()):
        volumes.append(
            f'{name} {{\nid = "{_dashed(f"KronosTestLogicalVolume{number:09}")}"\n'
            'status = ["READ", "WRITE", "VISIBLE"]\nflags = []\nsegment_count = 1\n'
            f"segment1 {{\nstart_extent = 0\nextent_count = {count}\n"
            f'type = "striped"\nstripe_count = 1\nstripes = ["pv0", {at}]\n}}\n}}\n'
        )
        at += count
    return (
        f'{group} {{\nid = "{_dashed("KronosTestVolumeGroup00000000001")}"\nseqno = 1\nformat = "lvm2"\n'
        'status = ["RESIZEABLE", "READ", "WRITE"]\nflags = []\n'
        f"extent_size = {_EXTENT // 512}\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\n"
        f'physical_volumes {{\npv0 {{\nid = "{_dashed(identity)}"\ndevice = "/dev/sda"\n'
        f'status = ["ALLOCATABLE"]\nflags = []\ndev_size = {sectors}\npe_start = {_DATA_AT // 512}\n'
        f"pe_count = {at + 1}\n}}\n}}\nlogical_volumes {{\n{''.join(volumes)}}}\n}}\n"
        'contents = "Text Format Volume Group"\nversion = 1\ndescription = ""\n'
        'creation_host = "test"\ncreation_time = 1700000000\n'
    )


def special(directory: Path, name: str, kind: str) -> None:
    """A fifo, a directory or a device (root only) at `name`."""
    path = directory / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))


def copied(image: Path, target: Path) -> Path:
    """A copy with its holes, to be damaged."""
    shutil.copyfile(image, target)
    return target
