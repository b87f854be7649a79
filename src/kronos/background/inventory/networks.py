"""Networks and PIFs: one of each for every NIC, and the host-internal network."""

from __future__ import annotations

from kronos.api import interfaces
from kronos.db.database import Database
from kronos.db.records import Host, Network
from kronos.network.base import NetworkDriver

INTERNAL = "Host internal management network"


def refresh(db: Database, host: Host, driver: NetworkDriver, internal_bridge: str) -> None:
    """Bring PIFs and their networks up to date with the NICs of this host, and have the internal network."""
    with db.transaction():
        interfaces.refresh(db, host, driver)
        _internal_network(db, internal_bridge)


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
