"""What other tools of this ecosystem read of a host from files."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from kronos.background.inventory import files
from kronos.db.database import Database
from kronos.db.records import PIF, VM, Host, Network

VERSIONS = {
    "product_brand": "XCP-ng",
    "product_version": "8.3.0",
    "product_version_text": "8.3.0",
    "platform_name": "XCP",
    "platform_version": "3.4.0",
    "build_number": "kronos-1",
    "linux": "6.1.0",
    "xen": "4.17",
}


def a_host(db: Database) -> Host:
    with db.transaction():
        host = db.create(Host, software_version=VERSIONS)
        host.control_domain = db.create(VM, is_control_domain=True).ref
        for device, management, attached in (
            ("eth0", True, True),
            ("eth1", False, True),
            ("eth2", False, False),
        ):
            network = db.create(Network, bridge=f"xenbr{device[-1]}")
            db.create(
                PIF,
                device=device,
                host=host.ref,
                network=network.ref,
                management=management,
                currently_attached=attached,
            )
    return host


def sourced(path: Path, key: str) -> str:
    """A value as a shell script finds it."""
    script = f'. {shlex.quote(str(path))}; printf %s "${key}"'
    return subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout


def test_a_script_finds_the_host_its_control_domain_and_its_interfaces(tmp_path):
    db = Database()
    host = a_host(db)

    files.refresh(tmp_path, db, host)

    inventory = tmp_path / "inventory"
    assert sourced(inventory, "INSTALLATION_UUID") == host.uuid
    assert sourced(inventory, "CONTROL_DOMAIN_UUID") == db.get(VM, host.control_domain).uuid
    assert sourced(inventory, "MANAGEMENT_INTERFACE") == "xenbr0"
    assert sourced(inventory, "CURRENT_INTERFACES") == "xenbr0 xenbr1"
    assert sourced(inventory, "PRODUCT_VERSION") == "8.3.0"
    assert (tmp_path / "pool.conf").read_text() == "master"


def test_a_value_cannot_run_anything_in_a_script(tmp_path):
    db = Database()
    host = a_host(db)
    db.write(host, {"software_version": VERSIONS | {"build_number": "1'; touch here;\n'"}})

    files.refresh(tmp_path, db, host)

    assert sourced(tmp_path / "inventory", "BUILD_NUMBER") == "1; touch here;"
