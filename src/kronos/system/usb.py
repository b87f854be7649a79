"""The host's USB devices as its kernel shows them."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DEVICES = Path("/sys/bus/usb/devices")

_PORT = re.compile(r"[0-9]+-[0-9]+(\.[0-9]+)*")
_HUB = "09"


@dataclass(frozen=True, slots=True)
class Device:
    """A device by the port that it is in; `speed` in Mbit/s."""

    path: str
    vendor: str
    product: str
    vendor_name: str
    product_name: str
    serial: str
    version: str
    speed: float


def devices(place: Path = DEVICES) -> list[Device]:
    """Every device but hubs, in the order of ports; none on a host without USB."""
    found = []
    with suppress(FileNotFoundError):
        for path in sorted(place.iterdir()):
            if _PORT.fullmatch(path.name) and _text(path / "bDeviceClass") not in ("", _HUB):
                found.append(_read(path))
    return found


def place(path: str, devices: Path = DEVICES) -> tuple[int, int] | None:
    """The bus of the device in a port, and its number on that now; None where there is none."""
    try:
        return int(_text(devices / path / "busnum")), int(_text(devices / path / "devnum"))
    except ValueError:
        return None


def _read(path: Path) -> Device:
    try:
        speed = float(_text(path / "speed"))
    except ValueError:
        speed = -1.0
    return Device(
        path=path.name,
        vendor=_text(path / "idVendor"),
        product=_text(path / "idProduct"),
        vendor_name=_text(path / "manufacturer"),
        product_name=_text(path / "product"),
        serial=_text(path / "serial"),
        version=_text(path / "version"),
        speed=speed,
    )


def _text(path: Path) -> str:
    """What a file of sysfs says; "" where there is none, or where the device has just been pulled."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
