"""KVM, and QEMU's emulated CPUs: only what differs from Xen."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import libvirt
import libvirt_qemu

from kronos.datamodel.errors import Failure
from kronos.hypervisor import image
from kronos.hypervisor.base import Disk, Domain, Event, EventKind, Firmware, Interface, Reason
from kronos.hypervisor.firmware_files import FirmwareFiles
from kronos.hypervisor.hardware import Kept
from kronos.hypervisor.libvirt import LibvirtHypervisor
from kronos.hypervisor.refusals import refusing
from kronos.hypervisor.rendering import Places, Renderer, add, letters
from kronos.system.libvirtd import estate

AGENT = "org.qemu.guest_agent.0"
SPARE_SLOTS = 16  # a PCIe device can only be plugged into a root port that was there at the start
_FIXED_PCI_DEVICES = (
    6  # video is on the root bus; USB, serial channels, SATA, balloon, RNG and one to spare are not
)

_MODELS = (
    "virtio",
    "e1000",
    "e1000e",
    "rtl8139",
    "ne2k_pci",
    "pcnet",
    "i82551",
    "i82557b",
    "i82559er",
    "vmxnet3",
)
_HYPERV: Sequence[str] = ("relaxed", "vapic", "vpindex", "runtime", "synic", "stimer", "frequencies", "reset")


class KVMRenderer(Renderer):
    """A q35 machine with virtio devices; `accelerated` False for emulated CPUs."""

    def __init__(self, places: Places, *, accelerated: bool) -> None:
        super().__init__(places)
        self.accelerated = accelerated
        self.domain_type = "kvm" if accelerated else "qemu"

    def os_type(self, os: Element, domain: Domain) -> None:
        add(os, "type", "hvm", arch="x86_64", machine=domain.platform.machine)

    def bus(self, disk: Disk) -> str:
        if disk.bus is not None:
            # q35 has no IDE; AHCI is what a guest with drivers for neither virtio nor SCSI has there.
            return "sata" if disk.bus == "ide" else disk.bus
        return "sata" if disk.cdrom else "virtio"

    def target(self, disk: Disk) -> str:
        return ("vd" if self.bus(disk) == "virtio" else "sd") + letters(disk.device)

    def model(self, interface: Interface) -> str:
        model = interface.model or "virtio"
        # libvirt hands on a name it does not know, and QEMU would make any device of that name.
        if model not in _MODELS:
            raise Failure("INVALID_VALUE", "platform:nic_type", model)
        return model

    def disk_driver(self, element: Element, disk: Disk, block: bool) -> None:
        # Past the host's cache where that can be: what the guest was told is written is written, and the
        # memory is used once. tmpfs cannot.
        direct = disk.path is not None and _takes_direct(os.fspath(disk.path))
        attributes = {"cache": "none" if direct else "writeback"}
        if block and direct:
            attributes["io"] = "native"
        if not (disk.read_only or disk.cdrom):
            attributes["discard"] = "unmap"
        # QEMU calls the format by the product that had it first.
        form = "vpc" if disk.format == "vhd" else disk.format
        add(element, "driver", name="qemu", type=form, **attributes)

    def features(self, root: Element, domain: Domain) -> None:
        platform = domain.platform
        features = SubElement(root, "features")
        for name in ("acpi", "apic", "pae"):
            if getattr(platform, name):
                SubElement(features, name)
        if platform.viridian and self.accelerated:
            hyperv = SubElement(features, "hyperv", mode="custom")
            for name in _HYPERV:
                add(hyperv, name, state="on")
            add(hyperv, "spinlocks", state="on", retries=8191)
        cpu = self._cpu(root)
        sockets, rest = divmod(domain.vcpus_max, domain.cores_per_socket)
        cores = domain.cores_per_socket
        if rest:
            sockets, cores = domain.vcpus_max, 1
        add(cpu, "topology", sockets=sockets, dies=1, cores=cores, threads=1)
        if not platform.nested:
            for name in ("vmx", "svm"):
                add(cpu, "feature", policy="disable", name=name)
        if not platform.nx:
            add(cpu, "feature", policy="disable", name="nx")

    def _cpu(self, root: Element) -> Element:
        if self.accelerated:
            return SubElement(root, "cpu", mode="host-passthrough", check="none", migratable="on")
        return SubElement(root, "cpu", mode="maximum", check="none")

    def clock(self, root: Element, domain: Domain) -> None:
        clock = add(root, "clock", offset="variable", adjustment=domain.clock_offset, basis="utc")
        if self.accelerated:
            add(clock, "timer", name="rtc", tickpolicy="catchup")
            add(clock, "timer", name="pit", tickpolicy="delay")
            if domain.platform.viridian:
                add(clock, "timer", name="hypervclock", present="yes")
        add(clock, "timer", name="hpet", present="yes" if domain.platform.hpet else "no")

    def devices(self, devices: Element, domain: Domain) -> None:
        platform = domain.platform
        if platform.hotplug and platform.machine == "q35":
            busy = _FIXED_PCI_DEVICES + len(domain.interfaces) + len(domain.pci)
            busy += sum(self.bus(disk) == "virtio" for disk in domain.disks)
            for number in range(1, busy + SPARE_SLOTS + 1):
                add(devices, "controller", type="pci", index=number, model="pcie-root-port")
        if platform.agent:
            channel = SubElement(devices, "channel", type="unix")
            # Without a path libvirt makes one of its own, and nobody else talks to the agent. A user's own libvirt
            # makes it 89 characters below the home, too long for a socket where that has more than 18.
            if os.geteuid() != 0:
                add(channel, "source", mode="bind", path=self.places.agent(domain.uuid))
            add(channel, "target", type="virtio", name=AGENT)
        if platform.usb or domain.usb:
            add(devices, "controller", type="usb", model="qemu-xhci", ports=15)
            if platform.usb and platform.usb_tablet and platform.vga != "none":
                add(devices, "input", type="tablet", bus="usb")
        else:
            add(devices, "controller", type="usb", model="none")
        video = SubElement(devices, "video")
        if platform.vga == "none":
            add(video, "model", type="none")
        else:
            kind = "vga" if platform.vga == "std" else platform.vga
            vram = {"vram": platform.videoram * 1024} if kind != "virtio" else {}
            add(video, "model", type=kind, **vram)
        if domain.tpm:
            tpm = add(devices, "tpm", model="tpm-crb")
            # libvirt would else forget the TPM of a transient domain as soon as that ends.
            add(tpm, "backend", type="emulator", version="2.0", persistent_state="yes")
        balloon = add(devices, "memballoon", model="virtio")
        add(balloon, "stats", period=5)
        rng = add(devices, "rng", model="virtio")
        add(rng, "backend", "/dev/urandom", model="random")
        if platform.panic:
            # The guest's kernel can say that it crashed; that is how CRASHED is known.
            add(devices, "panic", model="isa")


class _Emulator(LibvirtHypervisor):
    """VMs in QEMU's processes: what libvirt does not tell of them, and QEMU does."""

    def __init__(self, uri: str, run_directory: Path) -> None:
        self._rebooting: set[str] = set()
        self._files = FirmwareFiles(estate(uri))
        super().__init__(uri, run_directory)

    saves_beside = True

    def save_memory(self, uuid: str, path: Path) -> None:
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        with self._turns.of(uuid), refusing(uuid), self._apart() as handle:
            domain = handle.lookupByUUIDString(uuid)
            disks = list(image.targets(domain.XMLDesc()).values())
            domain.snapshotCreateXML(image.snapshot(disks, {}, memory=path), flags)

    def _opened(self, handle: libvirt.virConnect, again: bool) -> None:
        # Where a guest's reboot ends it, libvirt tells of a shutdown; only QEMU's own event says which it was.
        libvirt_qemu.qemuMonitorEventRegister(handle, None, "SHUTDOWN", self._ending, None)
        super()._opened(handle, again)

    def kept(self, uuid: str) -> Kept:
        try:
            return self._files.take(uuid)
        except OSError as error:
            raise Failure("INTERNAL_ERROR", f"What the firmware of {uuid} keeps: {error}") from error

    def forget(self, uuid: str) -> None:
        super().forget(uuid)
        self._files.forget(uuid)

    def _prepare(self, domain: Domain) -> Domain:
        domain = super()._prepare(domain)
        try:
            self._files.put(domain.uuid, domain.kept, self._owner)
        except OSError as error:
            raise Failure("INTERNAL_ERROR", f"What the firmware of {domain.uuid} keeps: {error}") from error
        if isinstance(domain.boot, Firmware) and domain.boot.type == "uefi" and domain.boot.nvram is None:
            return replace(domain, boot=replace(domain.boot, nvram=self._files.variables(domain.uuid)))
        return domain

    def _ending(
        self,
        _: Any,
        domain: libvirt.virDomain,
        name: str,
        seconds: int,
        micros: int,
        details: str,
        opaque: Any,
    ) -> None:
        """In libvirt's event thread, before it tells that the VM has stopped."""
        if is_reboot(details):
            with self._guard:
                self._rebooting.add(domain.UUIDString())

    def _happened(self, event: Event) -> None:
        if event.kind in (EventKind.HALTED, EventKind.STARTED):
            with self._guard:
                rebooting = event.uuid in self._rebooting
                self._rebooting.discard(event.uuid)
            if rebooting and event.reason is Reason.SHUTDOWN:
                event = replace(event, reason=Reason.REBOOTED)
        super()._happened(event)


def is_reboot(untrusted_details: str) -> bool:
    """Whether QEMU's SHUTDOWN event says that the guest asked for a reset."""
    try:
        details = json.loads(untrusted_details)
    except ValueError:
        return False
    return isinstance(details, dict) and details.get("reason") == "guest-reset"


class KVM(_Emulator):
    """VMs under KVM."""

    type = "KVM"

    def renderer(self, places: Places) -> Renderer:
        return KVMRenderer(places, accelerated=True)


class QEMU(_Emulator):
    """VMs with CPUs that QEMU emulates, where the host cannot run them: the same machine, much slower."""

    type = "QEMU"

    def renderer(self, places: Places) -> Renderer:
        return KVMRenderer(places, accelerated=False)


def _takes_direct(path: str) -> bool:
    """Whether the file system takes O_DIRECT, without which QEMU cannot open a disk past the host's cache."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        mode = os.fstat(descriptor).st_mode
        return stat.S_ISREG(mode) or stat.S_ISBLK(mode)
    finally:
        os.close(descriptor)
