"""What a start costs beside libvirt's own, and what the daemon takes: printed, not judged; the machine is emulated."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from harness.client import Client
from harness.daemon import Daemon
from harness.guests import vm_record
from harness.xen.guest import Guest

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
ROUNDS = 7


def test_a_start_beside_libvirts_own(guest: Guest, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    guest.client("VM.start", guest.vm, True, False)
    document = guest.daemon.virsh("dumpxml", guest.uuid)
    guest.client("VM.hard_shutdown", guest.vm)
    (tmp_path / "guest.xml").write_text(document)
    create = ["virsh", "-q", "-c", "xen:///system", "create", "--paused", str(tmp_path / "guest.xml")]
    handle = libvirt.open("xen:///system")
    times: dict[str, list[float]] = {"createXML": [], "virsh create": [], "VM.start": []}

    def took(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        times[name].append(time.perf_counter() - start)

    for _ in range(ROUNDS):
        took("createXML", lambda: handle.createXML(document, libvirt.VIR_DOMAIN_START_PAUSED))
        handle.lookupByUUIDString(guest.uuid).destroy()
        took("virsh create", lambda: subprocess.run(create, check=True, timeout=60))
        handle.lookupByUUIDString(guest.uuid).destroy()
        took("VM.start", lambda: guest.client("VM.start", guest.vm, True, False))
        guest.client("VM.hard_shutdown", guest.vm)
    handle.close()
    medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
    ours = medians.pop("VM.start")
    with capfd.disabled():
        print(f"\nVM.start, paused: {ours:.0f} ms; limit: virsh create's time by 1.10, and 30 ms")
        for name, floor in medians.items():
            print(
                f"  {name} of the same document: {floor:.0f} ms; {ours / floor:.2f}, {ours - floor:+.0f} ms"
            )
    assert guest.power_state == "Halted"


def test_the_daemons_memory_with_a_hundred_vms(
    daemon: Daemon, client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    vms = [client("VM.create", vm_record(daemon.state, f"vm {number}")) for number in range(100)]
    running = vms[:4]
    for vm in running:
        client("VM.start", vm, True, False)
    resident, own = daemon.resident() >> 20, daemon.memory() >> 20
    with capfd.disabled():
        print(
            f"\nxapi with 100 VMs, {len(running)} running: {resident} MB resident, {own} MB its own; limit 120 MB"
        )
    for vm in running:
        client("VM.hard_shutdown", vm)
    assert len(client("VM.get_all")) >= 100
