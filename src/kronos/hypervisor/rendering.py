"""A Domain as libvirt's XML: all that Xen and KVM have in common, with a method for each thing they do
not."""

from __future__ import annotations

import re
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, register_namespace, tostring

from kronos.datamodel.errors import Failure
from kronos.hypervisor import vhd
from kronos.hypervisor.base import DeviceId, DirectKernel, Disk, Domain, Firmware, Interface
from kronos.hypervisor.happenings import alias
from kronos.hypervisor.hardware import HostUSB

NAMESPACE = "urn:kronos:vm:1"
_UNPRINTABLE = re.compile(r"[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEYMAP = re.compile(r"[a-z]{2}(-[a-z]{2,6})?")
DEFAULT_WEIGHT = 256  # XenAPI's VCPUs_params:weight where none is given

register_namespace("kronos", NAMESPACE)


@dataclass(frozen=True)
class Places:
    """Where the sockets and logs of VMs lie: a directory for each, named by uuid."""

    root: Path

    def of(self, uuid: str) -> Path:
        """The VM's directory. Raises UUID_INVALID for what would lead elsewhere."""
        if not _UUID.fullmatch(uuid):
            raise Failure("UUID_INVALID", "VM", uuid)
        return self.root / uuid

    def vnc(self, uuid: str) -> Path:
        return self.of(uuid) / "vnc"

    def serial(self, uuid: str) -> Path:
        return self.of(uuid) / "serial"

    def serial_log(self, uuid: str) -> Path:
        return self.of(uuid) / "serial.log"

    def channel(self, uuid: str, name: str) -> Path:
        # The last word of the name: the whole would be too long for a socket where the root is deep.
        return self.of(uuid) / name.rpartition(".")[2]

    def agent(self, uuid: str) -> Path:
        return self.of(uuid) / "agent"


def printable(text: str) -> str:
    """Text as an XML document can hold it, on one line."""
    return _UNPRINTABLE.sub(" ", text)


def letters(number: int) -> str:
    """0 is a, 25 is z, 26 is aa: how Linux and Xen name the disk with this number."""
    name = ""
    number += 1
    while number > 0:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("a") + rest) + name
    return name


def add(
    parent: Element, tag: str, text: str | int | None = None, /, **attributes: str | int | Path
) -> Element:
    """Append an element; attribute values are turned into text, and text made fit for XML."""
    attribute_text = {name: printable(str(value)) for name, value in attributes.items()}
    element = SubElement(parent, tag, attribute_text)
    if text is not None:
        element.text = printable(str(text))
    return element


