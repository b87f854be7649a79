from __future__ import annotations

import pytest

from kronos.db.records import PBD, SR

ALL = (
    "clone copy resize resize_online snapshot mirror destroy forget update force_unlock generate_config enable_cbt"
    " set_on_boot blocked revert_from".split()
)


def test_an_idle_disk_lists_what_its_sr_can_do(world):
    assert set(world.vdi().allowed_operations) == {*ALL, "disable_cbt", "list_changed_blocks"}


@pytest.mark.parametrize("mode", ["RO", "RW"])
@pytest.mark.parametrize(
    "operation", "snapshot resize_online blocked clone mirror enable_cbt disable_cbt".split()
)
def test_live_operations_run_beside_a_vm_that_uses_the_disk(world, operation, mode):
    vdi = world.vdi()
    world.vbd(world.vm("Running"), vdi, mode=mode, currently_attached=True)
    assert world.refused(vdi, operation) is None


@pytest.mark.parametrize(
    "operation", "resize destroy forget update force_unlock generate_config set_on_boot".split()
)
def test_other_operations_wait_until_nobody_uses_the_disk(world, operation):
    vdi = world.vdi()
    world.vbd(world.vm("Running"), vdi, mode="RO", currently_attached=True)
    assert world.refused(vdi, operation) == ["VDI_IN_USE", vdi.ref, operation]


def test_a_disk_is_copied_beside_its_readers_but_not_its_writers(world):
    read, written = world.vdi(), world.vdi()
    world.vbd(world.vm("Running"), read, mode="RO", currently_attached=True)
    world.vbd(world.vm("Running"), written, mode="RW", currently_attached=True)
    assert world.refused(read, "copy") is None
    assert world.refused(written, "copy") == ["VDI_IN_USE", written.ref, "copy"]


def test_changed_blocks_are_listed_of_a_checkpoints_disk(world):
    vdi = world.vdi()
    world.vbd(world.vm("Suspended", is_a_snapshot=True), vdi, currently_attached=True)
    assert world.refused(vdi, "list_changed_blocks") is None
    assert world.refused(vdi, "destroy")[0] == "VDI_IN_USE"


