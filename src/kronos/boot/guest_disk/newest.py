"""A guest without a readable boot loader: the newest kernel that is there, and what its root file system may be."""

from __future__ import annotations

import re

from kronos.boot.guest_disk.disk import Device, Disk
from kronos.boot.guest_disk.menu import Entry, version_key

_KERNEL = re.compile(r"^(?:vmlinuz|vmlinux|bzImage|kernel)(?:-(?P<version>[^/]{1,200}))?$")
_PLAIN_RAMDISKS = ("initrd.img", "initrd", "initrd.gz", "initramfs.img", "initramfs", "initramfs-linux.img")
_SPECIFICATION = re.compile(r"(?:UUID|LABEL|PARTUUID|PARTLABEL)=[^\s\"',]{1,64}|/dev/[A-Za-z0-9/_.-]{1,64}")
_OPTION = re.compile(r"subvol=[A-Za-z0-9/@._-]{1,128}")


def newest(disk: Disk, device: Device, prefix: str, devices: list[Device]) -> Entry | None:
    """The newest kernel in /boot or the root of the file system; None if there is none."""
    for directory in (f"{prefix}/boot", prefix):
        names = disk.names(device.name, directory)
        kernels = [name for name in names if _KERNEL.match(name) and "rescue" not in name]
        if not kernels:
            continue
        kernel = max(kernels, key=_newness)
        ramdisk = _ramdisk(kernel, names)
        return Entry(
            title=f"the newest kernel, {kernel}",
            identity="",
            kernel=f"{directory}/{kernel}",
            ramdisks=(f"{directory}/{ramdisk}",) if ramdisk else (),
            arguments=_root(disk, device, devices, bool(ramdisk)),
            device=device.name,
        )
    return None


def _newness(name: str) -> tuple[bool, list[tuple[int, int, str]]]:
    match = _KERNEL.match(name)
    version = (match["version"] or "") if match else ""
    return bool(version), version_key(version)


def _ramdisk(kernel: str, names: list[str]) -> str:
    match = _KERNEL.match(kernel)
    version = match["version"] if match else None
    if not version:
        return next((name for name in _PLAIN_RAMDISKS if name in names), "")
    wanted = [
        f"initrd.img-{version}",
        f"initramfs-{version}.img",
        f"initrd-{version}",
        f"initrd-{version}.img",
    ]
    wanted += [f"initramfs-{version}", f"initrd-{version}.gz", f"initramfs-genkernel-x86_64-{version}"]
    return next((name for name in wanted if name in names), "")


def _root(disk: Disk, boot: Device, devices: list[Device], with_ramdisk: bool) -> str:
    """`root=` as the guest's own fstab has it, else the file system that holds /etc, else the kernel's own."""
    home = boot
    for device in [boot, *(other for other in devices if other != boot)]:
        for prefix in prefixes(disk, device.name):
            if "etc/" in disk.names(device.name, prefix):
                found = _fstab_root(disk.text(device.name, f"{prefix}/etc/fstab") or "")
                if found:
                    return found
                home = device
    if with_ramdisk and home.uuid:
        return f"root=UUID={home.uuid} ro"
    if home.name.startswith("lvm/"):
        return f"root=/dev/mapper/{home.name[4:]} ro"
    number = re.search(r"[0-9]+$", home.name.partition(",")[2])
    return f"root=/dev/xvda{number[0] if number else ''} ro"  # the first disk's name under Xen


def _fstab_root(untrusted_text: str) -> str:
    for untrusted_line in untrusted_text.split("\n")[:1000]:
        fields = untrusted_line.split()
        if len(fields) >= 3 and fields[1] == "/" and not fields[0].startswith("#"):
            specification = fields[0].replace('"', "")
            if _SPECIFICATION.fullmatch(specification):
                subvolume = _OPTION.search(fields[3]) if fields[2] == "btrfs" and len(fields) > 3 else None
                return f"root={specification} ro" + (f" rootflags={subvolume[0]}" if subvolume else "")
    return ""


def prefixes(disk: Disk, device: str) -> list[str]:
    """Where a root file system may begin: btrfs shows its subvolumes as directories of the top one."""
    top = disk.names(device, "")
    found = ["", *(f"/{name}" for name in ("@", "@rootfs", "root") if f"{name}/" in top)]
    if "@/" in top and ".snapshots/" in disk.names(device, "/@"):
        numbers = [
            name[:-1] for name in disk.names(device, "/@/.snapshots") if re.fullmatch(r"[0-9]{1,9}/", name)
        ]
        newest_first = sorted(numbers, key=int, reverse=True)[:4]
        found += [f"/@/.snapshots/{number}/snapshot" for number in newest_first]
    return found
