"""PIF: the network interfaces of hosts."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL, now
from kronos.db.database import Database
from kronos.db.records import PIF, VIF, Host, Network, PIF_metrics
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.network import mac
from kronos.network.base import PhysicalInterface
from kronos.network.names import bridge_of

# --- records of NICs -------------------------------------------------------------------------------------------------


def introduce_nic(db: Database, host: Host, nic: PhysicalInterface, *, managed: bool = True) -> PIF:
    """A record for a NIC, in a network of its own unless there is one for its bridge."""
    with db.transaction():
        bridge = bridge_of(nic.device)
        network = next((row for row in db.all(Network) if row.bridge == bridge), None)
        if network is None:
            network = db.create(
                Network,
                name_label=f"Pool-wide network associated with {nic.device}",
                bridge=bridge,
                MTU=nic.mtu,
                other_config={"automatic": "true"},
            )
        row = db.create(
            PIF,
            device=nic.device,
            network=network.ref,
            host=host.ref,
            VLAN=-1,
            metrics=db.create(PIF_metrics).ref,
            managed=managed,
            currently_attached=nic.up,
        )
        describe(db, row, nic)
    return row


def describe(db: Database, row: PIF, nic: PhysicalInterface) -> None:
    """Write down what a NIC is and has.

    Only the management interface leads to the world: what another would reach it by, if it were that, is known here
    alone, and holds while it has the address that it was said with.
    """
    kept = not row.management and nic.ip_mode == "Static" and (nic.ip, nic.netmask) == (row.IP, row.netmask)
    fields: dict[str, Any] = {
        "MAC": nic.mac,
        "MTU": nic.mtu,
        "physical": nic.physical,
        "ip_configuration_mode": nic.ip_mode,
        "IP": nic.ip,
        "netmask": nic.netmask,
        "gateway": nic.gateway or (row.gateway if kept else ""),
        "DNS": ",".join(nic.dns) or (row.DNS if kept else ""),
        "ipv6_configuration_mode": nic.ipv6_mode,
        "IPv6": nic.ipv6,
        "ipv6_gateway": nic.ipv6_gateway,
        "capabilities": nic.capabilities,
    }
    metrics: dict[str, Any] = {
        "carrier": nic.carrier,
        "vendor_id": nic.vendor_id,
        "vendor_name": nic.vendor_name,
        "device_id": nic.device_id,
        "device_name": nic.device_name,
        "speed": nic.speed_mbit,
        "duplex": nic.full_duplex,
        "pci_bus_path": nic.pci_bus_path or "N/A",
        "last_updated": now(),
    }
    with db.transaction():
        db.write(row, fields)
        found = db.find(PIF_metrics, row.metrics)
        if found is not None:
            db.write(found, metrics)


@message("PIF.introduce")
def introduce(call: Call, host: str, mac_address: str, device: str, managed: bool) -> str:
    """A record for one NIC, named by its MAC, its device, or both.

    Raises MAC_INVALID [mac], MAC_DOES_NOT_EXIST [mac], DUPLICATE_PIF_DEVICE_NAME [device],
    COULD_NOT_FIND_NETWORK_INTERFACE_WITH_SPECIFIED_DEVICE_NAME_AND_MAC_ADDRESS [device, mac].
    """
    row = here(call, host)
    nic = _nic(call.machine.network.physical_interfaces(), mac_address, device)
    with call.db.transaction():
        if nic.device in by_device(call.db, row):
            raise Failure("DUPLICATE_PIF_DEVICE_NAME", nic.device)
        return introduce_nic(call.db, row, nic, managed=managed).ref


def _nic(nics: list[PhysicalInterface], untrusted_mac: str, device: str) -> PhysicalInterface:
    address = mac.check(untrusted_mac) if untrusted_mac or not device else ""
    if address and all(nic.mac != address for nic in nics):
        raise Failure("MAC_DOES_NOT_EXIST", address)
    for nic in nics:
        if address in ("", nic.mac) and device in ("", nic.device):
            return nic
    code = "COULD_NOT_FIND_NETWORK_INTERFACE_WITH_SPECIFIED_DEVICE_NAME_AND_MAC_ADDRESS"
    raise Failure(code, device, address)


def by_device(db: Database, host: Host) -> dict[str, PIF]:
    """The PIFs of a host's NICs; VLANs have the device of the NIC that they are on."""
    rows = (db.get(PIF, ref) for ref in host.PIFs)
    return {row.device: row for row in rows if row.VLAN == -1}


def here(call: Call, host: str) -> Host:
    """This host's record. Raises HOST_OFFLINE [host] for another's."""
    row = call.db.get(Host, host)
    if row.ref != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", row.ref)
    return row


@message("PIF.forget")
def forget(call: Call, self: str) -> None:
    """Remove the record of a NIC that nothing is built on; the NIC is left as it is.

    Raises PIF_IS_NOT_PHYSICAL, PIF_IS_MANAGEMENT_INTERFACE, PIF_VLAN_STILL_EXISTS, PIF_TUNNEL_STILL_EXISTS,
    PIF_ALREADY_BONDED, all with [pif].
    """
    db = call.db
    with db.transaction():
        row = db.get(PIF, self)
        obstacles = {
            "PIF_IS_NOT_PHYSICAL": row.VLAN != -1
            or bool(row.bond_master_of)
            or bool(row.tunnel_access_PIF_of),
            "PIF_IS_MANAGEMENT_INTERFACE": row.management,
            "PIF_VLAN_STILL_EXISTS": bool(row.VLAN_slave_of),
            "PIF_TUNNEL_STILL_EXISTS": bool(row.tunnel_transport_PIF_of),
            "PIF_ALREADY_BONDED": row.bond_slave_of != NULL,
        }
        for code, present in obstacles.items():
            if present:
                raise Failure(code, row.ref)
        forget_record(db, row)


