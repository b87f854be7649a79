"""SRs: made, found, scanned, forgotten."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from harness.fake_disks import FakeDisk, FakeDisks
from kronos.background.inventory import storage as storage_inventory
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import PBD, SM, SR, VBD, VDI, Host
from kronos.storage.fake import FakeDriver
from kronos.storage.file import FileDriver

GIB = 1 << 30


def creation(xapi, kind="fake", shared=False, host=None, **config):
    where = config or {"location": str(xapi.directory / "new")}
    return ((host or xapi.host).ref, where, 0, "label", "text", kind, "", shared, {"k": "v"})


def test_a_new_sr_is_plugged_in_and_measured(xapi):
    sr = xapi.db.get(SR, xapi("SR.create", *creation(xapi)))
    (pbd,) = (xapi.db.get(PBD, ref) for ref in sr.PBDs)
    assert (sr.name_label, sr.type, sr.content_type, sr.sm_config) == ("label", "fake", "user", {"k": "v"})
    assert (pbd.host, pbd.currently_attached, pbd.device_config["location"]) == (
        xapi.host.ref,
        True,
        str(xapi.directory / "new"),
    )
    assert sr.physical_size == 1 << 40 and sr.physical_utilisation == 0
    assert {"scan", "vdi_create", "unplug"} <= set(sr.allowed_operations)
    assert xapi("SR.get_live_hosts", sr.ref) == (xapi.host.ref,)


def test_an_unknown_type_is_refused(xapi):
    assert xapi.refused("SR.create", *creation(xapi, "floppies")) == ["SR_UNKNOWN_DRIVER", "floppies"]
    assert xapi.refused("SR.probe", NULL, {}, "floppies", {})[0] == "HANDLE_INVALID"
    assert xapi.refused("SR.probe", xapi.host.ref, {}, "floppies", {}) == ["SR_UNKNOWN_DRIVER", "floppies"]
    assert xapi.refused("SR.introduce", "", "", "", "floppies", "", False) == [
        "SR_UNKNOWN_DRIVER",
        "floppies",
    ]


def test_a_place_that_is_taken_is_refused_and_left_alone(xapi):
    xapi("SR.create", *creation(xapi))
    place = FakeDriver.places[str(xapi.directory / "new")]
    assert xapi.refused("SR.create", *creation(xapi))[0] == "SR_BACKEND_FAILURE_42"
    assert len(xapi.db.all(SR)) == 1 and FakeDriver.places[str(xapi.directory / "new")] is place


def test_an_sr_that_cannot_be_plugged_in_is_undone(xapi, monkeypatch):
    def fail(*_):
        raise Failure("SR_BACKEND_FAILURE_47", "", "gone", "")

    monkeypatch.setattr("kronos.api.sr.contents.synchronise", fail)
    assert xapi.refused("SR.create", *creation(xapi))[0] == "SR_BACKEND_FAILURE_47"
    assert xapi.db.all(SR) == xapi.db.all(PBD) == []
    assert str(xapi.directory / "new") not in FakeDriver.places
    assert xapi.machine.storage == {} and xapi.machine.intents.left() == {}


def test_a_shared_sr_has_a_pbd_for_every_host(xapi):
    other = xapi.db.create(Host, hostname="other")
    sr = xapi.db.get(SR, xapi("SR.create", *creation(xapi, shared=True)))
    attached = {pbd.host: pbd.currently_attached for pbd in (xapi.db.get(PBD, ref) for ref in sr.PBDs)}
    assert attached == {xapi.host.ref: True, other.ref: False}
    assert xapi.refused("SR.set_shared", sr.ref, False) == ["SR_HAS_MULTIPLE_PBDS", *sr.PBDs]
    theirs = next(ref for ref in sr.PBDs if xapi.db.get(PBD, ref).host == other.ref)
    assert xapi.refused("PBD.plug", theirs) == ["HOST_OFFLINE", other.ref]


def test_a_daemon_killed_while_it_makes_an_sr_leaves_nothing(xapi):
    sr = xapi.sr(location="half made")
    facts = {
        "kind": "sr",
        "uuid": sr.uuid,
        "type": "fake",
        "device_config": json.dumps({"location": "half made"}),
    }
    (xapi.directory / "intents" / f"sr.{sr.uuid}").write_text(json.dumps(facts))
    xapi.start_again()
    assert xapi.db.all(SR) == [] and "half made" not in FakeDriver.places
    assert xapi.machine.intents.left() == {}


def left_by_a_destruction(xapi, sr, **more):
    facts = {
        "kind": "sr-end",
        "uuid": sr.uuid,
        "type": "fake",
        "device_config": json.dumps({"location": "going"}),
        **more,
    }
    (xapi.directory / "intents" / f"sr-end.{sr.uuid}").write_text(json.dumps(facts))
    xapi.start_again()


def test_a_daemon_killed_while_it_destroys_an_sr_finishes_that(xapi):
    left_by_a_destruction(xapi, xapi.sr(location="going"), began="yes")
    assert xapi.db.all(SR) == [] and "going" not in FakeDriver.places
    assert xapi.machine.intents.left() == {}


def test_a_destruction_that_had_not_looked_for_disks_yet_is_forgotten(xapi):
    sr = xapi.sr(location="going")
    left_by_a_destruction(xapi, sr)
    assert xapi.db.all(SR) == [sr] and "going" in FakeDriver.places
    assert xapi.machine.intents.left() == {}


def test_the_types_are_those_that_have_an_sm_record(xapi):
    assert set(xapi("SR.get_supported_types")) == {"ext", "fake", "file", "iso"}
    row = next(row for row in xapi.db.all(SM) if row.type == "file")
    assert {"VDI_CREATE", "VDI_SNAPSHOT", "VDI_RESIZE_ONLINE", "SR_PROBE"} <= set(row.features)
    assert row.capabilities == tuple(sorted(row.features))
    assert "location" in row.configuration and "qcow2" in row.supported_image_formats


def test_types_that_are_gone_lose_their_record(xapi):
    xapi.types = ["file"]
    xapi.start_again()
    assert [row.type for row in xapi.db.all(SM)] == ["file"]


# --- scanning --------------------------------------------------------------------------------------------------------


def test_a_scan_finds_what_came_and_forgets_what_went(xapi):
    sr = xapi.sr()
    gone, stays = xapi.vdi(sr), xapi.vdi(sr)
    driver = xapi.driver(sr)
    driver.volume_destroy(gone.uuid)
    driver.volume_create("11111111-0000-4000-8000-000000000000", 4096, name_label="new", type="suspend")
    xapi("SR.scan", sr.ref)
    found = xapi.db.by_uuid(VDI, "11111111-0000-4000-8000-000000000000")
    assert set(sr.VDIs) == {stays.ref, found.ref}
    assert (found.name_label, found.virtual_size, found.type, found.managed) == ("new", 4096, "suspend", True)
    assert sr.virtual_allocation == GIB + 4096


def test_a_scan_takes_over_sizes_and_names(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi.driver(sr).volume_resize(vdi.uuid, 2 * GIB)
    xapi.driver(sr).volume_update(vdi.uuid, name_label="renamed elsewhere")
    xapi("SR.scan", sr.ref)
    assert (vdi.virtual_size, vdi.name_label) == (2 * GIB, "renamed elsewhere")


def test_a_scan_that_finds_nothing_new_changes_no_record(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi("VDI.snapshot", vdi.ref)
    xapi("SR.scan", sr.ref)
    before = [xapi.db.get(VDI, ref).touched for ref in sr.VDIs]
    xapi("SR.scan", sr.ref)
    assert [xapi.db.get(VDI, ref).touched for ref in sr.VDIs] == before


def test_a_snapshot_knows_its_source_wherever_it_is_first_seen(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    snapshot = xapi.db.get(VDI, xapi("VDI.snapshot", vdi.ref))
    uuids = vdi.uuid, snapshot.uuid
    xapi("PBD.unplug", sr.PBDs[0])
    for row in (vdi, snapshot):
        xapi("VDI.db_forget", row.ref)
    xapi("PBD.plug", sr.PBDs[0])
    source, found = (xapi.db.by_uuid(VDI, uuid) for uuid in uuids)
    assert (found.is_a_snapshot, found.snapshot_of) == (True, source.ref)


def test_a_disk_in_use_that_is_gone_is_marked_as_missing(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    vm = xapi.vm(vdi, running=True)
    del FakeDriver.places[xapi.db.get(PBD, sr.PBDs[0]).device_config["location"]].volumes[vdi.uuid]
    xapi("SR.scan", sr.ref)
    assert vdi.missing and vdi.ref == xapi.db.get(VBD, vm.VBDs[0]).VDI


def test_a_volume_that_is_just_being_made_gets_no_record_from_a_scan(xapi):
    sr = xapi.sr()
    uuid = "11111111-0000-4000-8000-000000000000"
    with xapi.machine.intents.declared(f"volume.{sr.uuid}.{uuid}", {"kind": "volume"}):
        xapi.driver(sr).volume_create(uuid, 4096)
        xapi("SR.scan", sr.ref)
        assert sr.VDIs == ()
    xapi("SR.scan", sr.ref)
    assert len(sr.VDIs) == 1


def test_an_sr_that_is_unplugged_cannot_be_scanned(xapi):
    sr = xapi.sr()
    xapi("PBD.unplug", sr.PBDs[0])
    assert xapi.refused("SR.scan", sr.ref) == ["SR_HAS_NO_PBDS", sr.ref]


def test_update_measures_again(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    xapi.driver(sr).write(vdi.uuid, 0, b"x" * 1024)
    xapi("SR.update", sr.ref)
    assert sr.physical_utilisation == 1024


def test_iso_images_are_discs_whose_names_are_their_records(xapi, tmp_path):
    library = tmp_path / "isos"
    library.mkdir()
    (library / "debian.iso").write_bytes(bytes(2048))
    sr = xapi.sr("iso", location=str(library))
    (disc,) = (xapi.db.get(VDI, ref) for ref in sr.VDIs)
    assert (disc.name_label, disc.read_only, disc.virtual_size) == ("debian.iso", True, 2048)
    xapi("VDI.set_name_label", disc.ref, "Debian")
    xapi("SR.scan", sr.ref)
    assert disc.name_label == "Debian"
    refused = xapi.refused("VDI.create", {"SR": sr.ref, "virtual_size": 512})
    assert refused == ["SR_OPERATION_NOT_SUPPORTED", sr.ref]
    assert "vdi_create" not in sr.allowed_operations


# --- going -----------------------------------------------------------------------------------------------------------


def test_destroy_needs_an_sr_that_is_unplugged_and_empty(xapi):
    sr = xapi.sr()
    vdi = xapi.vdi(sr)
    assert xapi.refused("SR.destroy", sr.ref) == ["SR_HAS_PBD", sr.ref]
    assert xapi.refused("SR.forget", sr.ref) == ["SR_HAS_PBD", sr.ref]
    xapi("PBD.unplug", sr.PBDs[0])
    assert xapi.refused("SR.destroy", sr.ref) == ["SR_NOT_EMPTY"]
    xapi("PBD.plug", sr.PBDs[0])
    xapi("VDI.destroy", vdi.ref)
    xapi("PBD.unplug", sr.PBDs[0])
    location = xapi.db.get(PBD, sr.PBDs[0]).device_config["location"]
    xapi("SR.destroy", sr.ref)
    assert xapi.db.all(SR) == xapi.db.all(PBD) == [] and location not in FakeDriver.places


def test_an_indestructible_sr_stays(xapi):
    sr = xapi.sr()
    xapi("PBD.unplug", sr.PBDs[0])
    sr.other_config = {"indestructible": "true"}
    assert xapi.refused("SR.destroy", sr.ref) == ["SR_INDESTRUCTIBLE", sr.ref]


def test_a_forgotten_sr_can_be_introduced_again_with_what_it_holds(xapi):
    sr = xapi.sr(location="kept")
    vdi = xapi.vdi(sr, name_label="kept too")
    uuid, disk = sr.uuid, vdi.uuid
    xapi.db.write(xapi.pool, {"default_SR": sr.ref})
    xapi("PBD.unplug", sr.PBDs[0])
    xapi("SR.forget", sr.ref)
    assert xapi.db.all(SR) == xapi.db.all(VDI) == [] and xapi.pool.default_SR == NULL
    ref = xapi("SR.introduce", uuid, "again", "", "fake", "user", False, {})
    record = {"host": xapi.host.ref, "SR": ref, "device_config": {"location": "kept"}}
    xapi("PBD.plug", xapi("PBD.create", record))
    assert xapi.db.by_uuid(VDI, disk).name_label == "kept too"
    refused = xapi.refused("SR.introduce", uuid, "twice", "", "fake", "user", False)
    assert refused == ["SR_UUID_EXISTS", uuid]


# --- probing ---------------------------------------------------------------------------------------------------------


def test_probing_names_the_srs_that_are_there(xapi, tmp_path):
    sr = xapi.sr("file", location=str(tmp_path / "there"))
    config = {"location": str(tmp_path / "there")}
    document = ElementTree.fromstring(xapi("SR.probe", xapi.host.ref, config, "file", {}))
    assert [each.text for each in document.iter("UUID")] == [sr.uuid]
    (result,) = xapi("SR.probe_ext", xapi.host.ref, config, "file", {})
    assert (result["complete"], result["configuration"]) == (True, config)
    assert (result["sr"]["uuid"], result["sr"]["name_label"]) == (sr.uuid, "disks")
    assert result["sr"]["total_space"] >= result["sr"]["free_space"] > 0


def test_probing_an_empty_place_finds_no_sr_but_room_for_one(xapi, tmp_path):
    (tmp_path / "empty").mkdir()
    config = {"location": str(tmp_path / "empty")}
    assert "<SRlist></SRlist>" in xapi("SR.probe", xapi.host.ref, config, "file", {})
    (result,) = xapi("SR.probe_ext", xapi.host.ref, config, "file", {})
    assert result["complete"] and "sr" not in result


# --- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [("name_label", "x"), ("name_description", "x"), ("physical_size", 1), ("virtual_allocation", 1)],
)
def test_fields_of_the_record(xapi, field, value):
    sr = xapi.sr()
    xapi(f"SR.set_{field}", sr.ref, value)
    assert getattr(sr, field) == value


def test_no_sr_can_hold_what_high_availability_needs(xapi):
    sr = xapi.sr()
    for name in ("SR.assert_can_host_ha_statefile", "SR.assert_supports_database_replication"):
        assert xapi.refused(name, sr.ref) == ["SR_OPERATION_NOT_SUPPORTED", sr.ref]
    assert xapi.refused("SR.make", xapi.host.ref, {}, 0, "", "", "", "") == ["MESSAGE_DEPRECATED"]


# --- at the start ----------------------------------------------------------------------------------------------------


def test_what_was_plugged_in_is_plugged_in_again(xapi):
    sr, other = xapi.sr(), xapi.sr()
    xapi("PBD.unplug", other.PBDs[0])
    vdi = xapi.vdi(sr)
    xapi.start_again()
    assert list(xapi.machine.storage) == [sr.uuid] and sr.VDIs == (vdi.ref,)


def test_an_sr_out_of_reach_does_not_stop_the_start(xapi):
    lost, kept = xapi.sr(location="lost"), xapi.sr()
    del FakeDriver.places["lost"]
    xapi.start_again()
    assert list(xapi.machine.storage) == [kept.uuid]
    assert xapi.db.get(PBD, lost.PBDs[0]).currently_attached is False
    (left,) = xapi("message.get_all_records").values()
    assert (left["name"], left["obj_uuid"]) == ("PBD_PLUG_FAILED_ON_SERVER_START", xapi.host.uuid)


def test_the_first_start_makes_a_local_sr_and_everybodys_default(xapi, tmp_path):
    xapi.start_again(default=tmp_path / "var" / "local")
    (sr,) = xapi.db.all(SR)
    assert (sr.name_label, sr.type, sr.content_type) == ("Local storage", "file", "user")
    assert xapi.pool.default_SR == xapi.pool.suspend_image_SR == xapi.pool.crash_dump_SR == sr.ref
    assert xapi.host.suspend_image_sr == xapi.host.crash_dump_sr == sr.ref
    xapi.start_again(default=tmp_path / "var" / "local")
    assert xapi.db.all(SR) == [sr]


def test_a_first_start_takes_over_the_sr_of_an_earlier_installation(xapi, tmp_path):
    sr = xapi.sr("file", location=str(tmp_path / "local"))
    uuid, disk = sr.uuid, xapi.vdi(sr).uuid
    xapi("PBD.unplug", sr.PBDs[0])
    xapi("SR.forget", sr.ref)
    xapi.start_again(default=tmp_path / "local")
    assert xapi.db.by_uuid(VDI, disk).SR == xapi.db.by_uuid(SR, uuid).ref == xapi.pool.default_SR


class Killed(BaseException):
    """The daemon is gone: nothing after this runs."""


@pytest.mark.parametrize("was_there", [False, True])
@pytest.mark.parametrize("step", ["PBD.plug", "default"])
def test_a_first_start_that_was_killed_is_taken_up_by_the_next(xapi, tmp_path, was_there, step):
    place = tmp_path / "local"
    if was_there:
        earlier = xapi.sr("file", location=str(place))
        xapi("PBD.unplug", earlier.PBDs[0])
        xapi("SR.forget", earlier.ref)

    def die(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        owner, name = (FileDriver, "attach") if step == "PBD.plug" else (storage_inventory, "_appoint")
        patch.setattr(owner, name, die)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            xapi.start_again(default=place)
    for sr in xapi.db.all(SR):
        xapi.db.write(sr, {"current_operations": {}})
    xapi.start_again(default=place)
    (sr,) = xapi.db.all(SR)
    assert xapi.pool.default_SR == xapi.host.suspend_image_sr == sr.ref
    assert list(xapi.machine.storage) == [sr.uuid]
    assert xapi.machine.intents.left() == {}


def test_a_place_that_cannot_be_used_leaves_a_host_without_local_sr(xapi, tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "somebody's").write_text("file")
    xapi.start_again(default=tmp_path / "local")
    assert xapi.db.all(SR) == [] and (tmp_path / "local" / "somebody's").exists()


DISKS = ("/dev/sdx", "/dev/sdy")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Two free disks, behind fakes of the programs that change them."""
    return FakeDisks(tmp_path / "disks", monkeypatch, sdx=FakeDisk(), sdy=FakeDisk())


