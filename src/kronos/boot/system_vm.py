"""The system VM: a disk image with the tiny guest on it, the same for every hypervisor. See docs/system-vm.md.

It is a qcow2 with one partition, an ext4 that holds kernel, RAM disk and a GRUB configuration, and GRUB's own first
sectors. So it boots through a BIOS (KVM, Xen HVM), and where the host reads the guest's configuration (Xen PV).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from pathlib import Path

from kronos.boot.tiny_guest import COMMAND_LINE, Progress, TinyGuest, alone, tiny_guest
from kronos.datamodel.errors import Failure
from kronos.system.commands import CommandFailed, run
from kronos.system.files import write_whole

IMAGE = "kronos-system-vm"
"""What VM.other_config:image calls it: a VM that says so is provisioned with it on its first disk."""

LABEL = "kronos-system"
SIZE = 64 << 20
"""Bytes of the disk as the guest sees it, the template's too."""

_WORK = "system-vm-"
_START = 1 << 20
_SECTOR = 512
_GRUB = Path("/usr/lib/grub/i386-pc")
_GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "normal", "serial", "terminal")
_BOOT_CODE = 440
_LINUX = 0x83

ARGUMENTS = f"{COMMAND_LINE.replace(' quiet', '')} console=hvc0 quiet kronos.role=system"
"""The kernel's arguments; hvc0 is the first console under Xen, and nothing elsewhere."""

_CONFIGURATION = f"""\
set timeout=0
set default=0
menuentry "Kronos system VM" {{
    linux /vmlinuz {ARGUMENTS}
    initrd /initrd
}}
"""


def system_vm(directory: Path, *, progress: Progress = lambda line: None) -> Path:
    """The image in `directory`, made there when it is missing or when the tiny guest, which is made first if need be,
    or this program changed. It takes seconds; one process makes it, others wait.

    Raises Failure INTERNAL_ERROR.
    """
    guest = tiny_guest(directory, progress=progress)
    image, stamp = directory / "system-vm.qcow2", directory / "system-vm.json"
    try:
        inputs = {"guest": (directory / "tiny-guest.json").read_text(), "recipe": _recipe()}
        if not _fresh(image, stamp, inputs):
            with alone(directory / "system-vm.lock"):
                if not _fresh(image, stamp, inputs):
                    progress("making the system VM's disk")
                    stamp.unlink(missing_ok=True)
                    _make(guest, image)
                    write_whole(stamp, json.dumps(inputs).encode())
    except (OSError, CommandFailed) as error:
        raise Failure("INTERNAL_ERROR", f"the system VM's image cannot be made: {error}") from error
    return image


def _fresh(image: Path, stamp: Path, inputs: dict[str, str]) -> bool:
    try:
        return bool(json.loads(stamp.read_text()) == inputs) and image.is_file()
    except (OSError, ValueError):
        return False


def _recipe() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _make(guest: TinyGuest, image: Path) -> None:
    for left in image.parent.glob(f"{_WORK}*"):  # by one that was killed: who makes it is alone
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=image.parent) as directory:
        work = Path(directory)
        content, disk, made = work / "content", work / "disk", work / "made"
        (content / "grub").mkdir(parents=True)
        shutil.copy(guest.kernel, content / "vmlinuz")
        shutil.copy(guest.ramdisk, content / "initrd")
        (content / "grub/grub.cfg").write_text(_CONFIGURATION)
        with disk.open("wb") as file:
            file.truncate(SIZE)
        _file_system(content, disk)
        with disk.open("r+b") as file:
            file.write(_first_sectors(work))
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(made)])
        with made.open("rb+") as file:  # the stamp must not come through a power cut without it
            os.fsync(file.fileno())
        made.rename(image)


def _file_system(content: Path, disk: Path) -> None:
    kilobytes = (SIZE - _START) >> 10
    argv = ["mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-m", "0", "-E", f"offset={_START},root_owner=0:0"]
    run([*argv, "-d", str(content), str(disk), f"{kilobytes}k"])


def _first_sectors(work: Path) -> bytes:
    """GRUB's boot sector with the partition table in it, and GRUB itself in the gap before the partition."""
    core = work / "core.img"
    maker = shutil.which("grub-mkimage") or shutil.which("grub2-mkimage") or "grub-mkimage"
    argv = [maker, "-O", "i386-pc", "-d", str(_GRUB), "-o", str(core), "-p", "(hd0,msdos1)/grub"]
    run([*argv, *_GRUB_MODULES])
    grub = core.read_bytes()
    if len(grub) > _START - _SECTOR:
        raise OSError(f"GRUB's {len(grub)} bytes do not fit before the partition")
    boot = (_GRUB / "boot.img").read_bytes()[:_BOOT_CODE]
    # The old addresses by cylinder say that there is nothing to say.
    beyond = b"\xfe\xff\xff"
    entry = b"\x80" + beyond + bytes([_LINUX]) + beyond
    entry += struct.pack("<II", _START // _SECTOR, (SIZE - _START) // _SECTOR)
    table = bytes(_BOOT_CODE + 6 - len(boot)) + entry + bytes(48) + b"\x55\xaa"
    return boot + table + grub
