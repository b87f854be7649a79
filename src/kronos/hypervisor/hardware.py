"""What a VM has besides disks and interfaces: the machine itself, and devices of the host that are its alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Platform:
    """The virtual hardware, as VM.platform names it; `videoram` in MiB, `vga` 'none' for a machine without
    screen."""

    acpi: bool = True
    apic: bool = True
    pae: bool = True
    nx: bool = True
    viridian: bool = False
    hpet: bool = False
    nested: bool = False
    vga: Literal["std", "cirrus", "virtio", "none"] = "std"
    videoram: int = 8
    usb: bool = True
    usb_tablet: bool = True
    vnc: bool = True
    serial: bool = True
    agent: bool = True
    panic: bool = True
    hotplug: bool = True
    machine: Literal["q35", "pc"] = "q35"
    keymap: str = "en-us"


@dataclass(frozen=True)
class HostUSB:
    """A USB device of the host by the bus and the place on it that it has now; `number` is the caller's name for it."""

    number: int
    bus: int
    place: int


@dataclass(frozen=True)
class Kept:
    """What a VM's firmware keeps over runs: the file of UEFI's variables, and its TPM's; None for none yet."""

    variables: bytes | None = None
    tpm: bytes | None = None
