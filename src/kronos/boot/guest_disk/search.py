"""Which boot loader's configuration a disk has, and what it would boot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kronos.boot.guest_disk import bls, grub2, grub_legacy, newest, syslinux
from kronos.boot.guest_disk.disk import Device, Disk
from kronos.boot.guest_disk.menu import Entry, Menu, environment, located
from kronos.boot.guest_disk.unreadable import BootUnreadable, JailEnded

_MOST_BLS_FILES = 64
# GRUB legacy first, as pygrub had it: a guest that has both keeps menu.lst for the sake of Xen.
_CONFIGURATIONS = (
    ("legacy", ("boot/grub/menu.lst", "boot/grub/grub.conf", "grub/menu.lst", "grub/grub.conf")),
    ("grub2", ("boot/grub/grub.cfg", "boot/grub2/grub.cfg", "grub/grub.cfg", "grub2/grub.cfg")),
    ("bls", ("loader/entries", "boot/loader/entries")),
    (
        "syslinux",
        ("boot/extlinux/extlinux.conf", "boot/extlinux.conf", "extlinux/extlinux.conf", "extlinux.conf"),
    ),
    ("syslinux", ("boot/syslinux/syslinux.cfg", "syslinux/syslinux.cfg", "boot/syslinux/extlinux.conf")),
    ("syslinux", ("isolinux/isolinux.cfg", "boot/isolinux/isolinux.cfg", "isolinux.cfg", "syslinux.cfg")),
)


@dataclass(frozen=True)
class Found:
    """A configuration that was understood, and where it was."""

    device: Device
    prefix: str
    path: str
    menu: Menu


class Search:
    """One look at one disk."""

    def __init__(self, disk: Disk, devices: list[Device]) -> None:
        self.disk = disk
        self.devices = devices
        self.problems: list[str] = []

    def configurations(self) -> Iterator[Found]:
        """Those that offer anything, the most telling first. What cannot be understood is left to `problems`."""
        places = [
            (device, prefix) for device in self.devices for prefix in newest.prefixes(self.disk, device.name)
        ]
        for kind, paths in _CONFIGURATIONS:
            for device, prefix in places:
                for path in paths:
                    if self._is_there(device.name, f"{prefix}/{path}"):
                        yield from self._understood(kind, device, prefix, f"{prefix}/{path}")
        for device in self.devices:  # an EFI partition's own, which mostly leads to the one above
            for path in self._efi_paths(device.name):
                yield from self._understood("grub2", device, "", path)

    def _understood(self, kind: str, device: Device, prefix: str, path: str) -> Iterator[Found]:
        try:
            menu = self._menu(kind, device.name, path)
        except JailEnded:
            raise
        except BootUnreadable as problem:
            self.problems.append(f"({device.name}){path}: {problem}")
            return
        if menu.entries:
            yield Found(device, prefix, path, menu)
        else:
            self.problems.append(f"({device.name}){path} offers no Linux kernel")

    def newest(self) -> Iterator[Found]:
        """Kernels that no configuration names."""
        for device in self.devices:
            for prefix in newest.prefixes(self.disk, device.name):
                entry = newest.newest(self.disk, device, prefix, self.devices)
                if entry is not None:
                    yield Found(device, prefix, "", Menu([entry], entry))

    def places(self, found: Found, entry: Entry, path: str) -> list[tuple[str, str]]:
        """Where a file that an entry names may be, the likeliest first. Raises BootUnreadable."""
        named, inside = located(path)
        wanted = self.translated(named or entry.device)
        devices = list(dict.fromkeys([wanted, found.device.name, *(device.name for device in self.devices)]))
        paths = list(dict.fromkeys([inside, found.prefix + inside, f"{found.prefix}/boot{inside}"]))
        return [(device, path) for device in devices if device for path in paths]

    def translated(self, name: str) -> str:
        """A boot loader's name for a device (`hd0,msdos1`, `hd0,0`) as ours; nothing if it is not on this disk."""
        names = [device.name for device in self.devices]
        if name in names:
            return name
        match = re.fullmatch(r"(?:hd|xen/xvda|loop)[0-9]*(?P<rest>(?:,[a-z]*[0-9]+)*)", name[:64])
        if not match:
            return ""
        if f"loop0{match['rest']}" in names:
            return f"loop0{match['rest']}"
        number = re.fullmatch(r",([0-9]{1,3})", match["rest"])
        if not number:
            return ""
        # GRUB legacy counts from 0; GRUB 2 without a table's name from 1, but always says the table's name in files
        ending = re.compile(rf",[a-z]+{int(number[1]) + 1}$")
        return next((candidate for candidate in names if ending.search(candidate)), "")

    def _is_there(self, device: str, path: str) -> bool:
        """By listings alone, which are kept, and only of directories that are there themselves."""
        directory, _, name = path.rpartition("/")
        if directory and not self._is_there(device, directory):
            return False
        names = self.disk.names(device, directory)
        return name in names or f"{name}/" in names

    def _efi_paths(self, device: str) -> list[str]:
        top = next((name for name in self.disk.names(device, "") if name.lower() == "efi/"), "")
        vendors = (
            [name for name in self.disk.names(device, f"/{top[:-1]}") if name.endswith("/")] if top else []
        )
        paths = [f"/{top}{vendor}grub.cfg" for vendor in vendors[:16]]
        return [path for path in paths if self._is_there(device, path)]

    def _menu(self, kind: str, device: str, path: str) -> Menu:
        directory = path.rpartition("/")[0]
        if kind == "bls":
            return self._bls(device, directory)
        untrusted_text = self.disk.text(device, path)
        if untrusted_text is None:
            raise BootUnreadable("cannot be read, or is too large")
        if kind == "legacy":
            return grub_legacy.parse(untrusted_text, lambda name: self.read(name, device), directory)
        if kind == "syslinux":
            return syslinux.parse(untrusted_text, lambda name: self.read(name, device), directory)
        return grub2.parse(untrusted_text, self, device, directory)

    def _bls(self, device: str, directory: str) -> Menu:
        """Entries that no grub.cfg brought: systemd-boot's, or a configuration that is not readable."""
        settings = self.disk.text(device, f"{directory}/loader.conf") or ""
        base = directory.removesuffix("/loader")
        variables: dict[str, str] = {}
        for path in (f"{base}/grub2/grubenv", f"{base}/grub/grubenv"):
            if self._is_there(device, path):
                variables |= environment(self.disk.text(device, path) or "")
        files = self.entries(device, f"{directory}/entries")
        return bls.parse(files, variables, untrusted_settings=settings, by_name=bool(variables))

    # what a grub.cfg asks for: grub2.Surroundings

    def read(self, name: str, device: str = "") -> str | None:
        """The text of `(device)/path`, or of a path on the device given."""
        try:
            named, path = located(name)
        except BootUnreadable:
            return None
        place = self.translated(named or device)
        if not place or not self._is_there(place, path):
            return None
        return self.disk.text(place, path)

    def find(self, kind: str, value: str) -> str | None:
        """The device with that uuid, label or file."""
        for device in self.devices:
            if kind == "file":
                try:
                    matches = self._is_there(device.name, located(value)[1])
                except BootUnreadable:
                    return None
            else:
                own = device.uuid if kind == "uuid" else device.label
                matches = bool(own) and own.lower() == value.lower()
            if matches:
                return device.name
        return None

    def entries(self, device: str, directory: str = "") -> dict[str, str]:
        """The Boot Loader Specification's files on the device."""
        device = self.translated(device)
        for place in [directory] if directory else ["/loader/entries", "/boot/loader/entries"]:
            if not device or not self._is_there(device, place):
                continue
            names = [name for name in self.disk.names(device, place) if name.endswith(".conf")][
                :_MOST_BLS_FILES
            ]
            texts = {name: self.disk.text(device, f"{place}/{name}") for name in names}
            return {name: text for name, text in texts.items() if text is not None}
        return {}
