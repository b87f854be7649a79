"""VDIs: their life, on an SR in memory."""

from __future__ import annotations

import subprocess
import threading

import pytest

from kronos.api.sr import contents
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import VBD, VDI
from kronos.hypervisor.base import Disk
from kronos.storage.images.image import in_use

GIB = 1 << 30


def test_a_new_disk_has_a_volume_and_a_record_with_the_same_uuid(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr, name_label="data")
    volume = xapi.driver(sr).volume(vdi.uuid)
    assert (vdi.name_label, vdi.virtual_size, vdi.managed, vdi.SR) == ("data", GIB, True, sr.ref)
    assert (volume.name_label, volume.virtual_size) == ("data", GIB)
    assert vdi.location == volume.location
    assert vdi.sm_config == {"image-format": "raw"}


def test_fields_that_clients_leave_out_have_defaults(xapi):
    sr = xapi.sr()
    ref = xapi("VDI.create", {"SR": sr.ref, "virtual_size": 512, "name_label": "x"})
    assert xapi.db.get(VDI, ref).type == "user"


def test_the_size_is_rounded_up_to_a_sector(xapi):
    assert xapi.vdi(xapi.sr(), size=1000).virtual_size == 1024


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_is_not_above_zero_is_refused(xapi, size):
    sr = xapi.sr()
    record = {"SR": sr.ref, "virtual_size": size}
    assert xapi.refused("VDI.create", record)[0] == "SR_BACKEND_FAILURE_79"
    assert sr.VDIs == () and sr.current_operations == {}


def test_a_disk_needs_an_sr_that_is_there_and_plugged_in(xapi):
    sr = xapi.sr()
    xapi("PBD.unplug", sr.PBDs[0])
    assert xapi.refused("VDI.create", {"SR": sr.ref, "virtual_size": 512}) == ["SR_HAS_NO_PBDS", sr.ref]
    assert xapi.refused("VDI.create", {"SR": NULL, "virtual_size": 512}) == ["HANDLE_INVALID", "SR", NULL]


def test_the_sr_counts_what_its_disks_could_come_to(xapi):
    sr = xapi.sr()
    first, second = xapi.vdi(sr), xapi.vdi(sr, size=2 * GIB)
    assert sr.virtual_allocation == 3 * GIB
    xapi("VDI.destroy", first.ref)
    xapi("VDI.resize", second.ref, 4 * GIB)
    assert sr.virtual_allocation == 4 * GIB == xapi.driver(sr).stat().virtual_allocation


