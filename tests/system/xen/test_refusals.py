"""What Xen or its guests do not do is told in XenAPI's words, and the guest runs on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from harness.client import Client
from harness.daemon import wait_until
from harness.guests import CACHE, MIB, add_disk
from harness.xen import control_domain
from harness.xen.guest import BOOT, Guest
from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import DirectKernel, Domain, Platform, State
from kronos.hypervisor.xen import URI, Xen

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


DEAF = "initcall_blacklist=xen_setup_shutdown_event"
"""Has a Linux not watch for what the toolstack asks it for."""


@pytest.fixture
def hypervisor() -> Iterator[Xen]:
    run = Path(tempfile.mkdtemp(prefix="kr-", dir="/run"))
    made = Xen(URI, run)
    yield made
    made.close()
    shutil.rmtree(run)


def test_a_guest_that_does_not_save_itself_when_asked_runs_on(hypervisor: Xen, tmp_path: Path) -> None:
    """Its kernel does not listen, as one that still boots, or hangs."""
    ramdisk = control_domain.obedient(CACHE)
    domain = Domain(
        uuid=str(uuid4()),
        name="deaf",
        memory_static_max=control_domain.MEMORY,
        memory_target=control_domain.MEMORY,
        boot=DirectKernel(control_domain.KERNEL, ramdisk, f"{control_domain.COMMAND_LINE} {DEAF}"),
        kind=control_domain.KIND,
        platform=Platform(vga="none", usb=False),
    )
    hypervisor.start(domain)
    try:
        wait_until(
            lambda: b"ready" in hypervisor.places.serial_log(domain.uuid).read_bytes(), BOOT, "no guest"
        )
        with pytest.raises(Failure) as raised:
            hypervisor.suspend(domain.uuid, tmp_path / "memory")
        assert (raised.value.code, raised.value.params) == (
            "VM_FAILED_SUSPEND_ACKNOWLEDGMENT",
            (domain.uuid,),
        )
        (status,) = (status for status in hypervisor.statuses() if status.uuid == domain.uuid)
        assert status.state is State.RUNNING
    finally:
        hypervisor.destroy(domain.uuid)


def test_the_cd_of_a_paravirtual_guest_stays_for_the_whole_run(
    guest: Guest, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "one.iso").write_bytes(bytes(MIB))
    (host,) = client("host.get_all")
    config = {"location": str(tmp_path)}
    library = client("SR.create", host, config, 0, "library", "", "iso", "iso", False, {})
    (cd,) = client("SR.get_VDIs", library)
    drive = add_disk(client, guest.vm, cd, "3", type="CD", mode="RO")
    guest.start()
    for call in ("VBD.eject", "VBD.unplug"):
        with pytest.raises(Failure, match="VM_LACKS_FEATURE"):
            client(call, drive)
    assert client("VBD.get_currently_attached", drive)
    assert client("VBD.get_VDI", drive) == cd
    client("VM.hard_shutdown", guest.vm)
    client("VBD.destroy", drive)
    for pbd in client("SR.get_PBDs", library):
        client("PBD.unplug", pbd)
    client("SR.forget", library)
