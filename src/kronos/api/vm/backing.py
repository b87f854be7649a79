"""What a VM needs of its host before it can run: disks attached, networks up, ports secured."""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import SR, VBD, VDI, VIF, VM, Network
from kronos.dispatch.call import Call
from kronos.network.base import LockingMode, VifPort
from kronos.network.names import port_name
from kronos.network.subnet import subnet_of_options
from kronos.storage.base import Attachment, StorageDriver


def driver_of(call: Call, vdi: VDI) -> StorageDriver:
    """The storage driver that holds a VDI. Raises SR_HAS_NO_PBDS [sr] where its SR is not plugged in here."""
    sr = call.db.get(SR, vdi.SR)
    driver = call.machine.storage.get(sr.uuid)
    if driver is None:
        raise Failure("SR_HAS_NO_PBDS", sr.ref)
    return driver


def attach(call: Call, vdi: VDI, *, writable: bool, undo: ExitStack) -> Attachment:
    """Make a disk's content available here; `undo` lets go of it again."""
    driver = driver_of(call, vdi)
    attachment = driver.volume_attach(vdi.uuid, writable)
    undo.callback(driver.volume_detach, vdi.uuid)
    return attachment


def attach_disks(call: Call, vm: VM, undo: ExitStack) -> dict[str, Attachment]:
    """Attach every disk of a VM, by VDI reference. Raises HANDLE_INVALID, SR_HAS_NO_PBDS, what the driver raises."""
    found: dict[str, Attachment] = {}
    for vbd in (call.db.get(VBD, ref) for ref in vm.VBDs):
        if vbd.empty:
            continue
        vdi = call.db.get(VDI, vbd.VDI)
        if vdi.ref not in found:
            found[vdi.ref] = attach(call, vdi, writable=vbd.mode == "RW", undo=undo)
    return found


def bring_up(call: Call, network: Network) -> None:
    """Make a network's bridge on this host, with the address service that the host-internal network has.

    Raises NETWORK_… as the driver does.
    """
    driver = call.machine.network
    with call.machine.bridging:
        driver.create_bridge(network.bridge, mtu=network.MTU, external_ids={"network": network.uuid})
        if "ip_begin" in network.other_config and not network.PIFs:
            driver.serve_addresses(network.bridge, subnet_of_options(network.other_config))


def bring_up_networks(call: Call, vm: VM) -> None:
    """Make the bridges of every network of a VM."""
    for ref in dict.fromkeys(call.db.get(VIF, each).network for each in vm.VIFs):
        bring_up(call, call.db.get(Network, ref))


def port_of(db: Database, vm: VM, vif: VIF) -> VifPort:
    """The host's end of a VIF, with what may pass it. Raises INVALID_VALUE."""
    network = db.get(Network, vif.network)
    kbps = vif.qos_algorithm_params.get("kbps", "0") if vif.qos_algorithm_type == "ratelimit" else "0"
    if not (kbps.isascii() and kbps.isdigit() and len(kbps) < 10):
        raise Failure("INVALID_VALUE", "qos_algorithm_params:kbps", kbps)
    return VifPort(
        device=port_name(vm.uuid, int(vif.device)),
        mac=vif.MAC,
        locking_mode=LockingMode.effective(vif.locking_mode, network.default_locking_mode),
        ipv4_allowed=tuple(IPv4Address(address) for address in vif.ipv4_allowed),
        ipv6_allowed=tuple(IPv6Address(address) for address in vif.ipv6_allowed),
        rate_kbytes=int(kbps),
    )


def ports_of(db: Database, vm: VM) -> list[VifPort]:
    """The host's ends of all of a VM's interfaces."""
    return [port_of(db, vm, db.get(VIF, ref)) for ref in vm.VIFs]


def secure_ports(call: Call, vm: VM, undo: ExitStack) -> None:
    """Put the rules of every port of a VM in place, before its guest can send."""
    ports = ports_of(call.db, vm)
    if ports:
        call.machine.network.secure(*ports)
        undo.callback(call.machine.network.unsecure, *(port.device for port in ports))