def test_the_first_start_makes_the_local_sr_of_the_disks_that_the_settings_name(xapi, host, tmp_path):
    xapi.start_again(default=tmp_path / "local", disks=DISKS)
    (sr,) = xapi.db.all(SR)
    assert (sr.name_label, sr.type, sr.shared) == ("Local storage", "ext", False)
    assert xapi.pool.default_SR == xapi.host.suspend_image_sr == sr.ref
    assert [xapi.db.get(PBD, ref).device_config for ref in sr.PBDs] == [{"device": "/dev/sdx,/dev/sdy"}]
    assert not (tmp_path / "local").exists()


def test_disks_with_data_are_left_alone_and_told_of_once(xapi, host, tmp_path):
    host.disks["/dev/sdy"].signatures = ("gpt",)
    for _ in range(2):
        xapi.start_again(default=tmp_path / "local", disks=DISKS)
    assert xapi.db.all(SR) == [] and host.said == [] and not (tmp_path / "local").exists()
    (left,) = xapi("message.get_all_records").values()
    assert (left["name"], left["obj_uuid"]) == ("LOCAL_SR_NOT_CREATED", xapi.host.uuid)
    assert "/dev/sdy has data: gpt" in left["body"]


def test_disks_that_have_been_freed_are_taken_by_the_next_start(xapi, host, tmp_path):
    host.disks["/dev/sdy"].signatures = ("gpt",)
    xapi.start_again(default=tmp_path / "local", disks=DISKS)
    host.disks["/dev/sdy"].signatures = ()
    xapi.start_again(default=tmp_path / "local", disks=DISKS)
    assert [sr.type for sr in xapi.db.all(SR)] == ["ext"]


def test_the_sr_of_an_earlier_installation_on_the_same_disks_is_taken_over(xapi, host, tmp_path):
    xapi.start_again(default=tmp_path / "local", disks=DISKS)
    (sr,) = xapi.db.all(SR)
    uuid, disk = sr.uuid, xapi.vdi(sr).uuid
    xapi("PBD.unplug", sr.PBDs[0])
    xapi("SR.forget", sr.ref)
    xapi.start_again(default=tmp_path / "local", disks=DISKS[::-1])
    assert xapi.db.by_uuid(VDI, disk).SR == xapi.db.by_uuid(SR, uuid).ref == xapi.pool.default_SR


def test_an_sr_on_one_of_the_disks_alone_is_somebodys(xapi, host, tmp_path):
    sr = xapi.sr("ext", device="/dev/sdx")
    xapi("PBD.unplug", sr.PBDs[0])
    xapi("SR.forget", sr.ref)
    xapi.start_again(default=tmp_path / "local", disks=DISKS)
    assert xapi.db.all(SR) == [] and len(host.groups) == 1
