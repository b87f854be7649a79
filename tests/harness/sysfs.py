"""A host's devices, as its kernel shows them."""

from __future__ import annotations

from pathlib import Path

NAMES = """# a list
10de  NVIDIA Corporation
\t1eb8  TU104GL [Tesla T4]
\t\t10de 12a2  Tesla T4 board
8086  Intel Corporation
\t1533  I210 Gigabit
ffff  Nobody
C 02  Network controller
\t00  Ethernet controller
C 03  Display controller
\t00  VGA compatible controller
\t02  3D controller
"""


class Sysfs:
    """A tree as the kernel shows it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "bus/pci/devices").mkdir(parents=True)
        (root / "bus/usb/devices").mkdir(parents=True)

    def pci(self, address: str, cls: str, vendor: str, device: str, driver: str = "", **more: str) -> None:
        path = self.root / "bus/pci/devices" / address
        path.mkdir(exist_ok=True)
        words = {"class": f"0x{cls}00", "vendor": f"0x{vendor}", "device": f"0x{device}"} | more
        for name, text in words.items():
            (path / name).write_text(f"{text}\n")
        (path / "driver").unlink(missing_ok=True)
        if driver:
            (self.root / "drivers" / driver).mkdir(parents=True, exist_ok=True)
            (path / "driver").symlink_to(self.root / "drivers" / driver)

    def usb(self, path: str, cls: str = "00", serial: str = "4C53") -> None:
        place = self.root / "bus/usb/devices" / path
        place.mkdir()
        words = {"bDeviceClass": cls, "idVendor": "0781", "idProduct": "5591", "manufacturer": "SanDisk"}
        for name, text in (
            words | {"product": "Ultra", "serial": serial, "version": " 3.20", "speed": "5000"}
        ).items():
            (place / name).write_text(f"{text}\n")


def graphics(sysfs: Sysfs, driver: str = "nvidia", address: str = "0000:01:00.0") -> None:
    sysfs.pci(address, "0302", "10de", "1eb8", driver, subsystem_vendor="0x10de", subsystem_device="0x12a2")
