"""A Domain as the document that libvirt's libxl driver takes."""

from __future__ import annotations

from dataclasses import replace
from xml.etree.ElementTree import Element, SubElement, fromstring, register_namespace, tostring

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import DirectKernel, Disk, Domain, Interface
from kronos.hypervisor.rendering import DEFAULT_WEIGHT, Places, Renderer, add, letters

_COMMANDS = "http://libvirt.org/schemas/domain/xen/1.0"
_OS_TYPES = {"pv": "linux", "pvh": "xenpvh", "pv_in_pvh": "xenpvh", "hvm": "hvm"}
_BOOT_DEVICES = {"c": "hd", "d": "cdrom", "n": "network"}
_EMULATED = 4  # disks that the IDE controller of an emulated PC has room for
_MODELS = ("netfront", "e1000", "rtl8139", "ne2k_pci", "pcnet", "i82551", "i82557b", "i82559er", "vmxnet3")

register_namespace("xen", _COMMANDS)


class XenRenderer(Renderer):
    """Paravirtual devices for all; an emulated PC besides for HVM."""

    domain_type = "xen"

    def __init__(self, places: Places, *, emulated: bool = False, plugged: bool = False) -> None:
        super().__init__(places)
        self._hvm = emulated
        self._plugged = plugged

    def of(self, emulated: bool, *, plugged: bool = False) -> XenRenderer:
        """What writes for guests with or without an emulated PC; `plugged`: for devices that come while they run."""
        return XenRenderer(self.places, emulated=emulated, plugged=plugged)

    def domain(self, domain: Domain) -> str:
        writer = self.of(domain.kind == "hvm")
        return writer._write(domain)

    def _write(self, domain: Domain) -> str:
        if not self._hvm:
            # A paravirtual drive without a medium is no device at all.
            domain = replace(domain, disks=[disk for disk in domain.disks if disk.path is not None])
        if domain.on_reboot == "destroy":
            # No event of libxl's tells a reboot from a poweroff; a domain that is still there does.
            domain = replace(domain, on_reboot="preserve")
        root = fromstring(super().domain(domain))  # noqa: S314 - what we have just written
        monitor = f"socket,id=kronos,path={self.places.of(domain.uuid) / 'monitor'},server=on,wait=off"
        commands = SubElement(root, f"{{{_COMMANDS}}}commandline")
        for argument in ("-chardev", monitor, "-mon", "chardev=kronos,mode=control"):
            SubElement(commands, f"{{{_COMMANDS}}}arg", value=argument)
        return tostring(root, encoding="unicode")

    def os_type(self, os: Element, domain: Domain) -> None:
        # An old PV kernel in a PVH container would need Xen's shim, which libvirt cannot ask for; kernels of the last
        # years boot in such a container by themselves.
        add(os, "type", _OS_TYPES[domain.kind])

    def boot(self, root: Element, domain: Domain) -> None:
        if isinstance(domain.boot, DirectKernel):
            super().boot(root, domain)
            return
        os = SubElement(root, "os")
        if domain.boot.type == "uefi":
            if domain.boot.secure_boot:
                raise Failure("VM_LACKS_FEATURE", domain.uuid)
            os.set("firmware", "efi")
        self.os_type(os, domain)
        for letter in dict.fromkeys(domain.boot.order.lower()):
            if letter in _BOOT_DEVICES:
                add(os, "boot", dev=_BOOT_DEVICES[letter])

    def cpus(self, root: Element, domain: Domain) -> None:
        attributes = {"current": domain.vcpus} if domain.vcpus < domain.vcpus_max else {}
        add(root, "vcpu", domain.vcpus_max, **attributes)
        weighted = domain.weight not in (None, 0, DEFAULT_WEIGHT)
        if not (weighted or domain.mask):
            return
        tuning = SubElement(root, "cputune")
        if weighted and domain.weight is not None:
            add(tuning, "shares", domain.weight)
        if domain.mask:
            cpus = ",".join(map(str, domain.mask))
            for number in range(domain.vcpus_max):
                add(tuning, "vcpupin", vcpu=number, cpuset=cpus)

    def features(self, root: Element, domain: Domain) -> None:
        if domain.kind != "hvm":
            return
        features = SubElement(root, "features")
        for name in ("acpi", "apic", "pae", "viridian"):
            if getattr(domain.platform, name):
                SubElement(features, name)

    def clock(self, root: Element, domain: Domain) -> None:
        clock = add(root, "clock", offset="variable", adjustment=domain.clock_offset, basis="utc")
        if domain.kind == "hvm" and domain.platform.hpet:
            add(clock, "timer", name="hpet", present="yes")

    # --- disks and interfaces ----------------------------------------------------------------------------------------

    def bus(self, disk: Disk) -> str:
        return "ide" if self._hvm and not self._plugged and disk.device < _EMULATED else "xen"

    def target(self, disk: Disk) -> str:
        return ("hd" if self.bus(disk) == "ide" else "xvd") + letters(disk.device)

    def model(self, interface: Interface) -> str:
        if not self._hvm:
            return "netfront"
        model = interface.model or "rtl8139"
        if model not in _MODELS:
            raise Failure("INVALID_VALUE", "platform:nic_type", model)
        return model

    def disk(self, disk: Disk, order: int | None) -> Element:
        element = super().disk(disk, None)
        if not self._hvm:
            # Of paravirtual devices that cannot be written QEMU has CD drives and no disks.
            of_qemu = any(driver.get("name") == "qemu" for driver in element.iterfind("driver"))
            element.set("device", "cdrom" if of_qemu and (disk.read_only or disk.cdrom) else "disk")
        for name in ("iotune", "serial"):
            for child in element.findall(name):
                element.remove(child)
        return element

    def disk_driver(self, element: Element, disk: Disk, block: bool) -> None:
        if block and disk.format == "raw":
            add(element, "driver", name="phy", type="raw")
            return
        attributes = {} if disk.read_only or disk.cdrom else {"discard": "unmap"}
        add(element, "driver", name="qemu", type=disk.format, **attributes)

    def interface(self, interface: Interface, order: int | None) -> Element:
        element = super().interface(interface, None)
        for name in ("mtu", "link"):
            for child in element.findall(name):
                element.remove(child)
        return element

    # --- the rest ----------------------------------------------------------------------------------------------------

    def consoles(self, devices: Element, domain: Domain) -> None:
        if domain.kind == "hvm":
            if domain.platform.serial:
                serial = SubElement(devices, "serial", type="pty")
                add(serial, "target", port=0)
        else:
            console = SubElement(devices, "console", type="pty")
            add(console, "target", type="xen", port=0)
        # Always there, as it brings the QEMU that a disk plugged in later needs; PV guests see a frame buffer only if
        # they look for one.
        graphics = add(devices, "graphics", type="vnc", port=5900, autoport="no")
        # libxl hands an address with a colon to QEMU as it is, and QEMU takes the name of a socket there.
        add(graphics, "listen", type="address", address=f"unix:{self.places.vnc(domain.uuid)}")
        for channel in domain.channels:
            element = SubElement(devices, "channel", type="unix")
            path = channel.path or self.places.of(domain.uuid) / "channel"
            add(element, "source", mode="bind", path=path)
            add(element, "target", type="xen", name=channel.name)

    def devices(self, devices: Element, domain: Domain) -> None:
        if domain.tpm:
            raise Failure("VM_LACKS_FEATURE", domain.uuid)  # libvirt's libxl driver has none
        if domain.kind != "hvm":
            return
        platform = domain.platform
        if platform.usb and platform.usb_tablet:
            add(devices, "input", type="tablet", bus="usb")
        video = SubElement(devices, "video")
        kind = "cirrus" if platform.vga == "cirrus" else "vga"
        # Less than this libxl refuses, for the video memory of its QEMU.
        add(video, "model", type=kind, vram=max(8 if kind == "cirrus" else 16, platform.videoram) * 1024)
