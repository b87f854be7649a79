"""What every storage driver does, whatever it keeps its disks in. A new SR type is tried here by itself."""

from __future__ import annotations

import uuid as uuids
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kronos.datamodel.errors import Failure
from kronos.storage.base import StorageDriver, Volume

MIB = 1 << 20


def new() -> str:
    return str(uuids.uuid4())


def code(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(Failure) as caught:
        call(*args, **kwargs)
    return caught.value.code


def managed(driver: StorageDriver) -> list[str]:
    return [each.uuid for each in driver.scan() if each.managed]


def made(driver: StorageDriver, size: int = 8 * MIB, **values: Any) -> str:
    return driver.volume_create(new(), size, **values).uuid


# The SR.


def test_an_sr_that_was_not_made_cannot_be_attached(bench: Any) -> None:
    assert code(bench.build().attach).startswith("SR_BACKEND_FAILURE_")


def test_a_new_sr_is_empty(disks: Any) -> None:
    driver = disks.ready()
    assert driver.scan() == []
    assert driver.stat().virtual_allocation == 0


def test_making_an_sr_where_one_is_fails(disks: Any) -> None:
    disks.ready()
    assert code(disks.build().create, 0) == "SR_BACKEND_FAILURE_42"


def test_nothing_works_before_attach_or_after_detach(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    for unattached in (disks.build(), driver):
        unattached.detach()
        assert code(unattached.scan) == "SR_NOT_ATTACHED"
        assert code(unattached.stat) == "SR_NOT_ATTACHED"
        assert code(unattached.volume, uuid) == "SR_NOT_ATTACHED"
        assert code(unattached.volume_create, new(), MIB) == "SR_NOT_ATTACHED"
        assert code(unattached.volume_destroy, uuid) == "SR_NOT_ATTACHED"
        assert code(unattached.volume_attach, uuid, False) == "SR_NOT_ATTACHED"


def test_attach_and_detach_may_be_repeated(disks: Any) -> None:
    driver = disks.ready()
    driver.attach()
    driver.scan()
    driver.detach()
    driver.detach()


def test_an_sr_with_volumes_is_not_destroyed(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    assert code(driver.destroy) == "SR_NOT_EMPTY"
    driver.volume_destroy(uuid)
    driver.destroy()
    assert code(disks.build().attach) == "SR_BACKEND_FAILURE_47"


def test_probe_finds_the_sr(disks: Any) -> None:
    disks.ready()
    assert [each.sr_uuid for each in disks.build().probe()] == [disks.sr_uuid]
    assert all(each.complete for each in disks.build().probe())


def test_stat_counts_what_the_disks_could_come_to(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver, 3 * MIB)
    made(driver, 5 * MIB)
    disks.write(driver, uuid, 0, 7)
    driver.volume_snapshot(uuid, new())
    space = driver.stat()
    assert space.virtual_allocation == 11 * MIB
    assert 0 < space.physical_utilisation <= space.physical_size


# Making, finding, changing and removing disks.


def test_a_disk_is_kept_with_all_that_its_record_needs(disks: Any) -> None:
    driver = disks.ready()
    uuid = new()
    made_one = driver.volume_create(
        uuid,
        8 * MIB,
        name_label="root ☃",
        name_description="of a VM",
        type="suspend",
        sharable=True,
        read_only=True,
        sm_config={"a": "b"},
    )
    driver.detach()
    another = disks.build()
    another.attach()
    found = another.volume(uuid)
    assert found == made_one == another.scan()[0]
    assert (found.name_label, found.name_description, found.type) == ("root ☃", "of a VM", "suspend")
    assert found.sharable and found.read_only and found.managed
    assert found.sm_config["a"] == "b"
    assert (found.virtual_size, found.location, found.parent) == (8 * MIB, uuid, "")
    assert not found.is_a_snapshot and found.snapshot_of == "" and found.snapshot_time == 0


def test_a_new_disk_reads_as_zeros(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    assert disks.holds(driver, uuid, 0, 0)
    assert disks.holds(driver, uuid, 127, 0)


@pytest.mark.parametrize("asked, given", [(1, 512), (512, 512), (513, 1024), (MIB + 1, MIB + 512)])
def test_sizes_are_rounded_up_to_whole_sectors(disks: Any, asked: int, given: int) -> None:
    assert disks.ready().volume_create(new(), asked).virtual_size == given


@pytest.mark.parametrize("size", [0, -1, -(1 << 63)])
def test_a_size_must_be_above_zero(disks: Any, size: int) -> None:
    driver = disks.ready()
    assert code(driver.volume_create, new(), size) == "SR_BACKEND_FAILURE_79"
    assert driver.scan() == []


def test_a_disk_of_sixteen_tebibytes_is_made_and_a_larger_one_refused(disks: Any) -> None:
    driver = disks.ready()
    assert driver.volume_create(new(), 16 << 40).virtual_size == 16 << 40
    uuid = new()
    with pytest.raises(Failure) as caught:
        driver.volume_create(uuid, (16 << 40) + 1)
    assert caught.value.description == ["VDI_TOO_LARGE", uuid, str(16 << 40)]


def test_a_uuid_is_used_once(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    other = made(driver)
    assert code(driver.volume_create, uuid, MIB) == "SR_BACKEND_FAILURE_43"
    assert code(driver.volume_snapshot, other, uuid) == "SR_BACKEND_FAILURE_43"
    assert code(driver.volume_clone, uuid, uuid) == "SR_BACKEND_FAILURE_43"


def test_what_is_not_there_is_missing(disks: Any) -> None:
    driver = disks.ready()
    uuid = new()
    calls: list[tuple[Any, ...]] = [
        (driver.volume,),
        (driver.volume_destroy,),
        (driver.volume_resize, MIB),
        (driver.volume_snapshot, new()),
        (driver.volume_clone, new()),
        (driver.volume_update,),
        (driver.volume_attach, True),
        (driver.volume_detach,),
    ]
    for call, *rest in calls:
        with pytest.raises(Failure) as caught:
            call(uuid, *rest)
        assert caught.value.description == ["VDI_MISSING", driver.sr_uuid, uuid]


def test_names_and_flags_change_and_the_rest_stays(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver, name_label="before", name_description="same", sm_config={"k": "v"})
    assert driver.volume_update(uuid, name_label="after").name_label == "after"
    driver.volume_update(uuid, read_only=True, sharable=True, sm_config={"n": "w"})
    found = driver.volume(uuid)
    assert (found.name_label, found.name_description) == ("after", "same")
    assert found.read_only and found.sharable
    assert found.sm_config["n"] == "w" and "k" not in found.sm_config


def test_a_destroyed_disk_is_gone(disks: Any) -> None:
    driver = disks.ready()
    uuid, other = made(driver), made(driver)
    driver.volume_destroy(uuid)
    assert managed(driver) == [other]
    assert code(driver.volume_destroy, uuid) == "VDI_MISSING"


def test_a_disk_grows_and_keeps_its_content(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver, 1 * MIB)
    disks.write(driver, uuid, 3, 9)
    assert driver.volume_resize(uuid, 600 * MIB + 1).virtual_size == 600 * MIB + 512
    assert disks.holds(driver, uuid, 3, 9)
    assert disks.holds(driver, uuid, 9599, 0)
    assert driver.volume(uuid).virtual_size == 600 * MIB + 512


def test_a_disk_does_not_shrink(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver, 2 * MIB)
    assert code(driver.volume_resize, uuid, MIB) == "SR_BACKEND_FAILURE_79"
    assert driver.volume_resize(uuid, 2 * MIB).virtual_size == 2 * MIB


def test_a_read_only_disk_is_attached_for_reading_alone(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver, read_only=True)
    assert code(driver.volume_attach, uuid, True) == "VDI_READONLY"
    assert driver.volume_attach(uuid, False).read_only
    driver.volume_detach(uuid)


def test_attaching_again_gives_the_same_place(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    first = driver.volume_attach(uuid, True)
    assert driver.volume_attach(uuid, True) == first
    driver.volume_detach(uuid)
    driver.volume_detach(uuid)


# Snapshots and clones.


def test_a_snapshot_keeps_what_the_disk_held(disks: Any) -> None:
    driver = disks.ready()
    uuid, kept = made(driver, name_label="disk"), new()
    disks.write(driver, uuid, 0, 1)
    snapshot = driver.volume_snapshot(uuid, kept)
    disks.write(driver, uuid, 0, 2)
    disks.write(driver, uuid, 1, 2)
    assert disks.holds(driver, kept, 0, 1) and disks.holds(driver, kept, 1, 0)
    assert disks.holds(driver, uuid, 0, 2) and disks.holds(driver, uuid, 1, 2)
    assert snapshot.is_a_snapshot and snapshot.snapshot_of == uuid and snapshot.snapshot_time > 1e9
    assert snapshot.name_label == "disk" and snapshot.virtual_size == driver.volume(uuid).virtual_size
    assert not driver.volume(uuid).is_a_snapshot


def test_a_clone_is_a_disk_in_its_own_right(disks: Any) -> None:
    driver = disks.ready()
    uuid, other = made(driver, type="system"), new()
    disks.write(driver, uuid, 0, 1)
    clone = driver.volume_clone(uuid, other)
    disks.write(driver, other, 0, 3)
    assert disks.holds(driver, uuid, 0, 1) and disks.holds(driver, other, 0, 3)
    assert not clone.is_a_snapshot and clone.snapshot_of == "" and clone.type == "system"


def test_a_disk_goes_back_to_its_snapshot_and_on_from_there(disks: Any) -> None:
    driver = disks.ready()
    uuid, kept, later = made(driver, name_label="disk"), new(), new()
    disks.write(driver, uuid, 0, 1)
    driver.volume_snapshot(uuid, kept)
    driver.volume_resize(uuid, 2 * driver.volume(uuid).virtual_size)
    disks.write(driver, uuid, 0, 2)
    driver.volume_snapshot(uuid, later)
    disks.write(driver, uuid, 1, 3)
    back = driver.volume_revert(uuid, kept)
    assert (back.uuid, back.name_label, back.is_a_snapshot) == (uuid, "disk", False)
    assert back.virtual_size == driver.volume(kept).virtual_size and back == driver.volume(uuid)
    assert disks.holds(driver, uuid, 0, 1) and disks.holds(driver, uuid, 1, 0)
    disks.write(driver, uuid, 0, 4)
    assert disks.holds(driver, kept, 0, 1) and disks.holds(driver, later, 0, 2)
    assert sorted(managed(driver)) == sorted([uuid, kept, later])
    driver.volume_destroy(later)
    assert disks.holds(driver, uuid, 0, 4) and disks.holds(driver, kept, 0, 1)


def test_a_snapshot_that_was_written_to_shares_what_it_holds_now(disks: Any) -> None:
    driver = disks.ready()
    uuid, kept = made(driver), new()
    disks.write(driver, uuid, 0, 1)
    driver.volume_snapshot(uuid, kept)
    disks.write(driver, kept, 1, 2)
    driver.volume_revert(uuid, kept)
    disks.write(driver, uuid, 0, 3)
    disks.write(driver, kept, 0, 4)
    assert disks.holds(driver, uuid, 0, 3) and disks.holds(driver, uuid, 1, 2)
    assert disks.holds(driver, kept, 0, 4) and disks.holds(driver, kept, 1, 2)


def test_a_disk_that_is_reverted_over_and_over_does_not_grow_its_chain(disks: Any) -> None:
    driver = disks.ready()
    uuid, kept = made(driver), new()
    disks.write(driver, uuid, 0, 1)
    driver.volume_snapshot(uuid, kept)
    for pattern in range(40):
        disks.write(driver, uuid, 0, pattern)
        driver.volume_revert(uuid, kept)
    assert len(driver.scan()) == 3 and disks.holds(driver, uuid, 0, 1)


def test_what_is_not_there_cannot_be_reverted(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    assert code(driver.volume_revert, uuid, new()) == "VDI_MISSING"
    assert code(driver.volume_revert, new(), uuid) == "VDI_MISSING"


def test_the_common_parent_is_shown_and_cannot_be_used(disks: Any) -> None:
    driver = disks.ready()
    uuid, kept = made(driver), new()
    disks.write(driver, uuid, 0, 1)
    driver.volume_snapshot(uuid, kept)
    parent = driver.volume(uuid).parent
    assert parent and parent == driver.volume(kept).parent
    hidden = driver.volume(parent)
    assert not hidden.managed and hidden.read_only and hidden.parent == ""
    assert sorted(each.uuid for each in driver.scan()) == sorted([uuid, kept, parent])
    assert code(driver.volume_attach, parent, False) == "VDI_NOT_MANAGED"
    assert code(driver.volume_destroy, parent) == "VDI_NOT_MANAGED"
    assert code(driver.volume_clone, parent, new()) == "VDI_NOT_MANAGED"
    assert code(driver.volume_create, parent, MIB) == "SR_BACKEND_FAILURE_43"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_parents_go_with_their_last_child(disks: Any, order: tuple[int, ...]) -> None:
    driver = disks.ready()
    family = [made(driver)]
    for pattern in (1, 2, 3):
        disks.write(driver, family[0], 0, pattern)
        family.append(driver.volume_snapshot(family[0], new()).uuid)
    for each in order:
        driver.volume_destroy(family[each])
        left = [family[other] for other in order[order.index(each) + 1 :]]
        assert sorted(managed(driver)) == sorted(left)
        for other in left:
            assert disks.holds(driver, other, 0, other != family[0] and family.index(other) or 3)
    assert driver.scan() == []


def test_clones_of_an_unwritten_disk_add_no_layers(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    disks.write(driver, uuid, 0, 5)
    clones = [driver.volume_clone(uuid, new()).uuid for _ in range(40)]
    parents = {driver.volume(each).parent for each in (uuid, *clones)}
    assert len(parents) == 1
    assert len(driver.scan()) == 42
    assert disks.holds(driver, clones[39], 0, 5)


def test_a_snapshot_of_a_grown_disk_shows_the_new_part_too(disks: Any) -> None:
    driver = disks.ready()
    uuid, kept = made(driver, MIB), new()
    disks.write(driver, uuid, 0, 1)
    driver.volume_snapshot(uuid, new())
    driver.volume_resize(uuid, 2 * MIB)
    assert driver.volume_snapshot(uuid, kept).virtual_size == 2 * MIB
    assert disks.holds(driver, kept, 0, 1) and disks.holds(driver, kept, 31, 0)


def test_chains_have_a_limit(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    for pattern in range(1, 30):
        disks.write(driver, uuid, pattern, pattern)
        driver.volume_snapshot(uuid, new())
    disks.write(driver, uuid, 0, 77)
    assert code(driver.volume_snapshot, uuid, new()) == "SR_BACKEND_FAILURE_109"
    assert disks.holds(driver, uuid, 0, 77) and disks.holds(driver, uuid, 1, 1)


# Live snapshots.


def running(disks: Any) -> Any:
    """A guest that does as it is told, and moves to the overlay."""

    def switch(uuid: str, overlay: Path) -> None:
        disks.opened[uuid] = overlay

    return switch


def test_a_live_snapshot_keeps_what_the_disk_held(disks: Any) -> None:
    driver = disks.ready()
    uuid, kept = made(driver), new()
    disks.write(driver, uuid, 0, 1)
    snapshot = driver.volume_snapshot(uuid, kept, live=running(disks))
    disks.write(driver, uuid, 0, 2)
    disks.opened.clear()
    assert disks.holds(driver, kept, 0, 1)
    assert disks.holds(driver, uuid, 0, 2)
    assert snapshot.is_a_snapshot and snapshot.snapshot_of == uuid


def test_a_refused_live_snapshot_leaves_everything_as_it_was(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    disks.write(driver, uuid, 0, 1)
    before = driver.scan()

    def switch(uuid: str, overlay: Path) -> None:
        raise Failure("VM_LACKS_FEATURE", uuid)

    assert code(driver.volume_snapshot, uuid, new(), live=switch) == "VM_LACKS_FEATURE"
    assert driver.scan() == before


def test_a_live_snapshot_that_fails_halfway_loses_no_write(disks: Any) -> None:
    driver = disks.ready()
    uuid, kept = made(driver), new()
    disks.write(driver, uuid, 0, 1)

    def switch(uuid: str, overlay: Path) -> None:
        disks.opened[uuid] = overlay
        disks.write(driver, uuid, 1, 2)
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError):
        driver.volume_snapshot(uuid, kept, live=switch)
    disks.write(driver, uuid, 2, 3)
    disks.opened.clear()
    assert managed(driver) == [uuid]
    for block, pattern in ((0, 1), (1, 2), (2, 3)):
        assert disks.holds(driver, uuid, block, pattern)
    again = driver.volume_snapshot(uuid, kept)
    assert disks.holds(driver, again.uuid, 1, 2)


def test_many_disks_switch_in_one_moment(disks: Any) -> None:
    driver = disks.ready()
    pairs = {made(driver): new() for _ in range(3)}
    for uuid in pairs:
        disks.write(driver, uuid, 0, 1)
    with ExitStack() as stack:
        pending = {
            uuid: stack.enter_context(driver.live_snapshot(uuid, kept)) for uuid, kept in pairs.items()
        }
        for uuid, each in pending.items():
            disks.opened[uuid] = each.announce()
    for uuid, kept in pairs.items():
        assert pending[uuid].volume.uuid == kept
        disks.write(driver, uuid, 0, 2)
    disks.opened.clear()
    for uuid, kept in pairs.items():
        assert disks.holds(driver, uuid, 0, 2) and disks.holds(driver, kept, 0, 1)


def test_an_error_before_the_switch_undoes_the_preparation(disks: Any) -> None:
    driver = disks.ready()
    first = made(driver)
    disks.write(driver, first, 0, 1)
    before = driver.scan()
    with pytest.raises(Failure), ExitStack() as stack:
        stack.enter_context(driver.live_snapshot(first, new()))
        stack.enter_context(driver.live_snapshot(new(), new()))
    assert driver.scan() == before


def test_a_live_clone_is_a_disk_in_its_own_right(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    disks.write(driver, uuid, 0, 1)
    clone = driver.volume_clone(uuid, new(), live=running(disks))
    disks.opened.clear()
    assert not clone.is_a_snapshot and disks.holds(driver, clone.uuid, 0, 1)


# Introducing.


def test_a_forgotten_disk_is_introduced_again(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver, name_label="kept")
    found = driver.volume_introduce(uuid, driver.volume(uuid).location)
    assert found == driver.volume(uuid) and found.name_label == "kept"


def test_one_location_is_one_volume(disks: Any) -> None:
    driver = disks.ready()
    uuid = made(driver)
    assert code(driver.volume_introduce, new(), driver.volume(uuid).location) == "LOCATION_NOT_UNIQUE"


@pytest.mark.parametrize(
    "location", ["", ".", "..", "nothing.qcow2", "../x.qcow2", "/etc/passwd", "a/b.qcow2"]
)
def test_only_what_is_in_the_sr_can_be_introduced(disks: Any, location: str) -> None:
    assert code(disks.ready().volume_introduce, new(), location) == "VDI_LOCATION_MISSING"


# Many at once.


def test_many_threads_share_an_sr(disks: Any) -> None:
    driver = disks.ready()
    template = made(driver)
    disks.write(driver, template, 0, 8)

    def use(number: int) -> Volume | None:
        clone = driver.volume_clone(template, new())
        driver.volume_update(clone.uuid, name_label=f"disk {number}")
        if number % 2:
            driver.volume_destroy(clone.uuid)
            return None
        return driver.volume(clone.uuid)

    with ThreadPoolExecutor(8) as pool:
        kept = [each for each in pool.map(use, range(24)) if each]
    assert sorted(managed(driver)) == sorted([template, *(each.uuid for each in kept)])
    assert {each.name_label for each in kept} == {f"disk {number}" for number in range(0, 24, 2)}
    assert disks.holds(driver, kept[0].uuid, 0, 8)
