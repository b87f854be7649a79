"""Guests' kernels read from real disks: every file system, partition table and image form that we can make."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import guest_disks
from kronos.boot.guest_disk import jail
from kronos.boot.guest_disk.loader import BootUnreadable, load

pytestmark = pytest.mark.integration

UUID = "8a4b1c3e-52d7-4e0f-9b6a-1f2e3d4c5b6a"
KERNEL, RAMDISK = os.urandom(3_000_001), os.urandom(5_000_003)
ARGUMENTS = f"root=UUID={UUID} ro console=hvc0"
GRUB_CFG = f"""\
if [ -s $prefix/grubenv ]; then load_env; fi
set default="${{saved_entry}}"
menuentry 'Old' --id old {{ linux /boot/vmlinuz-5.9 old }}
menuentry 'Linux' --id new {{
  insmod ext2
  search --no-floppy --fs-uuid --set=root {UUID}
  linux /boot/vmlinuz-5.10 {ARGUMENTS}
  initrd /boot/initrd.img-5.10
}}
"""
FILES = {
    "/boot/grub/grub.cfg": GRUB_CFG,
    "/boot/grub/grubenv": "# GRUB Environment Block\nsaved_entry=new\n" + "#" * 900,
    "/boot/vmlinuz-5.9": b"old",
    "/boot/vmlinuz-5.10": KERNEL,
    "/boot/initrd.img-5.10": RAMDISK,
    "/etc/fstab": f"UUID={UUID} / ext4 defaults 0 1\n",
}
KINDS = ("ext2", "ext3", "ext4", "xfs", "btrfs")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str, str], Path]]:
    """`made("xfs", "gpt", "qcow2")`: a disk of FILES, made once."""
    directory = tmp_path_factory.mktemp("disks")
    content = guest_disks.tree(directory / "content", FILES, {"/vmlinuz": "boot/vmlinuz-5.10"})

    def make(kind: str, table: str, form: str) -> Path:
        path = directory / f"{kind}-{table}-{form}"
        if path.exists():
            return path
        if form != "raw":
            return guest_disks.converted(make(kind, table, "raw"), form, path)
        if table == "none":
            return guest_disks.file_system(kind, content, path, uuid=UUID)
        bare = make(kind, "none", "raw")
        if table == "lvm":
            return guest_disks.physical_volume("vg", {"root": bare}, path)
        if table == "gpt+lvm":
            volume = guest_disks.physical_volume("vg", {"root": bare}, directory / f"{kind}-volume")
            return guest_disks.partitioned("gpt", [volume], path)
        return guest_disks.partitioned(table.removesuffix("+"), [bare], path, logical=table.endswith("+"))

    yield make


def _boot(image: Path, form: str, destination: Path, arguments: str = "") -> tuple[bytes, bytes | None, str]:
    loaded = load(image, form, destination, arguments=arguments)
    ramdisk = loaded.ramdisk.read_bytes() if loaded.ramdisk else None
    return loaded.kernel.read_bytes(), ramdisk, loaded.arguments


def _disk(directory: Path, files: dict[str, bytes | str], kind: str = "ext4", **options: str) -> Path:
    name = options.pop("name", "disk")
    content = guest_disks.tree(directory / f"{name}-content", files)
    return guest_disks.file_system(kind, content, directory / name, **options)


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    path = tmp_path / "destination"
    path.mkdir()
    return path


@pytest.mark.parametrize("form", ["raw", "qcow2", "vpc"])
@pytest.mark.parametrize("table", ["none", "dos", "dos+", "gpt", "lvm", "gpt+lvm"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_entry_of_grub_boots(
    made: Callable[[str, str, str], Path], destination: Path, kind: str, table: str, form: str
) -> None:
    assert _boot(made(kind, table, form), form, destination) == (KERNEL, RAMDISK, ARGUMENTS)


def test_the_image_is_not_written(made: Callable[[str, str, str], Path], destination: Path) -> None:
    image = made("ext4", "dos", "qcow2")
    before = image.stat()
    load(image, "qcow2", destination)
    after = image.stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_a_block_device_is_read(made: Callable[[str, str, str], Path], destination: Path, form: str) -> None:
    image = made("ext4", "dos", form)
    device = guest_disks.run("losetup", "--find", "--show", "--read-only", image).strip()
    try:
        assert _boot(Path(device), form, destination) == (KERNEL, RAMDISK, ARGUMENTS)
    finally:
        guest_disks.run("losetup", "-d", device)


def test_a_clone_is_read_through_what_it_is_based_on(
    made: Callable[[str, str, str], Path], tmp_path: Path, destination: Path
) -> None:
    os.link(made("ext4", "gpt", "raw"), tmp_path / "base.raw")
    for name, below, form in (("middle.qcow2", "base.raw", "raw"), ("top.qcow2", "middle.qcow2", "qcow2")):
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", form, name],
            cwd=tmp_path,
            check=True,
            timeout=60,
        )
    assert _boot(tmp_path / "top.qcow2", "qcow2", destination) == (KERNEL, RAMDISK, ARGUMENTS)


def test_a_backing_file_that_the_header_alone_names_is_not_opened(tmp_path: Path, destination: Path) -> None:
    guest_disks.run(
        "qemu-img", "create", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", tmp_path / "a", "1M"
    )
    with pytest.raises(BootUnreadable, match="no file beside it"):
        load(tmp_path / "a", "qcow2", destination)


def test_a_raw_disk_is_never_taken_for_a_qcow2(
    made: Callable[[str, str, str], Path], tmp_path: Path, destination: Path
) -> None:
    with pytest.raises(BootUnreadable, match="no file system"):
        load(made("ext4", "none", "qcow2"), "raw", destination)


@pytest.mark.parametrize("kind", ["ext4", "vfat"])
def test_a_boot_partition_beside_the_root(tmp_path: Path, destination: Path, kind: str) -> None:
    menu = "default 0\ntitle Linux\nroot (hd0,0)\nkernel /vmlinuz-1 root=/dev/xvda2\ninitrd /initrd-1\n"
    boot = _disk(
        tmp_path, {"/grub/menu.lst": menu, "/vmlinuz-1": b"k1", "/initrd-1": b"r1"}, kind, name="boot"
    )
    root = _disk(tmp_path, {"/etc/fstab": "", "/boot/vmlinuz-0": b"decoy"}, "xfs", name="root")
    image = guest_disks.partitioned("dos", [boot, root], tmp_path / "image")
    assert _boot(image, "raw", destination) == (b"k1", b"r1", "root=/dev/xvda2")


def test_entries_of_the_boot_loader_specification_with_grubenv(tmp_path: Path, destination: Path) -> None:
    entry = "title Fedora\nversion {0}\nlinux /vmlinuz-{0}\noptions $kernelopts\n"
    entry += "initrd /initramfs-{0}.img $tuned_initrd\n"
    boot = _disk(
        tmp_path,
        {
            "/grub2/grub.cfg": "load_env\nset default=0\nblscfg\n",
            "/grub2/grubenv": "kernelopts=root=/dev/mapper/vg-root ro\n",
            "/loader/entries/m-5.9.conf": entry.format("5.9"),
            "/loader/entries/m-5.14.conf": entry.format("5.14"),
            "/vmlinuz-5.14": b"k",
            "/initramfs-5.14.img": b"r",
        },
        "xfs",
    )
    image = guest_disks.partitioned("gpt", [boot], tmp_path / "image")
    assert _boot(image, "raw", destination) == (b"k", b"r", "root=/dev/mapper/vg-root ro")


def test_an_efi_partition_leads_to_the_boot_partition_by_uuid(tmp_path: Path, destination: Path) -> None:
    stub = f"search --fs-uuid --set=root {UUID}\nset prefix=($root)/elsewhere\nconfigfile $prefix/grub.cfg\n"
    esp = _disk(tmp_path, {"/EFI/fedora/grub.cfg": stub}, "vfat", name="esp")
    boot = _disk(
        tmp_path,
        {"/elsewhere/grub.cfg": "menuentry m { linux /odd-name x }", "/odd-name": b"k"},
        "xfs",
        name="boot",
        uuid=UUID,
    )
    image = guest_disks.partitioned("gpt", [esp, boot], tmp_path / "image")
    assert _boot(image, "raw", destination) == (b"k", None, "x")


def test_subvolumes_of_btrfs_are_directories(tmp_path: Path, destination: Path) -> None:
    files = {
        "/@/boot/grub/grub.cfg": "menuentry m { linux /@/boot/vmlinuz-1 rootflags=subvol=@; initrd /boot/initrd-1 }",
        "/@/boot/vmlinuz-1": b"k",
        "/@/boot/initrd-1": b"r",
    }
    assert _boot(_disk(tmp_path, files, "btrfs"), "raw", destination) == (b"k", b"r", "rootflags=subvol=@")


def test_a_disk_without_boot_loader_boots_its_newest_kernel(
    made: Callable[[str, str, str], Path], tmp_path: Path, destination: Path
) -> None:
    files = {name: content for name, content in FILES.items() if "grub" not in name}
    image = guest_disks.partitioned("dos", [_disk(tmp_path, files)], tmp_path / "image")
    assert _boot(image, "raw", destination) == (KERNEL, RAMDISK, f"root=UUID={UUID} ro")


def test_without_fstab_the_file_systems_own_uuid_is_the_root(tmp_path: Path, destination: Path) -> None:
    for number, kind in enumerate(("ext4", "xfs", "btrfs")):
        files = {"/boot/vmlinuz-1": b"k", "/boot/initrd.img-1": b"r", "/etc/hostname": ""}
        image = _disk(tmp_path, files, kind, name=kind, uuid=UUID)
        where = destination / str(number)
        where.mkdir()
        assert _boot(image, "raw", where)[2] == f"root=UUID={UUID} ro"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--kernel=/vmlinuz --args='console=hvc0 ro'", (KERNEL, None, "console=hvc0 ro")),
        ("--kernel /boot/vmlinuz-5.9 --ramdisk /boot/initrd.img-5.10", (b"old", RAMDISK, "")),
        ("-q --entry=old --offset=1048576", (b"old", None, "old")),
    ],
)
def test_what_the_record_asks_for(
    made: Callable[[str, str, str], Path],
    destination: Path,
    arguments: str,
    expected: tuple[bytes, bytes | None, str],
) -> None:
    assert _boot(made("ext4", "dos", "raw"), "raw", destination, arguments) == expected


@pytest.mark.parametrize(
    "files",
    [
        {
            "/isolinux/isolinux.cfg": "default vesamenu.c32\ninclude txt.cfg\n",
            "/isolinux/txt.cfg": "label a\nmenu default\nkernel /install/vmlinuz\nappend initrd=/install/i quiet\n",
        },
        {"/boot/grub/grub.cfg": "menuentry Install { linux /install/vmlinuz quiet; initrd /install/i }"},
    ],
    ids=["isolinux", "grub"],
)
def test_a_cd_boots_what_its_boot_loader_would(
    tmp_path: Path, destination: Path, files: dict[str, str]
) -> None:
    image = _disk(tmp_path, {**files, "/install/vmlinuz": b"k", "/install/i": b"r"}, "iso9660")
    assert _boot(image, "raw", destination) == (b"k", b"r", "quiet")


def test_nothing_of_the_jail_is_left_when_it_ends(made: Callable[[str, str, str], Path]) -> None:
    with jail.Jail(made("ext4", "dos", "qcow2"), "qcow2", 10.0) as started:
        inside = _descendants(started.process.pid)
        assert len(inside) >= 3  # bubblewrap's init, the agent, the view
    assert [pid for pid in inside if Path(f"/proc/{pid}/exe").exists()] == []


def _descendants(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in _descendants(child)]
