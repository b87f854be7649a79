"""Reading libvirt's documents: of a running VM, of a saved memory image, of the host."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import DeviceId
from kronos.hypervisor.happenings import alias, device_of

log = logging.getLogger(__name__)

# What the guest sees of a device whose other end is on this host; the rest of it says where that end is.
_SEEN_OF = {
    "disk": ("address", "target", "serial"),
    "interface": ("address", "model", "mac"),
    "serial": ("address", "target"),
    "channel": ("address", "target"),
    "graphics": (),
    "rng": ("address",),
    "tpm": ("address",),
}
# Devices without another end, and what of them the guest sees.
_GUEST_ONLY = ("controller", "input", "video", "memballoon", "panic", "watchdog")
_SEEN = ("address", "alias", "target", "model", "stats")
_ELEMENTS = {"disk": "disk", "interface": "interface", "usb": "hostdev"}
# What libvirt adds to its documents of its own, and adds again.
_IMPLIED = ("emulator", "console", "audio")


def targets(document: str) -> dict[int, str]:
    """The libvirt names of a VM's disks by device number, as in {0: 'vda'}."""
    found: dict[int, str] = {}
    for disk in _parsed(document).iterfind("devices/disk"):
        device = _device(disk)
        target = disk.find("target")
        if device is not None and target is not None:
            found[device.number] = target.get("dev", "")
    return found


def devices(document: str) -> set[DeviceId]:
    """The disks, interfaces and USB devices of the host that a running VM has."""
    root = _parsed(document)
    elements = [element for kind in _ELEMENTS.values() for element in root.iterfind(f"devices/{kind}")]
    return {device for element in elements if (device := _device(element)) is not None}


def interfaces(document: str) -> dict[str, int]:
    """The device numbers of a running VM's interfaces by MAC address, lower case."""
    found = {}
    for element in _parsed(document).iterfind("devices/interface"):
        device, mac = _device(element), element.find("mac")
        if device is not None and mac is not None:
            found[mac.get("address", "").lower()] = device.number
    return found


def snapshot(all_targets: Sequence[str], overlays: Mapping[str, Path], memory: Path | None = None) -> str:
    """The document for an external snapshot of the disks in `overlays` and of no others, and maybe of the memory."""
    root = Element("domainsnapshot")
    if memory is not None:
        SubElement(root, "memory", snapshot="external", file=str(memory))
    disks = SubElement(root, "disks")
    for target in all_targets:
        disk = SubElement(disks, "disk", name=target, snapshot="external" if target in overlays else "no")
        if target in overlays:
            disk.set("type", "file")
            SubElement(disk, "driver", type="qcow2")
            SubElement(disk, "source", file=str(overlays[target]))
    return ElementTree.tostring(root, encoding="unicode")


def with_carrier(document: str, interface: DeviceId, carrier: bool) -> str | None:
    """The document of one interface of a running VM with its cable in or out; None if there is none such."""
    for element in _parsed(document).iterfind("devices/interface"):
        if _device(element) == interface:
            link = element.find("link")
            if link is None:
                link = SubElement(element, "link")
            link.set("state", "up" if carrier else "down")
            return ElementTree.tostring(element, encoding="unicode")
    return None


def device_document(document: str, device: DeviceId) -> str | None:
    """The document of one device of a running VM; None if there is none such."""
    for element in _parsed(document).iterfind(f"devices/{_ELEMENTS[device.kind]}"):
        if _device(element) == device:
            return ElementTree.tostring(element, encoding="unicode")
    return None


def target_of(document: str) -> str:
    """The libvirt name of the disk in a document of one."""
    target = _parsed(document).find("target")
    return "" if target is None else target.get("dev", "")


