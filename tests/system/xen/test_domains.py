"""What a VM's record asks of Xen, and what Xen then has: kinds of guests, processors, memory, crashes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.client import Client
from harness.console import open_by_connect, screen_of, serial_of
from harness.daemon import Daemon, wait_until
from harness.guests import MIB, add_disk, new_disk
from harness.xen.guest import BOOT, Guest, xl
from kronos.datamodel.errors import Failure
from kronos.storage.directory.catalogue import Catalogue
from kronos.storage.directory.files import Files

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
HERE = Path(__file__).parent


def test_processors_are_weighted_and_pinned(daemon: Daemon, client: Client) -> None:
    guest = Guest(daemon, client, VCPUs_params={"weight": "512", "cap": "50", "mask": "1"})
    guest.start()
    (line,) = (line for line in xl("sched-credit2").splitlines() if line.startswith(guest.uuid[:20]))
    assert line.split()[2:4] == ["512", "50"]
    (line,) = (line for line in xl("vcpu-list", guest.uuid).splitlines() if line.startswith(guest.uuid))
    assert line.split()[-3] == "1"


def test_processors_come_while_it_runs(daemon: Daemon, client: Client) -> None:
    guest = Guest(daemon, client, VCPUs_max=2, VCPUs_at_startup=1)
    guest.start()
    client("VM.set_VCPUs_number_live", guest.vm, 2)
    assert "2" in daemon.virsh("vcpucount", guest.uuid, "--current", "--live")


def test_its_memory_is_taken_from_the_hosts_and_given_back(guest: Guest) -> None:
    host = guest.client("host.get_all")[0]
    before = int(guest.client("host.compute_free_memory", host))
    guest.start()
    during = int(guest.client("host.compute_free_memory", host))
    assert before - during >= 96 * MIB
    guest.client("VM.hard_shutdown", guest.vm)
    wait_until(
        lambda: int(guest.client("host.compute_free_memory", host)) > during + 90 * MIB,
        30,
        "the memory stays away",
    )


def test_the_control_domain_is_a_vm_with_live_values(client: Client) -> None:
    (host,) = client("host.get_all")
    record = client("VM.get_record", client("host.get_control_domain", host))
    assert (record["domid"], record["power_state"], record["is_control_domain"]) == (0, "Running", True)
    (line,) = (line for line in xl("list").splitlines() if line.startswith("Domain-0"))
    assert abs(int(record["memory_target"]) // MIB - int(line.split()[2])) <= 16
    assert int(record["VCPUs_max"]) == int(line.split()[3])


def test_the_host_says_that_it_is_xens(client: Client) -> None:
    (host,) = client("host.get_all")
    record = client("host.get_record", host)
    assert record["software_version"]["hypervisor"] == "XEN"
    assert record["software_version"]["xen"].startswith("4.")
    assert "xen-3.0-x86_64" in record["capabilities"]
    assert record["supported_bootloaders"] == ["eliloader", "pygrub"]
    assert record["sched_policy"] == "credit2"


@pytest.mark.parametrize(("action", "state"), [("destroy", "Halted"), ("restart", "Running")])
def test_a_guest_that_crashes_is_dealt_with_as_its_record_says(
    daemon: Daemon, client: Client, action: str, state: str
) -> None:
    guest = Guest(daemon, client, actions_after_crash=action)
    guest.start()
    with open_by_connect(daemon, f"ref={serial_of(daemon, guest.vm)}&session_id={client.session}") as console:
        console.sendall(b"p")
        if action == "restart":
            guest.ready(times=2)
        guest.becomes(state, 60)


def test_a_pv_guest_that_cannot_move_while_it_runs_is_left_alone_and_the_way_out_is_told(
    guest: Guest,
) -> None:
    guest.start()
    (host,) = guest.client("host.get_all")
    with pytest.raises(Failure) as raised:
        guest.client("VM.pool_migrate", guest.vm, host, {"live": "true"})
    assert raised.value.code == "VM_MIGRATE_FAILED"
    assert "no shadow paging" in raised.value.params[3]
    assert "live=false" in raised.value.params[3]
    assert guest.power_state == "Running"


def test_a_guest_shows_a_screen(daemon: Daemon, client: Client) -> None:
    guest = Guest(daemon, client, platform={"usb": "false"}).start()
    query = f"ref={screen_of(guest.daemon, guest.vm)}&session_id={guest.client.session}"
    with open_by_connect(guest.daemon, query) as console:
        assert console.recv(100) == b"RFB 003.008\n"


def test_vm_data_is_in_xenstore(daemon: Daemon, client: Client) -> None:
    guest = Guest(daemon, client, xenstore_data={"vm-data/greeting": "hello"})
    guest.start()
    path = f"/local/domain/{guest.domid}/vm-data/greeting"
    told = subprocess.run(["xenstore-read", path], capture_output=True, text=True, timeout=30)
    assert told.stdout.strip() == "hello"


def test_an_hvm_guest_boots_from_its_disk_and_is_suspended(
    daemon: Daemon, client: Client, tmp_path: Path
) -> None:
    disk = new_disk(client, "sector", MIB)
    _fill(daemon, client, disk, tmp_path)
    hvm = {
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "HVM_boot_policy": "BIOS order",
        "domain_type": "hvm",
    }
    guest = Guest(daemon, client, HVM_boot_params={"order": "c"}, platform={"vga": "std"}, **hvm)
    add_disk(client, guest.vm, disk, "0", bootable=True)
    client("VM.start", guest.vm, False, False)
    wait_until(
        lambda: "booted from its disk" in guest.log.read_text(),
        BOOT,
        lambda: f"it says {guest.log.read_text()!r}",
    )
    client("VM.suspend", guest.vm)
    assert guest.power_state == "Suspended"
    client("VM.resume", guest.vm, False, False)
    assert guest.power_state == "Running"
    client("VM.hard_shutdown", guest.vm)
    content = _content(daemon, client, disk, tmp_path)
    assert content[510:512] == b"\x55\xaa"
    assert content[512:1024] == content[:512], "it did not write"


def _path(daemon: Daemon, client: Client, disk: str) -> Path:
    uuid = client("VDI.get_uuid", disk)
    return daemon.storage / Catalogue(Files(daemon.storage)).contents().sidecars[uuid].head


def _fill(daemon: Daemon, client: Client, disk: str, place: Path) -> None:
    subprocess.run(["as", "--32", HERE / "boot_sector.S", "-o", place / "o"], check=True, timeout=30)
    link = [
        "ld",
        "-m",
        "elf_i386",
        "-Ttext",
        "0x7c00",
        "-e",
        "0x7c00",
        "--oformat",
        "binary",
        place / "o",
        "-o",
        place / "sector",
    ]
    subprocess.run(link, check=True, timeout=30)
    os.truncate(place / "sector", MIB)
    argv = [
        "qemu-img",
        "convert",
        "-n",
        "-f",
        "raw",
        "-O",
        "qcow2",
        place / "sector",
        _path(daemon, client, disk),
    ]
    subprocess.run(argv, check=True, timeout=60)


def _content(daemon: Daemon, client: Client, disk: str, place: Path) -> bytes:
    argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", _path(daemon, client, disk), place / "content"]
    subprocess.run(argv, check=True, timeout=60)
    return (place / "content").read_bytes()
