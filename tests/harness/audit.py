"""What must hold of a host whenever its daemon has started and nothing is going on: records, disks, network and
hypervisor say the same, and nothing is half there."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

import libvirt

from harness.client import Client
from harness.daemon import Daemon
from kronos.network.names import emulated, port_name
from kronos.rules.devices import disk_number
from kronos.storage.directory.catalogue import Catalogue
from kronos.storage.directory.files import Files

NULL = "OpaqueRef:NULL"
LIVE = ("Running", "Paused")
CLASSES = (
    "VM",
    "VDI",
    "VBD",
    "VIF",
    "SR",
    "network",
    "task",
    "console",
    "VM_metrics",
    "VM_guest_metrics",
    "host",
)
_STATES = {libvirt.VIR_DOMAIN_RUNNING: "Running", libvirt.VIR_DOMAIN_PAUSED: "Paused"}

Records = dict[str, dict[str, dict[str, Any]]]


def records(client: Client) -> Records:
    """Every record of the classes that are audited, by class and reference."""
    return {name: client(f"{name}.get_all_records") for name in CLASSES}


def faults(daemon: Daemon, rows: Records) -> list[str]:
    """What is wrong, a line each; empty when all is well."""
    found = [*_dangling(rows), *_unfinished(daemon, rows), *_disks(daemon, rows)]
    domains = Domains(daemon)
    return found + [*_guests(domains, rows), *_devices(domains, rows), *_networks(daemon, rows)]


# --- records ---------------------------------------------------------------------------------------------------------


def _dangling(rows: Records) -> Iterator[str]:
    wanted = {"VBD": {"VM": "VM", "VDI": "VDI"}, "VIF": {"VM": "VM", "network": "network"}}
    wanted |= {"VDI": {"SR": "SR"}, "console": {"VM": "VM"}, "VM": {"metrics": "VM_metrics"}}
    for cls, fields in wanted.items():
        for ref, row in rows[cls].items():
            for field, target in fields.items():
                allowed = field == "VDI" and row["empty"] and row[field] == NULL
                if row[field] not in rows[target] and not allowed:
                    yield f"{cls} {ref} ({row['uuid']}): {field} {row[field]} does not exist"
    images = Counter(row["suspend_VDI"] for row in rows["VM"].values() if row["power_state"] == "Suspended")
    for ref, row in rows["VDI"].items():
        if row["type"] == "suspend" and images[ref] != 1:
            yield f"VDI {ref} is the suspend image of {images[ref]} suspended VMs"
    for row in rows["VM"].values():
        if (row["power_state"] == "Suspended") != (row["suspend_VDI"] in rows["VDI"]):
            yield f"VM {row['uuid']} is {row['power_state']}, and its suspend image is {row['suspend_VDI']}"
    for cls, field in (("VM_metrics", "metrics"), ("VM_guest_metrics", "guest_metrics")):
        used = Counter(row[field] for row in rows["VM"].values())
        for ref in rows[cls]:
            if used[ref] != 1:
                yield f"{cls} {ref} belongs to {used[ref]} VMs"


def _unfinished(daemon: Daemon, rows: Records) -> Iterator[str]:
    for cls, table in rows.items():
        for ref, row in table.items():
            if row.get("current_operations"):
                yield f"{cls} {ref} is still in {row['current_operations']}"
            if row.get("scheduled_to_be_resident_on", NULL) != NULL:
                yield f"{cls} {ref} is still on its way to a host"
    for ref, row in rows["task"].items():
        if row["status"] == "pending":
            yield f"task {ref} ({row['name_label']}) is pending, and nothing works on it"
    for path in (daemon.state / "intents").iterdir():
        yield f"intent {path.name} is left: {path.read_text()}"
    known = {row["uuid"] for row in rows["VM"].values()}
    for path in (daemon.directory / "run").iterdir():
        if path.is_dir() and len(path.name) == 36 and path.name not in known:
            yield f"the directory {path} of a VM that does not exist is left"


# --- storage ---------------------------------------------------------------------------------------------------------


def _disks(daemon: Daemon, rows: Records) -> Iterator[str]:
    """The rows of the local SR and the files of its directory."""
    (sr,) = (ref for ref, row in rows["SR"].items() if row["type"] == "file")
    mine = {row["uuid"]: row for row in rows["VDI"].values() if row["SR"] == sr and row["managed"]}
    contents = Catalogue(Files(daemon.storage)).contents()
    yield from (f"VDI {uuid} has no volume" for uuid in mine.keys() - contents.sidecars.keys())
    yield from (f"volume {uuid} has no VDI" for uuid in contents.sidecars.keys() - mine.keys())
    yield from (f"{name}: {why}" for name, why in (contents.bad_images | contents.bad_sidecars).items())
    yield from (f"{name} is left in the SR" for name in (*contents.intents, *contents.unfinished))
    used = contents.heads().keys() | contents.parents()
    yield from (f"image {name} is of no use to any volume" for name in contents.images.keys() - used)
    yield from (f"image {name} is missing" for name in used - contents.images.keys())
    for uuid, row in mine.items():
        image = contents.images.get(contents.sidecars[uuid].head) if uuid in contents.sidecars else None
        if image is not None and image.virtual_size != row["virtual_size"]:
            yield f"VDI {uuid} has {row['virtual_size']} bytes and its image {image.virtual_size}"
        if row["missing"]:
            yield f"VDI {uuid} counts as missing"
    allocation = sum(row["virtual_size"] for row in mine.values())
    if rows["SR"][sr]["virtual_allocation"] != allocation:
        yield f"the SR has allocated {rows['SR'][sr]['virtual_allocation']} bytes to disks of {allocation}"


# --- guests ----------------------------------------------------------------------------------------------------------


class Domains:
    """What libvirt says of the guests, by uuid."""

    def __init__(self, daemon: Daemon) -> None:
        self.domids: dict[str, int] = {}
        self.states: dict[str, str] = {}
        self.documents: dict[str, ElementTree.Element] = {}
        connection = libvirt.open(daemon.libvirtd.uri)
        try:
            for domain in connection.listAllDomains():
                uuid = domain.UUIDString()
                self.domids[uuid] = domain.ID()
                self.states[uuid] = _STATES.get(domain.state()[0], str(domain.state()))
                self.documents[uuid] = ElementTree.fromstring(domain.XMLDesc())
        finally:
            connection.close()


def live(rows: Records) -> dict[str, Mapping[str, Any]]:
    """The VMs that run by their records, by uuid, without the control domain."""
    vms = (row for row in rows["VM"].values() if not row["is_control_domain"])
    return {row["uuid"]: row for row in vms if row["power_state"] in LIVE}


def _guests(domains: Domains, rows: Records) -> Iterator[str]:
    vms = live(rows)
    for uuid in vms.keys() | domains.states.keys():
        recorded = vms[uuid]["power_state"] if uuid in vms else "not running"
        actual = domains.states.get(uuid, "not running")
        if recorded != actual:
            yield f"VM {uuid} is {recorded} by its record and {actual} by libvirt"
        elif int(vms[uuid]["domid"]) != domains.domids[uuid]:
            yield f"VM {uuid} has domid {vms[uuid]['domid']}, and libvirt's is {domains.domids[uuid]}"
    for row in rows["VM"].values():
        running = row["power_state"] in LIVE
        if running != (row["resident_on"] in rows["host"]):
            yield f"VM {row['uuid']} is {row['power_state']} and resident on {row['resident_on']}"
        if not running and (row["consoles"] or row["guest_metrics"] != NULL):
            yield f"VM {row['uuid']} is {row['power_state']} and has consoles or guest metrics"


def _devices(domains: Domains, rows: Records) -> Iterator[str]:
    """The disks and interfaces that guests have are those that are attached by the records."""
    for uuid, vm in live(rows).items():
        if uuid not in domains.documents:
            continue
        document = domains.documents[uuid]
        vbds = [rows["VBD"][ref] for ref in vm["VBDs"]]
        disks = {disk_number(vbd["userdevice"]) for vbd in vbds if vbd["currently_attached"]}
        actual = len(document.findall("devices/disk"))
        if len(disks) != actual:
            yield f"VM {uuid} has {len(disks)} disks by its records and {actual} by libvirt"
        taps = {port_name(uuid, int(vif["device"])) for vif in _plugged(vm, rows)}
        targets = {each.get("dev") for each in document.findall("devices/interface/target")}
        if taps != targets:
            yield f"VM {uuid} has interfaces {taps} by its records and {targets} by libvirt"
    for cls in ("VBD", "VIF"):
        for ref, row in rows[cls].items():
            vm = rows["VM"].get(row["VM"])
            if row["currently_attached"] and vm is not None and vm["power_state"] == "Halted":
                yield f"{cls} {ref} is attached to a halted VM"


def _plugged(vm: Mapping[str, Any], rows: Records) -> list[dict[str, Any]]:
    return [rows["VIF"][ref] for ref in vm["VIFs"] if rows["VIF"][ref]["currently_attached"]]


# --- network ---------------------------------------------------------------------------------------------------------


def _networks(daemon: Daemon, rows: Records) -> Iterator[str]:
    links = daemon.host.links()
    bridges = {row["bridge"] for row in rows["network"].values()}
    yield from (
        f"bridge {n} has no network" for n, kind in links.items() if kind == "bridge" and n not in bridges
    )
    expected = {
        port_name(u, int(vif["device"])) for u, vm in live(rows).items() for vif in _plugged(vm, rows)
    }
    taps = {name for name, kind in links.items() if kind == "tun"}
    if taps != expected:
        yield f"the taps are {taps}, by the records {expected}"
    ruled = ports_with_rules(daemon)
    if ruled != expected:
        yield f"the ports with rules are {ruled}, by the records {expected}"
    for line in daemon.host.processes().values():
        if "dnsmasq" in line and not any(f"/{bridge}/" in line for bridge in bridges):
            yield f"an address service without a network: {line}"


def ports_with_rules(daemon: Daemon) -> set[str]:
    """The devices that the packet filter knows."""
    argv = ["nft", "-j", "list", "map", "bridge", "kronos", "from_port"]
    argv = ["ip", "netns", "exec", daemon.host.name, *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        return set()
    maps = [entry["map"] for entry in json.loads(done.stdout)["nftables"] if "map" in entry]
    found = {key for entry in maps for key, _ in entry.get("elem", [])}
    # What the emulated card of a port would be called has the port's rules; it is none of its own.
    return found - {emulated(device) for device in found}