class Renderer(ABC):
    """Renders for one hypervisor; `domain_type` is libvirt's name for it."""

    domain_type: str

    def __init__(self, places: Places) -> None:
        self.places = places

    def domain(self, domain: Domain) -> str:
        """The document that starts `domain`."""
        root = Element("domain", type=self.domain_type)
        # The uuid, because names need not be unique in XenAPI, and a running VM can be renamed.
        add(root, "name", domain.uuid)
        add(root, "uuid", domain.uuid)
        if domain.name.strip():
            add(root, "title", domain.name)
        vm = SubElement(SubElement(root, "metadata"), f"{{{NAMESPACE}}}vm")
        SubElement(vm, f"{{{NAMESPACE}}}name").text = printable(domain.name)
        add(root, "memory", domain.memory_static_max, unit="b")
        add(root, "currentMemory", min(domain.memory_target, domain.memory_static_max), unit="b")
        self.cpus(root, domain)
        self.boot(root, domain)
        self.features(root, domain)
        self.clock(root, domain)
        add(root, "on_poweroff", domain.on_poweroff)
        add(root, "on_reboot", domain.on_reboot)
        add(root, "on_crash", domain.on_crash)
        devices = SubElement(root, "devices")
        order = boot_order(domain)
        for disk in domain.disks:
            devices.append(self.disk(disk, order.get(DeviceId("disk", disk.device))))
        for interface in domain.interfaces:
            place = order.get(DeviceId("interface", interface.device))
            devices.append(self.interface(interface, place))
        devices.extend(host_usb(usb) for usb in domain.usb)
        devices.extend(host_pci(address) for address in domain.pci)
        self.consoles(devices, domain)
        self.devices(devices, domain)
        return tostring(root, encoding="unicode")

    def disk_document(self, disk: Disk) -> str:
        """The document that plugs one disk, or changes its medium."""
        return tostring(self.disk(disk, None), encoding="unicode")

    def interface_document(self, interface: Interface) -> str:
        """The document that plugs one interface."""
        return tostring(self.interface(interface, None), encoding="unicode")

    @abstractmethod
    def bus(self, disk: Disk) -> str:
        """The bus of a disk."""

    @abstractmethod
    def model(self, interface: Interface) -> str:
        """The model of an interface."""

    @abstractmethod
    def target(self, disk: Disk) -> str:
        """The device name of a disk, unique in its VM."""

    @abstractmethod
    def features(self, root: Element, domain: Domain) -> None:
        """Append the CPU and the platform features."""

    @abstractmethod
    def devices(self, devices: Element, domain: Domain) -> None:
        """Append what this hypervisor needs beside disks, interfaces and consoles."""

    @abstractmethod
    def os_type(self, os: Element, domain: Domain) -> None:
        """Append to <os> what names the machine."""

    def disk_driver(self, element: Element, disk: Disk, block: bool) -> None:
        """Append the <driver> of a disk that has a medium."""
        add(element, "driver", name="qemu", type=disk.format)

    def cpus(self, root: Element, domain: Domain) -> None:
        attributes = {"placement": "static"}
        if domain.vcpus < domain.vcpus_max:
            attributes["current"] = str(domain.vcpus)
        if domain.mask:
            attributes["cpuset"] = ",".join(str(number) for number in domain.mask)
        add(root, "vcpu", domain.vcpus_max, **attributes)
        weighted = domain.weight not in (None, 0, DEFAULT_WEIGHT)
        if not (weighted or domain.cap):
            return
        tuning = SubElement(root, "cputune")
        if weighted and domain.weight is not None:
            # Both scales say "this much more than the usual": Xen's usual is 256, the kernel's 1024.
            add(tuning, "shares", max(2, domain.weight * 1024 // DEFAULT_WEIGHT))
        if domain.cap:
            # VCPUs_params:cap is percent of one physical CPU for the whole VM.
            add(tuning, "global_period", 100_000)
            add(tuning, "global_quota", max(1_000, domain.cap * 1_000))

    def boot(self, root: Element, domain: Domain) -> None:
        os = SubElement(root, "os")
        if isinstance(domain.boot, Firmware) and domain.boot.type == "uefi":
            os.set("firmware", "efi")
        self.os_type(os, domain)
        if isinstance(domain.boot, DirectKernel):
            add(os, "kernel", str(domain.boot.kernel))
            if domain.boot.ramdisk is not None:
                add(os, "initrd", str(domain.boot.ramdisk))
            if domain.boot.cmdline:
                add(os, "cmdline", domain.boot.cmdline)
        elif domain.boot.type == "uefi":
            secure = "yes" if domain.boot.secure_boot else "no"
            firmware = SubElement(os, "firmware")
            add(firmware, "feature", enabled=secure, name="secure-boot")
            add(firmware, "feature", enabled=secure, name="enrolled-keys")
            if domain.boot.nvram is not None:
                add(os, "nvram", str(domain.boot.nvram))

    def clock(self, root: Element, domain: Domain) -> None:
        add(root, "clock", offset="variable", adjustment=domain.clock_offset, basis="utc")

    def disk(self, disk: Disk, order: int | None) -> Element:
        block = disk.path is not None and _is_block(disk.path)
        element = Element("disk", type="block" if block else "file", device="cdrom" if disk.cdrom else "disk")
        if disk.path is not None:
            if disk.format == "vhd":
                vhd.check(disk.path)
            self.disk_driver(element, disk, block)
            add(element, "source", **{"dev" if block else "file": disk.path})
        add(element, "target", dev=self.target(disk), bus=self.bus(disk))
        if any((disk.limits.bytes_per_second, disk.limits.requests_per_second)):
            tuning = SubElement(element, "iotune")
            add(tuning, "total_bytes_sec", disk.limits.bytes_per_second)
            add(tuning, "total_iops_sec", disk.limits.requests_per_second)
        if disk.read_only or disk.cdrom:
            SubElement(element, "readonly")
        if disk.shared:
            SubElement(element, "shareable")
        if disk.serial:
            add(element, "serial", disk.serial)
        if order is not None:
            add(element, "boot", order=order)
        add(element, "alias", name=alias(DeviceId("disk", disk.device)))
        return element

    def interface(self, interface: Interface, order: int | None) -> Element:
        element = Element("interface", type="ethernet" if interface.bridge is None else "bridge")
        add(element, "mac", address=interface.mac)
        if interface.bridge is not None:
            add(element, "source", bridge=interface.bridge)
            if interface.tap is not None:
                add(element, "target", dev=interface.tap)
        elif interface.tap is not None:
            add(element, "target", dev=interface.tap, managed="no")
        else:
            raise ValueError(f"interface {interface.device} has neither a tap nor a bridge")
        add(element, "model", type=self.model(interface))
        if interface.mtu != 1500:
            add(element, "mtu", size=interface.mtu)
        if not interface.carrier:
            add(element, "link", state="down")
        if order is not None:
            add(element, "boot", order=order)
        add(element, "alias", name=alias(DeviceId("interface", interface.device)))
        return element

    def consoles(self, devices: Element, domain: Domain) -> None:
        if domain.platform.serial:
            serial = SubElement(devices, "serial", type="unix")
            add(serial, "source", mode="bind", path=self.places.serial(domain.uuid))
            # What the guest prints before anyone attaches, kept by virtlogd, which also bounds it.
            add(serial, "log", file=self.places.serial_log(domain.uuid), append="off")
            add(serial, "target", port=0)
        if domain.platform.vnc:
            # QEMU looks for a file of this name, so it must be nothing but a name.
            if not _KEYMAP.fullmatch(domain.platform.keymap):
                raise Failure("INVALID_VALUE", "platform:keymap", domain.platform.keymap)
            graphics = SubElement(devices, "graphics", type="vnc", keymap=domain.platform.keymap)
            add(graphics, "listen", type="socket", socket=self.places.vnc(domain.uuid))
        for channel in domain.channels:
            element = SubElement(devices, "channel", type="unix")
            path = channel.path or self.places.channel(domain.uuid, channel.name)
            add(element, "source", mode="bind", path=path)
            add(element, "target", type="virtio", name=channel.name)


def host_usb(usb: HostUSB) -> Element:
    """A USB device of the host, which must be there when the VM starts."""
    element = Element("hostdev", mode="subsystem", type="usb", managed="yes")
    source = add(element, "source", startupPolicy="mandatory")
    add(source, "address", bus=usb.bus, device=usb.place)
    add(element, "alias", name=alias(DeviceId("usb", usb.number)))
    return element


def host_pci(address: str) -> Element:
    """A PCI device of the host, as in 0000:01:00.0."""
    domain, bus, slot, function = re.split("[:.]", address)
    element = Element("hostdev", mode="subsystem", type="pci", managed="yes")
    place = {"domain": domain, "bus": bus, "slot": slot, "function": function}
    add(SubElement(element, "source"), "address", **{name: f"0x{number}" for name, number in place.items()})
    return element


def boot_order(domain: Domain) -> dict[DeviceId, int]:
    """Which devices the firmware tries, from 1 on: those of the first letter of the order first, and among
    the hard disks those marked bootable, then by number."""
    if isinstance(domain.boot, DirectKernel):
        return {}
    ranked = sorted(domain.disks, key=lambda disk: (not disk.bootable, disk.device))
    groups = {
        "c": [DeviceId("disk", disk.device) for disk in ranked if not disk.cdrom],
        "d": [DeviceId("disk", disk.device) for disk in ranked if disk.cdrom],
        "n": [
            DeviceId("interface", one.device) for one in sorted(domain.interfaces, key=lambda one: one.device)
        ],
    }
    devices = [
        device for letter in dict.fromkeys(domain.boot.order.lower()) for device in groups.get(letter, [])
    ]
    return {device: place for place, device in enumerate(devices, start=1)}


def _is_block(path: Path) -> bool:
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False
