"""Disks and discs of VMs: what the record says, and when what is behind it is let go."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from kronos.api import vbd
from kronos.api.vm import state
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import VBD, VDI, VM
from kronos.hypervisor.base import Disk


def record(vm: VM, vdi: VDI, **fields: object) -> dict[str, object]:
    return {
        "VM": vm.ref,
        "VDI": vdi.ref,
        "userdevice": "autodetect",
        "bootable": True,
        "mode": "RW",
        "type": "Disk",
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    } | fields


def with_disc(host, disc: VDI) -> tuple[VM, VBD]:
    """A VM that runs with a disc in its drive."""
    vm = host.vm()
    drive = host.db.create(VBD, VM=vm.ref, VDI=disc.ref, userdevice="3", mode="RO", type="CD")
    host.run(vm)
    host.hypervisor.plug_disk(vm.uuid, Disk(3, Path("disc"), read_only=True, cdrom=True))
    return vm, drive


def detaches(host, monkeypatch) -> list[str]:
    """The uuids of what is let go from now on."""
    driver, found = host.driver(host.storage), []
    detach = driver.volume_detach
    monkeypatch.setattr(driver, "volume_detach", lambda uuid: (found.append(uuid), detach(uuid)))
    return found


def test_a_disk_that_is_only_read_is_not_given_to_write(host):
    vdi = host.vdi(host.storage, read_only=True)
    vm = host.halted_vm()
    assert host.refused("VBD.create", record(vm, vdi)) == ["VDI_READONLY", vdi.ref]
    assert host("VBD.create", record(vm, vdi, mode="RO"))


def test_only_a_cd_drive_is_empty(host):
    vm = host.halted_vm()
    empty = record(vm, vm, VDI=NULL, empty=True)
    assert host.refused("VBD.create", empty) == ["VBD_NOT_REMOVABLE_MEDIA", "in constructor"]
    assert host("VBD.create", empty | {"type": "CD", "mode": "RO"})


def test_a_vm_that_moves_gets_no_disk(host):
    vm, vdi = host.halted_vm(), host.vdi(host.storage)
    vm.current_operations = {"OpaqueRef:task": "migrate_send"}
    refused = host.refused("VBD.create", record(vm, vdi))
    assert refused == ["OTHER_OPERATION_IN_PROGRESS", "VM", vm.ref, "migrate_send", "OpaqueRef:task"]


def test_the_disk_of_a_suspended_vm_stays_its_own(host):
    """Its guest wakes with it."""
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    host("VM.suspend", vm.ref)
    (ref,) = vm.VBDs
    uuid = host.db.get(VBD, ref).uuid
    text = f"VBD '{uuid}' still attached to '{vm.uuid}'"
    assert host.refused("VBD.destroy", ref) == ["OPERATION_NOT_ALLOWED", text]


def test_an_ejected_disc_is_out_of_the_record_before_it_is_let_go(host, monkeypatch):
    """Where the letting go fails, the record is not to say that the guest still has the disc."""
    disc = host.vdi(host.storage)
    _, drive = with_disc(host, disc)

    def fails(uuid):
        raise Failure("SR_BACKEND_FAILURE", "it does not answer", "", "")

    monkeypatch.setattr(host.driver(host.storage), "volume_detach", fails)
    assert host.refused("VBD.eject", drive.ref)[0] == "SR_BACKEND_FAILURE"
    assert (drive.empty, drive.VDI) == (True, NULL)


def test_a_disc_that_two_vms_eject_at_once_is_let_go_once(host, monkeypatch):
    disc = host.vdi(host.storage)
    drives = [with_disc(host, disc)[1] for _ in range(2)]
    found = detaches(host, monkeypatch)
    both = threading.Barrier(2)

    def looks_as_the_other_does(db, vdi, vm):
        answer = state.open_elsewhere(db, vdi, vm)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return answer

    monkeypatch.setattr(vbd, "open_elsewhere", looks_as_the_other_does)
    threads = [threading.Thread(target=host, args=("VBD.eject", drive.ref)) for drive in drives]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(drive.empty for drive in drives)
    assert found == [disc.uuid]


def test_a_disc_in_another_vms_drive_is_not_let_go(host, monkeypatch):
    disc = host.vdi(host.storage)
    drives = [with_disc(host, disc)[1] for _ in range(2)]
    found = detaches(host, monkeypatch)
    host("VBD.eject", drives[0].ref)
    assert found == []
    host("VBD.eject", drives[1].ref)
    assert found == [disc.uuid]


def test_a_new_disk_never_belongs_to_a_vm_that_goes_at_that_moment(host, monkeypatch):
    vm, vdi = host.vm(), host.vdi(host.storage)
    vm.power_state = "Halted"
    get, others = host.db.get, []

    def then_it_goes(kind, ref):
        row = get(kind, ref)
        if row is vm and not others:
            others.append(threading.Thread(target=host, args=("VM.destroy", vm.ref)))
            others[0].start()
            others[0].join(0.3)  # it has to wait where this is one step
        return row

    monkeypatch.setattr(host.db, "get", then_it_goes)
    host("VBD.create", record(vm, vdi))
    others[0].join()
    assert [made for made in host.db.all(VBD) if made.VM not in host.db.rows] == []


def test_no_backend_can_be_paused_and_none_says_that_it_was(host):
    disk = host.vdi(host.storage)
    vm = host.vm(disk, running=True)
    (plugged,) = vm.VBDs
    assert {"pause", "unpause"} <= set(host("VBD.get_allowed_operations", plugged))
    refusal = ["SR_OPERATION_NOT_SUPPORTED", host.storage.ref]
    assert host.refused("VBD.pause", plugged) == refusal
    assert host.refused("VBD.unpause", plugged, "token") == refusal
    assert host("VBD.get_current_operations", plugged) == {}


def test_a_disk_that_no_guest_uses_is_not_paused(host):
    vm = host.vm(host.vdi(host.storage))
    assert host.refused("VBD.pause", vm.VBDs[0])[0] == "VM_BAD_POWER_STATE"
    assert host.refused("VBD.unpause", vm.VBDs[0])[0] == "VM_BAD_POWER_STATE"


def test_an_empty_drive_has_no_sr_to_say_so(host):
    _, drive = with_disc(host, host.vdi(host.storage))
    host("VBD.eject", drive.ref)
    assert host.refused("VBD.pause", drive.ref) == ["HANDLE_INVALID", "VDI", NULL]
