"""The host's PCI devices as its kernel shows them, and their names where the host has a list of those."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")
NAMES = (Path("/usr/share/misc/pci.ids"), Path("/usr/share/hwdata/pci.ids"))
USB_NAMES = (Path("/usr/share/misc/usb.ids"), Path("/usr/share/hwdata/usb.ids"))
FOR_GUESTS = ("vfio-pci", "pciback", "xen-pciback")
"""Drivers that keep a device for a guest."""

_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass(frozen=True, slots=True)
class Device:
    """One function of a device; numbers in lower-case hexadecimal, as sysfs has them without `0x`."""

    address: str
    cls: str
    """Base class and subclass, four digits."""
    vendor: str
    device: str
    subsystem_vendor: str
    subsystem_device: str
    driver: str
    boots_screen: bool

    @property
    def slot(self) -> str:
        """The address without the function."""
        return self.address.rpartition(".")[0]

    @property
    def is_display(self) -> bool:
        return self.cls.startswith("03")

    @property
    def is_for_guests(self) -> bool:
        """Whether the host's own kernel keeps its hands off it now."""
        return self.driver in FOR_GUESTS


def devices(place: Path = DEVICES) -> list[Device]:
    """Every device, in the order of addresses; none on a host without PCI."""
    found = []
    with suppress(FileNotFoundError):
        for path in sorted(place.iterdir()):
            if _ADDRESS.fullmatch(path.name):
                found.append(_read(path))
    return found


def _read(path: Path) -> Device:
    driver = path / "driver"
    return Device(
        address=path.name,
        cls=_text(path / "class").removeprefix("0x")[:4],
        vendor=_text(path / "vendor").removeprefix("0x"),
        device=_text(path / "device").removeprefix("0x"),
        subsystem_vendor=_text(path / "subsystem_vendor").removeprefix("0x"),
        subsystem_device=_text(path / "subsystem_device").removeprefix("0x"),
        driver=driver.resolve().name if driver.exists() else "",
        boots_screen=_text(path / "boot_vga") == "1",
    )


def _text(path: Path) -> str:
    """What a file of sysfs says; "" where there is none, or where the device has just gone."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


class Names:
    """Names of vendors, devices and classes, by number; the file is read once, for the vendors that are asked for."""

    def __init__(self, vendors: Iterable[str], files: Iterable[Path] = NAMES) -> None:
        self._names: dict[tuple[str, ...], str] = {}
        path = next((path for path in files if path.exists()), None)
        if path is not None:
            self._load(path, set(vendors))

    def vendor(self, vendor: str) -> str:
        return self._names.get((vendor,), "")

    def device(self, vendor: str, device: str) -> str:
        return self._names.get((vendor, device), "")

    def subsystem(self, vendor: str, device: str, subvendor: str, subdevice: str) -> str:
        return self._names.get((vendor, device, subvendor, subdevice), "")

    def cls(self, number: str) -> str:
        """The name of a class of devices: its subclass's, or the base class's."""
        return self._names.get(("C", number[:2], number[2:])) or self._names.get(("C", number[:2]), "")

    def _load(self, path: Path, vendors: set[str]) -> None:
        above: tuple[str, ...] = ()
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip() or line.startswith("#"):
                    continue
                depth = len(line) - len(line.lstrip("\t"))
                number, _, name = line.strip().partition("  ")
                key = tuple(number.split())
                if depth == 0:
                    above = key if key[0] == "C" or key[0] in vendors else ()
                    if above:
                        self._names[above] = name
                elif above:
                    above = (*above[: self._width(above[0], depth)], *key)
                    self._names[above] = name

    @staticmethod
    def _width(first: str, depth: int) -> int:
        """How much of the line above belongs to one of this depth: classes are named by `C` and a number."""
        return depth + 1 if first == "C" else depth