def repointed(untrusted_saved: str, wanted: str, firmwares: Collection[str] = ()) -> str:
    """The document that brings a memory image back: what the guest sees as it was saved, since a memory
    image fits no other machine; everything of this host (files, sockets, networks) from `wanted`.

    An image can come from anywhere (a VM imported while suspended), and its document could name any file of
    this host as a disk. So nothing is taken from it but what is listed here, and a device that `wanted` does
    not have is refused. libvirt does not choose a firmware again: the image's must be one of this host's `firmwares`.
    Raises VM_CHECKPOINT_RESUME_FAILED.
    """
    old, new = _parsed(untrusted_saved), _parsed(wanted)
    for name in ("memory", "currentMemory", "features", "cpu"):
        _replace(new, old, name)
    _with_processors(new, old)
    machine, fresh_machine = old.find("os/type"), new.find("os/type")
    if machine is not None and fresh_machine is not None:
        fresh_machine.attrib.update(machine.attrib)
    _with_firmware(new, old, firmwares)
    fresh_devices, old_devices = new.find("devices"), old.find("devices")
    if fresh_devices is None or old_devices is None:
        raise _unfit(new, "no devices")
    merged = [_merged(new, element) for element in old_devices if element.tag not in _IMPLIED]
    fresh_devices[:] = merged
    return ElementTree.tostring(new, encoding="unicode")


def _with_processors(new: Element, untrusted_old: Element) -> None:
    """As many processors as the guest had, whatever its record says of its next start; which of the host's they may use
    is `new`'s."""
    saved, fresh = untrusted_old.find("vcpu"), new.find("vcpu")
    if saved is None or fresh is None:
        return
    fresh.text = saved.text
    fresh.attrib.pop("current", None)
    if "current" in saved.attrib:
        fresh.set("current", saved.attrib["current"])


def _with_firmware(new: Element, untrusted_old: Element, firmwares: Collection[str]) -> None:
    os, untrusted = new.find("os"), untrusted_old.find("os/loader")
    if os is None or os.get("firmware") is None:
        return
    path = "" if untrusted is None else untrusted.text or ""
    if path not in firmwares or untrusted is None:
        raise _unfit(new, f"firmware {path[:200]}")
    del os.attrib["firmware"]
    for chosen in os.findall("firmware"):
        os.remove(chosen)
    loader = Element("loader", readonly="yes", type="pflash", secure=untrusted.get("secure", "no"))
    loader.text = path
    os.insert(1, loader)


def _merged(new: Element, untrusted: Element) -> Element:
    """One device of the image, as it may come back here."""
    kind = untrusted.tag
    if kind in _GUEST_ONLY:
        untrusted[:] = [child for child in untrusted if child.tag in _SEEN]
        for child in untrusted:
            child[:] = [part for part in child if part.tag == "resolution"]
        if kind == "watchdog" and "action" in untrusted.attrib:
            untrusted.set(
                "action", "reset"
            )  # as libvirt adds it after 9.0; others pause the guest or write dumps
        return untrusted
    fresh = [one for one in new.iterfind(f"devices/{kind}") if _key(one) == _key(untrusted)]
    if kind not in _SEEN_OF or not fresh:
        raise _unfit(new, f"{kind} {_key(untrusted)}".strip())
    for name in _SEEN_OF[kind]:
        _replace(fresh[0], untrusted, name)
    return fresh[0]


def owner(capabilities: str) -> tuple[int, int] | None:
    """The user and group that guests run as, None where libvirt does not say."""
    for model in _parsed(capabilities).iterfind("host/secmodel"):
        if model.findtext("model") == "dac":
            for label in model.iterfind("baselabel"):
                user, _, group = (label.text or "").partition(":")
                if user.startswith("+") and group.startswith("+"):
                    return int(user), int(group)
    return None


def _parsed(document: str) -> Element:
    # Every document comes out of libvirt's own writer, so it has no entities, whoever wrote what it
    # describes.
    return ElementTree.fromstring(document)  # noqa: S314


def _unfit(new: Element, what: str) -> Failure:
    uuid = new.findtext("uuid", "")
    log.warning("the memory image of %s does not fit its record: %s", uuid, what)
    return Failure("VM_CHECKPOINT_RESUME_FAILED", uuid)


def _device(element: Element) -> DeviceId | None:
    found = element.find("alias")
    return device_of(found.get("name", "")) if found is not None else None


def _key(element: Element) -> str:
    """What a device is known by in both documents."""
    device = _device(element)
    if device is not None:
        return alias(device)
    target = element.find("target")
    return "" if target is None else target.get("name", target.get("port", ""))


def _replace(old: Element, new: Element, name: str) -> None:
    fresh, stale = new.find(name), old.find(name)
    if stale is not None:
        place = list(old).index(stale)
        old.remove(stale)
        if fresh is not None:
            old.insert(place, fresh)
    elif fresh is not None:
        old.append(fresh)
