"""Networks and PIFs: one of each for every NIC, and the host-internal network."""

from __future__ import annotations

from kronos.datamodel.types import now
from kronos.db.database import Database
from kronos.db.records import PIF, Host, Network, PIF_metrics
from kronos.network.base import NetworkDriver, PhysicalInterface

INTERNAL = "Host internal management network"


def refresh(db: Database, host: Host, driver: NetworkDriver, internal_bridge: str) -> None:
    """Bring PIFs and their networks up to date with the NICs of this host; records of NICs that went are kept."""
    nics = driver.physical_interfaces()
    known = {row.device: row for row in (db.get(PIF, ref) for ref in host.PIFs) if row.VLAN == -1}
    has_management = any(row.management for row in known.values())
    with db.transaction():
        for nic in nics:
            row = known.get(nic.device) or _new_pif(db, host, nic)
            _describe(db, row, nic)
            if nic.gateway and not has_management:
                row.management = has_management = True
        _internal_network(db, internal_bridge)


def _new_pif(db: Database, host: Host, nic: PhysicalInterface) -> PIF:
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
    metrics = db.create(PIF_metrics)
    return db.create(
        PIF, device=nic.device, network=network.ref, host=host.ref, VLAN=-1, metrics=metrics.ref, managed=True
    )


def management_address(driver: NetworkDriver) -> str:
    """The address by which clients reach this host: that of the NIC with the default route, else any."""
    nics = driver.physical_interfaces()
    with_route = [nic.ip for nic in nics if nic.gateway and nic.ip]
    return next(iter(with_route + [nic.ip for nic in nics if nic.ip]), "127.0.0.1")


def bridge_of(device: str) -> str:
    """The bridge of a NIC's network, by XenServer's convention: eth0 has xenbr0."""
    number = device.removeprefix("eth")
    return f"xenbr{number}" if number.isdigit() else f"br{device}"[:15]


def _describe(db: Database, row: PIF, nic: PhysicalInterface) -> None:
    db.write(
        row,
        {
            "MAC": nic.mac,
            "MTU": nic.mtu,
            "physical": nic.physical,
            "currently_attached": nic.up,
            "ip_configuration_mode": nic.ip_mode,
            "IP": nic.ip,
            "netmask": nic.netmask,
            "gateway": nic.gateway,
            "DNS": ",".join(nic.dns),
            "ipv6_configuration_mode": nic.ipv6_mode,
            "IPv6": nic.ipv6,
            "ipv6_gateway": nic.ipv6_gateway,
            "capabilities": nic.capabilities,
        },
    )
    metrics = db.find(PIF_metrics, row.metrics)
    if metrics is not None:
        db.write(
            metrics,
            {
                "carrier": nic.carrier,
                "vendor_id": nic.vendor_id,
                "vendor_name": nic.vendor_name,
                "device_id": nic.device_id,
                "device_name": nic.device_name,
                "speed": nic.speed_mbit,
                "duplex": nic.full_duplex,
                "pci_bus_path": nic.pci_bus_path or "N/A",
                "last_updated": now(),
            },
        )


def _internal_network(db: Database, bridge: str) -> None:
    """The network between this host and its guests, with addresses served by the host."""
    internal = "is_host_internal_management_network"
    if any(internal in row.other_config for row in db.all(Network)):
        return
    db.create(
        Network,
        name_label=INTERNAL,
        name_description="Network on which guests will be assigned a private link-local IP address which can be "
        "used to talk XenAPI",
        bridge=bridge,
        other_config={
            internal: "true",
            "is_guest_installer_network": "true",
            "ip_begin": "169.254.0.1",
            "ip_end": "169.254.255.254",
            "netmask": "255.255.0.0",
        },
    )
