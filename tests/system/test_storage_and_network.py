"""Disks and interfaces of guests that run: snapshots under their feet, new sizes, new networks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.guests import vm_record
from harness.xen import control_domain
from kronos.datamodel.errors import Failure

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
GIB = 1 << 30


@pytest.fixture
def running(client: Client, daemon: Daemon) -> Iterator[tuple[str, str]]:
    """A running VM, and its disk."""
    vm = client("VM.create", vm_record(daemon.state, "guest"))
    disk = client("VDI.create", vdi(client))
    client("VBD.create", vbd(vm, disk))
    client("VM.start", vm, False, False)
    yield vm, disk
    client("VM.hard_shutdown", vm)
    # Parents of chains go by themselves, soon after the last disk that is based on them.
    for ref in client("VDI.get_all_records_where", 'field "managed"="true"'):
        client("VDI.destroy", ref)
    wait_until(lambda: client("VDI.get_all") == [], 10, "a parent outlives its children")


def vdi(client: Client, **fields: object) -> dict[str, object]:
    sr = client("pool.get_default_SR", client("pool.get_all")[0])
    record = {"name_label": "disk", "name_description": "", "SR": sr, "virtual_size": GIB, "type": "user"}
    return record | {"sharable": False, "read_only": False, "other_config": {}} | fields


def vbd(vm: str, disk: str) -> dict[str, object]:
    record = {"VM": vm, "VDI": disk, "userdevice": "0", "bootable": False, "mode": "RW", "type": "Disk"}
    return record | {
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }


def chain(daemon: Daemon, client: Client, vm: str) -> list[dict[str, object]]:
    """The images that QEMU has open for the VM's disk, from the top down."""
    listed = daemon.virsh("domblklist", client("VM.get_uuid", vm)).splitlines()
    files = (Path(line.split()[-1]).resolve() for line in listed if line.strip())  # Xen knows them by links
    (path,) = (file for file in files if file.is_relative_to(daemon.storage))
    told = subprocess.run(
        ["qemu-img", "info", "-U", "--backing-chain", "--output=json", path],
        capture_output=True,
        check=True,
        timeout=30,
    )
    return json.loads(told.stdout)


@pytest.mark.parametrize("message", ["VDI.snapshot", "VDI.clone"])
def test_a_running_guest_goes_on_in_a_new_layer(daemon, client, running, message):
    vm, disk = running
    before = chain(daemon, client, vm)
    new = client(message, disk, {})
    after = chain(daemon, client, vm)
    assert [each["filename"] for each in after[1:]] == [each["filename"] for each in before]
    parent = client("VDI.get_sm_config", disk)["vhd-parent"]
    assert client("VDI.get_sm_config", new)["vhd-parent"] == parent
    base = wait_until(lambda: known(client, parent), 10, "the parent has no record")
    assert client("VDI.get_managed", base) is False
    assert client("VM.get_power_state", vm) == "Running"


def known(client: Client, uuid: str) -> str:
    try:
        return client("VDI.get_by_uuid", uuid)
    except Failure:
        return ""


def test_a_snapshot_of_a_running_vm_takes_its_disk_along(daemon, client, running):
    vm, disk = running
    snapshot = client.task("VM.snapshot", vm, "before", [])
    assert "OpaqueRef:" in snapshot
    assert len(client("VDI.get_snapshots", disk)) == 1
    assert len(chain(daemon, client, vm)) == 2


def test_a_running_guest_sees_its_disk_grow(daemon, client, running):
    vm, disk = running
    client("VDI.resize_online", disk, 2 * GIB)
    assert int(client("VDI.get_virtual_size", disk)) == 2 * GIB
    assert chain(daemon, client, vm)[0]["virtual-size"] == 2 * GIB
    if not control_domain.here():  # libvirt cannot ask Xen's QEMU
        told = daemon.virsh("domblkinfo", client("VM.get_uuid", vm), "--all").splitlines()[-1]
        assert str(2 * GIB) in told


def test_a_disk_in_use_is_neither_destroyed_nor_taken_away(client, running):
    _, disk = running
    sr = client("VDI.get_SR", disk)
    for message, subject, expected in (
        ("VDI.destroy", disk, ("VDI_IN_USE", disk, "destroy")),
        ("PBD.unplug", client("SR.get_PBDs", sr)[0], ("VDI_IN_USE", disk)),
        ("SR.forget", sr, ("SR_HAS_PBD", sr)),
    ):
        with pytest.raises(Failure) as refused:
            client(message, subject)
        assert (refused.value.code, *refused.value.params) == expected


def test_a_running_guest_gets_an_interface(daemon, client, running):
    vm, _ = running
    network = client("network.create", {"name_label": "lab", "other_config": {}})
    vif = client("VIF.create", {"VM": vm, "network": network, "device": "0", "locking_mode": "locked"})
    client("VIF.plug", vif)
    bridge = client("network.get_bridge", network)
    ports = daemon.virsh("domiflist", client("VM.get_uuid", vm))
    assert bridge in ports and client("VIF.get_MAC", vif) in ports
    tap = ports.split()[0]
    rules = daemon.host.run("nft", "list", "ruleset")
    assert tap in rules
    client("VIF.add_ipv4_allowed", vif, "192.0.2.7")
    assert "192.0.2.7" in daemon.host.run("nft", "list", "ruleset")
    assert client("VIF.get_currently_attached", vif) is True


def test_an_sr_of_ones_own_comes_and_goes(daemon, client, tmp_path):
    host = client("session.get_this_host", client.session)
    place = Path(daemon.directory) / "second"
    given = (host, {"location": str(place)}, "0", "second", "", "file", "user", False, {})
    sr = client.task("SR.create", *given)
    ref = sr.removeprefix("<value>").removesuffix("</value>")
    client("VDI.destroy", client("VDI.create", vdi(client, SR=ref)))
    client("PBD.unplug", client("SR.get_PBDs", ref)[0])
    client("SR.destroy", ref)
    assert not place.exists()
