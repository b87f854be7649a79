"""Networks and PIFs: one of each for every NIC, and the host-internal network."""

from __future__ import annotations

from kronos.api.pif import describe, introduce_nic
from kronos.db.database import Database
from kronos.db.records import PIF, Host, Network
from kronos.network.base import NetworkDriver

INTERNAL = "Host internal management network"


def refresh(db: Database, host: Host, driver: NetworkDriver, internal_bridge: str) -> None:
    """Bring PIFs and their networks up to date with the NICs of this host; records of NICs that went are kept."""
    nics = driver.physical_interfaces()
    known = {row.device: row for row in (db.get(PIF, ref) for ref in host.PIFs) if row.VLAN == -1}
    has_management = any(row.management for row in known.values())
    with db.transaction():
        for nic in nics:
            row = known.get(nic.device) or introduce_nic(db, host, nic)
            describe(db, row, nic)
            row.currently_attached = nic.up
            if nic.gateway and not has_management:
                row.management = has_management = True
        _internal_network(db, internal_bridge)


def management_address(driver: NetworkDriver) -> str:
    """The address by which clients reach this host: that of the NIC with the default route, else any."""
    nics = driver.physical_interfaces()
    with_route = [nic.ip for nic in nics if nic.gateway and nic.ip]
    return next(iter(with_route + [nic.ip for nic in nics if nic.ip]), "127.0.0.1")


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