def test_a_disk_being_plugged_is_left_alone(world):
    vdi = world.vdi()
    world.vbd(world.vm("Running"), vdi, current_operations={"T1": "plug"})
    assert world.refused(vdi, "snapshot") == ["OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref, "plug", "T1"]


@pytest.mark.parametrize(
    ("current", "operation", "may"),
    [
        ("snapshot", "clone", False),
        ("copy", "clone", True),
        ("copy", "copy", True),
        ("mirror", "destroy", True),
        ("mirror", "snapshot", False),
    ],
)
def test_what_may_run_beside_another_operation(world, current, operation, may):
    vdi = world.vdi(current_operations={"T1": current})
    expected = None if may else ["OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref, current, "T1"]
    assert world.refused(vdi, operation) == expected


def test_a_snapshot_waits_for_a_copy(world):
    vdi = world.vdi(current_operations={"T1": "copy"})
    text = "Snapshot operation not allowed during copy."
    assert world.refused(vdi, "snapshot") == ["OPERATION_NOT_ALLOWED", text]


def test_an_unplugged_sr_resizes_nothing(world):
    vdi = world.vdi()
    world.pbd.currently_attached = False
    assert world.refused(vdi, "resize") == ["SR_HAS_NO_PBDS", world.sr.ref]
    assert "resize" not in vdi.allowed_operations


@pytest.mark.parametrize(
    ("feature", "operation"),
    [
        ("VDI_SNAPSHOT", "snapshot"),
        ("VDI_DELETE", "destroy"),
        ("VDI_RESIZE", "resize"),
        ("VDI_CLONE", "clone"),
        ("VDI_CONFIG_CBT", "enable_cbt"),
    ],
)
def test_an_operation_needs_the_ability_of_the_srs_type(world, feature, operation):
    vdi = world.vdi()
    world.sm.features = {name: 1 for name in world.sm.features if name != feature}
    assert world.refused(vdi, operation) == ["SR_OPERATION_NOT_SUPPORTED", world.sr.ref]
    assert operation not in vdi.allowed_operations


def test_being_in_use_is_told_before_a_missing_ability(world):
    vdi = world.vdi()
    world.vbd(world.vm("Running"), vdi, currently_attached=True)
    world.sm.features = {}
    assert world.refused(vdi, "destroy")[0] == "VDI_IN_USE"


def test_a_log_of_changed_blocks_is_not_copied(world):
    vdi = world.vdi(type="cbt_metadata")
    assert world.refused(vdi, "copy") == ["VDI_INCOMPATIBLE_TYPE", vdi.ref, "CBT metadata"]
    assert world.refused(vdi, "destroy") is None


def test_a_tracked_disk_is_not_mirrored(world):
    vdi = world.vdi(cbt_enabled=True)
    assert world.refused(vdi, "mirror") == ["VDI_CBT_ENABLED", vdi.ref]


def test_tracking_starts_on_disks_with_a_guests_data_alone(world):
    suspended, snapshot = world.vdi(type="suspend"), world.vdi(is_a_snapshot=True)
    assert world.refused(suspended, "enable_cbt") == ["VDI_INCOMPATIBLE_TYPE", suspended.ref, "Suspend"]
    assert world.refused(snapshot, "enable_cbt")[0] == "OPERATION_NOT_ALLOWED"


def test_data_is_destroyed_of_tracked_snapshots_alone(world):
    disk, untracked = world.vdi(), world.vdi(is_a_snapshot=True)
    assert world.refused(disk, "data_destroy") == [
        "OPERATION_NOT_ALLOWED",
        f"VDI is not a snapshot: {disk.ref}",
    ]
    assert world.refused(untracked, "data_destroy") == ["VDI_NO_CBT_METADATA", untracked.ref]
    assert world.refused(world.vdi(is_a_snapshot=True, cbt_enabled=True), "data_destroy") is None


def test_a_disk_is_reverted_to_a_snapshot(world):
    assert world.refused(world.vdi(), "revert_to") == ["REVERT_ONLY_ALLOWED_ON_SNAPSHOT"]
    assert world.refused(world.vdi(is_a_snapshot=True), "revert_to") is None


def test_a_disk_that_forgets_at_each_boot_is_neither_copied_nor_snapshotted(world):
    vdi = world.vdi(on_boot="reset")
    for operation in ("snapshot", "copy"):
        assert world.refused(vdi, operation) == ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]


def test_a_sharable_disk_is_not_snapshotted(world):
    vdi = world.vdi(sharable=True)
    assert world.refused(vdi, "snapshot") == ["VDI_IS_SHARABLE", vdi.ref]


def test_a_physical_drive_is_not_destroyed(world):
    sr = world.db.create(SR, type="udev")
    world.sm.type = "udev"
    vdi = world.vdi(SR=sr.ref)
    assert world.refused(vdi, "destroy") == ["VDI_IS_A_PHYSICAL_DEVICE", vdi.ref]


def test_performance_archives_stay(world):
    vdi = world.vdi(type="rrd")
    assert world.refused(vdi, "destroy") == ["VDI_HAS_RRDS", vdi.ref]
    assert world.refused(vdi, "forget") == ["VDI_HAS_RRDS", vdi.ref]


def test_what_high_availability_stands_on_stays_while_it_is_on(world):
    vdi = world.vdi(type="ha_statefile")
    world.pool.ha_statefiles = (vdi.ref,)
    assert "destroy" in vdi.allowed_operations
    world.pool.ha_enabled = True
    assert "destroy" not in vdi.allowed_operations
    assert world.refused(vdi, "destroy") == ["HA_IS_ENABLED"]
    world.db.write(world.pool, {"ha_enabled": False, "current_operations": {"T1": "ha_disable"}})
    assert world.refused(vdi, "destroy") == ["HA_DISABLE_IN_PROGRESS"]


# --- SR --------------------------------------------------------------------------------------------------------------


def test_a_plugged_sr_is_neither_destroyed_nor_forgotten(world):
    assert world.refused(world.sr, "destroy") == ["SR_HAS_PBD", world.sr.ref]
    assert world.refused(world.sr, "forget") == ["SR_HAS_PBD", world.sr.ref]


def test_an_sr_without_a_host_is_forgotten_but_not_destroyed(world):
    sr = world.db.create(SR, type="ext")
    assert world.refused(sr, "destroy") == ["SR_HAS_NO_PBDS", sr.ref]
    assert world.refused(sr, "forget") is None


def test_an_sr_with_disks_is_not_destroyed(world):
    world.pbd.currently_attached = False
    world.vdi(managed=False)
    world.vdi(type="rrd")
    assert world.refused(world.sr, "destroy") is None
    world.vdi()
    assert world.refused(world.sr, "destroy") == ["SR_NOT_EMPTY"]


def test_an_sr_does_one_thing_at_a_time_named_as_the_reference_does(world):
    world.sr.current_operations = {"T1": "vdi_create"}
    expected = ["OTHER_OPERATION_IN_PROGRESS", "SR", world.sr.ref, "VDI.create", "T1"]
    assert world.refused(world.sr, "scan") == world.refused(world.sr, "plug") == expected


def test_several_hosts_plug_an_sr_at_once(world):
    world.sr.current_operations = {"T1": "plug"}
    assert world.refused(world.sr, "plug") is None
    assert world.refused(world.sr, "scan")[0] == "OTHER_OPERATION_IN_PROGRESS"


def test_an_sr_of_a_type_without_driver_does_little(world):
    sr = world.db.create(SR, type="unknown")
    world.db.create(PBD, SR=sr.ref, host=world.host.ref)
    assert sr.allowed_operations == (
        "scan", "destroy", "forget", "plug", "unplug", "vdi_clone", "pbd_create", "pbd_destroy",
    )  # fmt: skip


def test_the_tools_sr_takes_no_disks(world):
    world.sr.is_tools_sr = True
    assert world.refused(world.sr, "vdi_create") == ["SR_OPERATION_NOT_SUPPORTED", world.sr.ref]
    assert "vdi_create" not in world.sr.allowed_operations
