"""Files in which other tools of this ecosystem look for what this host is.

They lie in the daemon's own folder; the packages link them to where they are looked for: /etc/xensource-inventory and
/etc/xensource/pool.conf.
"""

from __future__ import annotations

from pathlib import Path

from kronos.db.database import Database
from kronos.db.records import PIF, VM, Host, Network
from kronos.system.files import write_whole

INVENTORY, POOL = "inventory", "pool.conf"


def refresh(state: Path, db: Database, host: Host) -> None:
    """Write them into `state` from the records. Raises OSError."""
    lines = (f"{key}='{_plain(value)}'\n" for key, value in sorted(inventory(db, host).items()))
    write_whole(state / INVENTORY, "".join(lines).encode())
    write_whole(state / POOL, b"master")


def inventory(db: Database, host: Host) -> dict[str, str]:
    """What xensource-inventory says of a host."""
    versions = host.software_version
    interfaces = [row for row in db.all(PIF) if row.host == host.ref]
    management = next((row for row in interfaces if row.management), None)
    attached = [_bridge(db, row) for row in interfaces if row.currently_attached]
    domain = db.find(VM, host.control_domain)
    return {
        "INSTALLATION_UUID": host.uuid,
        "CONTROL_DOMAIN_UUID": domain.uuid if domain is not None else "",
        "PRODUCT_BRAND": versions["product_brand"],
        "PRODUCT_NAME": "xenenterprise",
        "PRODUCT_VERSION": versions["product_version"],
        "PRODUCT_VERSION_TEXT": versions["product_version_text"],
        "PLATFORM_NAME": versions["platform_name"],
        "PLATFORM_VERSION": versions["platform_version"],
        "BUILD_NUMBER": versions["build_number"],
        "KERNEL_VERSION": versions["linux"],
        "XEN_VERSION": versions["xen"],
        "MANAGEMENT_INTERFACE": _bridge(db, management) if management is not None else "",
        "MANAGEMENT_ADDRESS_TYPE": "IPv4",
        "CURRENT_INTERFACES": " ".join(sorted(filter(None, attached))),
    }


def _bridge(db: Database, row: PIF) -> str:
    network = db.find(Network, row.network)
    return network.bridge if network is not None else ""


def _plain(value: str) -> str:
    """Shells read these files: a value can't end its quotes, nor its line."""
    return "".join(letter for letter in value if letter.isprintable() and letter not in "'\\")