def test_destroying_a_disk_takes_volume_and_record(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    vm = xapi.vm(vdi)
    xapi("VDI.destroy", vdi.ref)
    assert xapi.driver(sr).scan() == []
    assert (sr.VDIs, vm.VBDs) == ((), ())
    assert xapi.refused("VDI.destroy", vdi.ref) == ["HANDLE_INVALID", "VDI", vdi.ref]


def test_a_cd_drive_is_empty_when_its_disc_is_destroyed(xapi):
    vdi = xapi.vdi(xapi.sr())
    vm = xapi.vm()
    drive = xapi.db.create(VBD, VM=vm.ref, VDI=vdi.ref, userdevice="3", mode="RO", type="CD")
    xapi("VDI.destroy", vdi.ref)
    assert (drive.empty, drive.VDI, vm.VBDs) == (True, NULL, (drive.ref,))


def test_a_disk_in_use_is_not_destroyed(xapi):
    vdi = xapi.vdi(xapi.sr())
    xapi.vm(vdi, running=True)
    assert xapi.refused("VDI.destroy", vdi.ref) == ["VDI_IN_USE", vdi.ref, "destroy"]
    assert xapi.refused("VDI.resize", vdi.ref, 2 * GIB) == ["VDI_IN_USE", vdi.ref, "resize"]


def test_what_the_driver_knows_by_uuid_the_client_is_told_by_reference(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi.driver(sr).volume_attach(vdi.uuid, True)
    assert xapi.refused("VDI.destroy", vdi.ref) == ["VDI_IN_USE", vdi.ref, "destroy"]


def test_a_disk_whose_volume_is_gone_can_still_be_destroyed(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi.driver(sr).volume_destroy(vdi.uuid)
    xapi("VDI.destroy", vdi.ref)
    assert sr.VDIs == ()


def test_shrinking_is_refused(xapi):
    vdi = xapi.vdi(xapi.sr())
    assert xapi.refused("VDI.resize", vdi.ref, 512)[0] == "SR_BACKEND_FAILURE_79"
    assert vdi.virtual_size == GIB


def test_a_running_vm_sees_its_disk_grow(xapi, monkeypatch):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    vm = xapi.vm(vdi, running=True)
    told = []
    monkeypatch.setattr(xapi.hypervisor, "resize_disk", lambda *given: told.append(given))
    xapi("VDI.resize_online", vdi.ref, 2 * GIB + 1)
    assert told == [(vm.uuid, 0, 2 * GIB + 512)]
    assert xapi.refused("VDI.resize_online", vdi.ref, 512)[0] == "SR_BACKEND_FAILURE_79"
    assert xapi.refused("VDI.resize_online", vdi.ref, 1 << 60)[0] == "VDI_TOO_LARGE"


def test_a_running_vms_disk_is_never_cut_off_whatever_its_record_says(xapi, monkeypatch):
    vdi = xapi.vdi(xapi.sr())
    xapi.vm(vdi, running=True)
    told = []
    monkeypatch.setattr(xapi.hypervisor, "resize_disk", lambda *given: told.append(given))
    vdi.virtual_size = 0
    assert xapi.refused("VDI.resize_online", vdi.ref, 512)[0] == "SR_BACKEND_FAILURE_79"
    assert told == []


# --- snapshots and clones --------------------------------------------------------------------------------------------


def test_a_snapshot_keeps_the_content_and_says_whose_it_is(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr, other_config={"a": "1"})
    xapi.driver(sr).write(vdi.uuid, 0, b"x" * 512)
    snapshot = xapi.db.get(VDI, xapi("VDI.snapshot", vdi.ref))
    xapi.driver(sr).write(vdi.uuid, 0, b"y" * 512)
    assert xapi.driver(sr).read(snapshot.uuid, 0, 512) == b"x" * 512
    assert (snapshot.is_a_snapshot, snapshot.snapshot_of, vdi.snapshots) == (True, vdi.ref, (snapshot.ref,))
    assert (snapshot.name_label, snapshot.other_config) == ("disk", {"a": "1"})
    assert snapshot.snapshot_time > "20200101T00:00:00Z"


def test_a_disk_goes_back_to_its_snapshot_and_stays_the_same_vdi(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi.driver(sr).write(vdi.uuid, 0, b"x" * 512)
    snapshot = xapi.db.get(VDI, xapi("VDI.snapshot", vdi.ref))
    xapi("VDI.resize", vdi.ref, 2 * GIB)
    xapi.driver(sr).write(vdi.uuid, 0, b"y" * 512)
    xapi("VDI.set_name_label", vdi.ref, "renamed")
    uuid, allocated = vdi.uuid, sr.virtual_allocation
    xapi("VDI.revert", snapshot.ref)
    assert xapi.driver(sr).read(uuid, 0, 512) == b"x" * 512
    assert (vdi.uuid, vdi.name_label, vdi.virtual_size) == (uuid, "renamed", GIB)
    assert sr.virtual_allocation == allocated - GIB
    assert (vdi.snapshots, vdi.is_a_snapshot, snapshot.is_a_snapshot) == ((snapshot.ref,), False, True)
    assert vdi.current_operations == snapshot.current_operations == sr.current_operations == {}


def test_only_a_disk_that_no_vm_uses_goes_back(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    snapshot = xapi.db.get(VDI, xapi("VDI.snapshot", vdi.ref))
    vm = xapi.vm(vdi, running=True)
    assert xapi.refused("VDI.revert", snapshot.ref) == ["VDI_IN_USE", vdi.ref, "revert_from"]
    assert xapi.refused("VDI.revert", vdi.ref) == ["REVERT_ONLY_ALLOWED_ON_SNAPSHOT"]
    xapi("VM.hard_shutdown", vm.ref)
    xapi.vm(snapshot, running=True)
    assert xapi.refused("VDI.revert", snapshot.ref) == ["VDI_IN_USE", snapshot.ref, "revert_to"]
    assert snapshot.current_operations == vdi.current_operations == {}


def test_a_snapshot_of_what_is_gone_or_elsewhere_reverts_nothing(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    snapshot = xapi.db.get(VDI, xapi("VDI.snapshot", vdi.ref))
    xapi.db.write(snapshot, {"snapshot_of": xapi.vdi(xapi.sr()).ref})
    assert xapi.refused("VDI.revert", snapshot.ref)[0] == "OPERATION_NOT_ALLOWED"
    xapi.db.write(snapshot, {"snapshot_of": vdi.ref})
    xapi("VDI.destroy", vdi.ref)
    assert xapi.refused("VDI.revert", snapshot.ref)[0] == "HANDLE_INVALID"


def test_a_clone_is_a_disk_in_its_own_right(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi.driver(sr).write(vdi.uuid, 0, b"x" * 512)
    clone = xapi.db.get(VDI, xapi("VDI.clone", vdi.ref, {}))
    assert (clone.is_a_snapshot, clone.snapshot_of) == (False, NULL)
    assert xapi.driver(sr).read(clone.uuid, 0, 512) == b"x" * 512


def test_the_parent_of_both_is_named_and_soon_has_an_unmanaged_record(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi.driver(sr).write(vdi.uuid, 0, b"x" * 512)
    snapshot = xapi.db.get(VDI, xapi("VDI.snapshot", vdi.ref))
    parent = vdi.sm_config["vhd-parent"]
    assert snapshot.sm_config["vhd-parent"] == parent
    contents.look(xapi.db, xapi.machine, sr)
    base = xapi.db.by_uuid(VDI, parent)
    assert (base.managed, base.name_label) == (False, "base copy")
    assert (base.physical_utilisation, vdi.physical_utilisation) == (512, 0)
    assert xapi.refused("VDI.destroy", base.ref) == ["VDI_NOT_MANAGED", base.ref]
    assert sr.virtual_allocation == 2 * GIB
    xapi("VDI.destroy", snapshot.ref)
    xapi("VDI.destroy", vdi.ref)
    contents.look(xapi.db, xapi.machine, sr)
    assert sr.VDIs == ()


def test_a_change_makes_the_sr_be_looked_at_soon(xapi, monkeypatch):
    monkeypatch.setattr(contents, "LOOK_AGAIN_AFTER", 0.01)
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi.driver(sr).write(vdi.uuid, 0, b"x" * 512)
    xapi("VDI.snapshot", vdi.ref)
    for _ in range(500):
        if sr.physical_utilisation == 512 and len(sr.VDIs) == 3:
            return
        threading.Event().wait(0.01)
    pytest.fail(f"{sr.physical_utilisation} bytes, {len(sr.VDIs)} VDIs")


@pytest.mark.parametrize("message", ["VDI.snapshot", "VDI.clone"])
def test_a_running_vm_goes_on_in_a_new_file(xapi, message):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    vm = xapi.vm(vdi, running=True)
    xapi.hypervisor.guests[vm.uuid].disks[0] = Disk(0, None)
    xapi(message, vdi.ref)
    disk = xapi.hypervisor.guests[vm.uuid].disks[0]
    assert disk.path is not None and disk.format == "qcow2"


def test_a_snapshot_that_the_hypervisor_refuses_leaves_nothing(xapi, monkeypatch):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    vm = xapi.vm(vdi, running=True)

    def refuse(uuid, overlays):
        raise Failure("VM_LACKS_FEATURE", uuid)

    monkeypatch.setattr(xapi.hypervisor, "snapshot_disks", refuse)
    assert xapi.refused("VDI.snapshot", vdi.ref) == ["VM_LACKS_FEATURE", vm.ref]
    assert sr.VDIs == (vdi.ref,)
    assert [each.uuid for each in xapi.driver(sr).scan()] == [vdi.uuid]
    assert (vdi.current_operations, sr.current_operations) == ({}, {})


def test_many_disks_at_once(xapi):
    """Each takes its turn with the SR, and none is refused for that."""
    sr = xapi.sr()
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(xapi.vdi(sr, size=512).ref)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sr.VDIs) == sorted(made) and len(made) == 20
    assert sr.virtual_allocation == 20 * 512


# --- failures and crashes --------------------------------------------------------------------------------------------


def test_a_volume_without_a_record_is_removed_when_the_record_cannot_be_made(xapi, monkeypatch):
    sr = xapi.sr()

    def fail(*_, **__):
        raise Failure("INTERNAL_ERROR", "no")

    monkeypatch.setattr("kronos.api.vdi.volumes.introduce", fail)
    assert xapi.refused("VDI.create", {"SR": sr.ref, "virtual_size": 512}) == ["INTERNAL_ERROR", "no"]
    assert xapi.driver(sr).scan() == [] and xapi.machine.intents.left() == {}


class Killed(BaseException):
    """The daemon is gone: nothing after this runs."""


def killed_in(xapi, monkeypatch, where: str) -> None:
    """From now on this step is the last: neither it nor any undoing after it happens."""

    def die(*_, **__):
        raise Killed

    monkeypatch.setattr(where, die)
    monkeypatch.setattr("kronos.api.vdi.volumes.drop", lambda *_: None)
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)


@pytest.mark.parametrize("message", ["VDI.create", "VDI.snapshot", "VDI.clone"])
def test_a_daemon_killed_between_volume_and_record_leaves_nothing(xapi, message):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    argument = {"SR": sr.ref, "virtual_size": 512} if message == "VDI.create" else vdi.ref
    with pytest.MonkeyPatch.context() as patch:
        killed_in(xapi, patch, "kronos.api.vdi.volumes.introduce")
        with pytest.raises(Killed):
            xapi(message, argument)
    xapi.db.write(sr, {"current_operations": {}})
    xapi.db.write(vdi, {"current_operations": {}})
    assert len(xapi.driver(sr).scan()) > 1
    xapi.start_again()
    assert [each.uuid for each in xapi.driver(sr).scan() if each.managed] == [vdi.uuid]
    assert (sr.VDIs, xapi.machine.intents.left()) == ((vdi.ref,), {})


def test_a_daemon_killed_after_both_keeps_both(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    (xapi.directory / "intents" / f"volume.{sr.uuid}.{vdi.uuid}").write_text(
        f'{{"kind": "volume", "sr": "{sr.uuid}", "vdi": "{vdi.uuid}"}}'
    )
    xapi.start_again()
    assert sr.VDIs == (vdi.ref,) and xapi.driver(sr).volume(vdi.uuid)
    assert xapi.machine.intents.left() == {}


def test_a_volume_that_somebody_still_writes_to_does_not_keep_its_sr_from_being_plugged_in(xapi):
    """A program of the daemon's may outlive it, and the next start come at once."""
    sr = xapi.sr("file")
    kept = xapi.vdi(sr)
    uuid = "11111111-0000-4000-8000-000000000000"
    xapi.driver(sr).volume_create(uuid, 65536)
    path = xapi.driver(sr).volume_attach(uuid, True).path
    (xapi.directory / "intents" / f"volume.{sr.uuid}.{uuid}").write_text(
        f'{{"kind": "volume", "sr": "{sr.uuid}", "vdi": "{uuid}"}}'
    )
    with subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE) as writer:
        while not in_use(path, for_writing=True):
            assert writer.poll() is None
        xapi.start_again()
        assert (list(xapi.machine.storage), sr.VDIs) == ([sr.uuid], (kept.ref,))
        writer.kill()
    xapi.start_again()
    assert [each.uuid for each in xapi.driver(sr).scan()] == [kept.uuid]
    assert xapi.machine.intents.left() == {}


def test_disks_of_a_vm_that_never_came_to_be_go_at_the_next_start(xapi):
    sr = xapi.sr()
    used, unused = xapi.vdi(sr), xapi.vdi(sr)
    xapi.vm(used)
    facts = f'{{"kind": "disks", "vdis": "{used.uuid},{unused.uuid}"}}'
    (xapi.directory / "intents" / "vm-x").write_text(facts)
    xapi.start_again()
    assert sr.VDIs == (used.ref,) and xapi.machine.intents.left() == {}


# --- introducing, forgetting, fields ---------------------------------------------------------------------------------


def test_a_forgotten_disk_is_found_by_the_next_scan(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr, name_label="again")
    xapi("VDI.forget", vdi.ref)
    assert sr.VDIs == () and xapi.driver(sr).volume(vdi.uuid)
    xapi("SR.scan", sr.ref)
    assert xapi.db.by_uuid(VDI, vdi.uuid).name_label == "again"


def introduce(sr, uuid, location):
    return (uuid, "back", "it is", sr.ref, "user", False, False, {"a": "1"}, location)


def test_a_forgotten_disk_can_be_introduced_by_its_location(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi("VDI.forget", vdi.ref)
    row = xapi.db.get(VDI, xapi("VDI.introduce", *introduce(sr, vdi.uuid, vdi.location)))
    assert (row.uuid, row.name_label, row.virtual_size) == (vdi.uuid, "back", GIB)
    assert xapi.driver(sr).volume(vdi.uuid).name_label == "back"


def test_introducing_needs_a_location_that_exists_and_is_free(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    refused = xapi.refused("VDI.introduce", *introduce(sr, "", vdi.location))
    assert refused == ["LOCATION_NOT_UNIQUE", sr.ref, vdi.location]
    refused = xapi.refused("VDI.introduce", *introduce(sr, "", "nowhere"))
    assert refused == ["VDI_LOCATION_MISSING", sr.ref, "nowhere"]
    assert xapi.refused("VDI.introduce", *introduce(sr, "x", "nowhere")) == ["UUID_INVALID", "VDI", "x"]


def test_a_record_can_be_made_and_removed_without_the_sr(xapi):
    sr = xapi.sr()
    uuid = "00000000-0000-4000-8000-000000000001"
    ref = xapi("VDI.db_introduce", *introduce(sr, uuid, "there"))
    assert xapi.db.get(VDI, ref).location == "there"
    xapi("VDI.db_forget", ref)
    assert xapi.driver(sr).scan() == [] and sr.VDIs == ()


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        ("VDI.set_name_label", "name_label", "new"),
        ("VDI.set_name_description", "name_description", "new"),
        ("VDI.set_sharable", "sharable", True),
        ("VDI.set_read_only", "read_only", True),
    ],
)
def test_what_the_sr_keeps_survives_the_record(xapi, message, field, value):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi(message, vdi.ref, value)
    assert getattr(vdi, field) == value == getattr(xapi.driver(sr).volume(vdi.uuid), field)
    xapi("VDI.forget", vdi.ref)
    xapi("SR.scan", sr.ref)
    assert getattr(xapi.db.by_uuid(VDI, vdi.uuid), field) == value


def test_update_takes_the_records_names_to_the_sr(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    vdi.name_label = "only here"
    xapi("VDI.update", vdi.ref)
    assert xapi.driver(sr).volume(vdi.uuid).name_label == "only here"


def test_keys_of_sm_config_that_a_client_set_stay(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr, sm_config={"_sm_vm_hint": "vm"})
    xapi("VDI.add_to_sm_config", vdi.ref, "mine", "1")
    xapi("SR.scan", sr.ref)
    assert vdi.sm_config == {"_sm_vm_hint": "vm", "mine": "1", "image-format": "raw"}


def test_a_disk_that_no_type_can_reset_keeps_its_content(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    assert xapi.refused("VDI.set_on_boot", vdi.ref, "reset") == ["SR_OPERATION_NOT_SUPPORTED", sr.ref]


def test_no_disk_has_an_nbd_server(xapi):
    vdi = xapi.vdi(xapi.sr())
    assert xapi("VDI.get_nbd_info", vdi.ref) == ()
    assert xapi.refused("VDI.force_unlock", vdi.ref) == ["MESSAGE_DEPRECATED"]


# --- copies ----------------------------------------------------------------------------------------------------------


def test_a_copy_over_another_disk_needs_one_that_is_writable_big_and_idle(xapi):
    sr = xapi.sr()
    source, small = xapi.vdi(sr), xapi.vdi(sr, size=512)
    read_only, busy = xapi.vdi(sr, read_only=True), xapi.vdi(sr)
    xapi.vm(busy, running=True)

    def into(target):
        return xapi.refused("VDI.copy", source.ref, NULL, NULL, target.ref)

    assert into(small) == ["VDI_TOO_SMALL", small.ref, str(GIB)]
    assert into(read_only) == ["VDI_READONLY", read_only.ref]
    assert into(busy) == ["VDI_IN_USE", busy.ref, "copy"]
    assert busy.current_operations == {} == source.current_operations


def test_a_copy_that_fails_leaves_nothing(xapi):
    """The disks of the fake SR are no files that qemu-img could read."""
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    assert xapi.refused("VDI.copy", vdi.ref, sr.ref)[0] == "SR_BACKEND_FAILURE_202"
    assert sr.VDIs == (vdi.ref,) and len(xapi.driver(sr).scan()) == 1
    assert xapi.driver(sr).attachments == {}


@pytest.mark.parametrize("name", ["VDI.snapshot", "VDI.clone"])
def test_what_is_made_of_a_disk_is_tagged_as_it_is(xapi, name):
    vdi = xapi.vdi(xapi.sr())
    vdi.tags = ("backup",)
    assert xapi.db.get(VDI, xapi(name, vdi.ref, {})).tags == ("backup",)


def test_a_copy_is_tagged_and_cached_as_its_source_is(xapi):
    sr = xapi.sr("file")
    vdi = xapi.vdi(sr, 1 << 20)
    vdi.tags, vdi.allow_caching = ("backup",), True
    copied = xapi.db.get(VDI, xapi("VDI.copy", vdi.ref, sr.ref, NULL, NULL))
    assert (copied.tags, copied.allow_caching) == (("backup",), True)