def forget_record(db: Database, row: PIF) -> None:
    """Remove a PIF's record, with its metrics."""
    metrics = db.find(PIF_metrics, row.metrics)
    if metrics is not None:
        db.delete(metrics)
    db.delete(row)


# --- up and down -----------------------------------------------------------------------------------------------------


@message("PIF.plug")
def plug(call: Call, self: str) -> None:
    """Bring a NIC up, in the bridge of its network. Nothing happens to one that carries the management traffic.

    Raises PIF_UNMANAGED [pif], PIF_IS_NOT_PHYSICAL [pif], OPERATION_NOT_ALLOWED (the host talks over it).
    """
    row = _own(call, self)
    if row.management and row.currently_attached:
        return
    network = call.db.get(Network, row.network)
    driver = call.machine.network
    there = network.bridge in {bridge.name for bridge in driver.bridges()}
    with ExitStack() as undo:
        driver.create_bridge(network.bridge, mtu=network.MTU, external_ids={"network": network.uuid})
        if not there:
            undo.callback(driver.destroy_bridge, network.bridge)
        driver.enslave(network.bridge, row.device)
        undo.pop_all()
    row.currently_attached = True


@message("PIF.unplug")
def unplug(call: Call, self: str) -> None:
    """Take a NIC out of its network's bridge, which goes where nothing else is in it.

    Raises PIF_IS_MANAGEMENT_INTERFACE [pif], PIF_DOES_NOT_ALLOW_UNPLUG [pif], VIF_IN_USE [network, vif].
    """
    row = _own(call, self)
    network = call.db.get(Network, row.network)
    if row.management:
        raise Failure("PIF_IS_MANAGEMENT_INTERFACE", row.ref)
    if row.disallow_unplug:
        raise Failure("PIF_DOES_NOT_ALLOW_UNPLUG", row.ref)
    for ref in network.VIFs:
        if call.db.get(VIF, ref).currently_attached:
            raise Failure("VIF_IN_USE", network.ref, ref)
    driver = call.machine.network
    # In a bridge that somebody else put it in, it stays.
    if any(nic.device == row.device and nic.bridge == network.bridge for nic in driver.physical_interfaces()):
        driver.release(row.device)
        driver.destroy_bridge(network.bridge)
    row.currently_attached = False


def _own(call: Call, ref: str) -> PIF:
    """A NIC of this host that the toolstack may change."""
    row = call.db.get(PIF, ref)
    here(call, row.host)
    if not row.managed:
        raise Failure("PIF_UNMANAGED", row.ref)
    if row.VLAN != -1 or row.bond_master_of or row.tunnel_access_PIF_of:
        raise Failure("PIF_IS_NOT_PHYSICAL", row.ref)
    return row


# --- fields ----------------------------------------------------------------------------------------------------------


@message("PIF.set_primary_address_type")
def set_primary_address_type(call: Call, self: str, primary_address_type: str) -> None:
    """Which of its addresses a NIC is known by. Raises PIF_IS_MANAGEMENT_INTERFACE [pif],
    PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE [pif] where it has no address of that type."""
    row = call.db.get(PIF, self)
    if row.primary_address_type == primary_address_type:
        return
    if row.management:
        raise Failure("PIF_IS_MANAGEMENT_INTERFACE", row.ref)
    mode = row.ipv6_configuration_mode if primary_address_type == "IPv6" else row.ip_configuration_mode
    if mode == "None":
        raise Failure("PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE", row.ref)
    row.primary_address_type = primary_address_type


@message("PIF.set_disallow_unplug")
def set_disallow_unplug(call: Call, self: str, value: bool) -> None:
    """Whether PIF.unplug is refused."""
    call.db.get(PIF, self).disallow_unplug = value


# --- records alone ---------------------------------------------------------------------------------------------------


@message("PIF.pool_introduce")
def pool_introduce(
    call: Call,
    device: str,
    network: str,
    host: str,
    mac_address: str,
    mtu: int,
    vlan: int,
    physical: bool,
    ip_configuration_mode: str,
    ip: str,
    netmask: str,
    gateway: str,
    dns: str,
    bond_slave_of: str,
    vlan_master_of: str,
    management: bool,
    other_config: dict[str, str],
    disallow_unplug: bool,
    ipv6_configuration_mode: str,
    ipv6: tuple[str, ...],
    ipv6_gateway: str,
    primary_address_type: str,
    managed: bool,
    properties: dict[str, str],
) -> str:
    """A record for a PIF as its host has it."""
    db = call.db
    db.get(Network, network)
    db.get(Host, host)
    with db.transaction():
        row = db.create(
            PIF,
            device=device,
            network=network,
            host=host,
            MAC=mac_address,
            MTU=mtu,
            VLAN=vlan,
            physical=physical,
            ip_configuration_mode=ip_configuration_mode,
            IP=ip,
            netmask=netmask,
            gateway=gateway,
            DNS=dns,
            bond_slave_of=bond_slave_of,
            VLAN_master_of=vlan_master_of,
            management=management,
            other_config=other_config,
            disallow_unplug=disallow_unplug,
            ipv6_configuration_mode=ipv6_configuration_mode,
            IPv6=ipv6,
            ipv6_gateway=ipv6_gateway,
            primary_address_type=primary_address_type,
            managed=managed,
            properties=properties,
            currently_attached=False,
            metrics=db.create(PIF_metrics).ref,
        )
    return row.ref


message("PIF.db_introduce")(pool_introduce)


@message("PIF.db_forget")
def db_forget(call: Call, self: str) -> None:
    """Remove a PIF's record, whatever it is used for."""
    with call.db.transaction():
        forget_record(call.db, call.db.get(PIF, self))
