"""The SR that spans local disks: only free ones, all of them or none, whatever moment the process dies at."""

from __future__ import annotations

import uuid as uuids
from pathlib import Path
from typing import Any

import pytest

from harness.fake_disks import FakeDisk, FakeDisks, Killed
from kronos.datamodel.errors import Failure
from kronos.storage import registry
from kronos.storage.base import StorageDriver

BOTH = "/dev/sdx,/dev/sdy"
STEPS = 24
"""More than `create` and `destroy` take each."""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDisks:
    return FakeDisks(
        tmp_path, monkeypatch, sdx=FakeDisk(), sdy=FakeDisk(), sdz=FakeDisk(signatures=("ext4",))
    )


def sr(uuid: str = "", device: str = BOTH) -> StorageDriver:
    return registry.build("ext", uuid or str(uuids.uuid4()), {"device": device})


def made(device: str = BOTH) -> StorageDriver:
    driver = sr(device=device)
    driver.create(0)
    return driver


def refusal(call: Any, *args: Any) -> tuple[str, str]:
    with pytest.raises(Failure) as refused:
        call(*args)
    return refused.value.code.removeprefix("SR_BACKEND_FAILURE_"), refused.value.params[1]


def test_names_are_those_of_xenserver(host: FakeDisks, tmp_path: Path) -> None:
    driver = made()
    driver.attach()
    (group,) = host.groups
    assert group == f"XSLocalEXT-{driver.sr_uuid}"
    assert list(host.groups[group].volumes) == [driver.sr_uuid]
    assert list(host.mounted) == [tmp_path / "sr-mount" / driver.sr_uuid]


def test_it_spans_all_disks_that_are_named(host: FakeDisks) -> None:
    made()
    (group,) = host.groups.values()
    assert [device for device, _ in group.members] == ["/dev/sdx", "/dev/sdy"]


def test_a_disk_with_data_is_refused_and_none_is_touched(host: FakeDisks) -> None:
    code, why = refusal(sr(device=f"{BOTH},/dev/sdz").create, 0)
    assert code == "16" and "/dev/sdz has data: ext4" in why
    assert host.said == [] and host.untouched()


def test_a_disk_that_is_not_there_is_refused(host: FakeDisks) -> None:
    assert refusal(sr(device=f"{BOTH},/dev/sdq").create, 0)[0] == "19"
    assert host.said == []


def test_where_a_program_cannot_look_nothing_is_written(host: FakeDisks) -> None:
    for program, code in (("lsblk", "202"), ("pvs", "93")):
        host.failing = program
        assert refusal(sr().create, 0)[0] == code
    assert host.said == []


@pytest.mark.parametrize(
    "program, code",
    [
        ("pvcreate", "55"),
        ("vgcreate", "77"),
        ("lvcreate", "50"),
        ("mke2fs", "57"),
        ("e2fsck", "52"),
        ("mount", "52"),
    ],
)
def test_a_step_that_fails_undoes_those_before_it(host: FakeDisks, program: str, code: str) -> None:
    host.failing = program
    assert refusal(sr().create, 0)[0] == code
    assert host.untouched()


@pytest.mark.parametrize("moment", range(STEPS))
def test_a_process_that_dies_while_it_makes_one_leaves_what_the_next_can_remove(
    host: FakeDisks, moment: int
) -> None:
    driver = sr()
    host.strike_at = moment
    with pytest.raises(Killed):
        driver.create(0)
        raise Killed
    host.revive()
    sr(driver.sr_uuid).discard()
    assert host.untouched()
    made()


@pytest.mark.parametrize("moment", range(STEPS))
def test_a_destruction_that_began_is_finished_by_the_next_process(host: FakeDisks, moment: int) -> None:
    driver = made()
    driver.attach()
    began: list[bool] = []
    host.revive()
    host.strike_at = moment
    with pytest.raises(Killed):
        driver.destroy(lambda: began.append(True))
        raise Killed
    host.revive()
    assert began
    sr(driver.sr_uuid).discard()
    assert host.untouched()


def test_discarding_touches_nothing_of_others(host: FakeDisks) -> None:
    kept = made("/dev/sdx")
    host.disks["/dev/sdy"].identity = "somebody-elses"
    sr().discard()
    assert list(host.groups) == [f"XSLocalEXT-{kept.sr_uuid}"]
    assert host.disks["/dev/sdy"].identity == "somebody-elses"


def test_an_sr_with_disks_is_not_destroyed_and_stays_attached(host: FakeDisks) -> None:
    driver = made()
    driver.attach()
    driver.volume_create(str(uuids.uuid4()), 1 << 20)
    with pytest.raises(Failure, match="SR_NOT_EMPTY"):
        driver.destroy()
    assert len(driver.scan()) == 1


def test_disks_that_an_sr_was_on_are_free_for_the_next(host: FakeDisks) -> None:
    driver = made()
    driver.attach()
    driver.destroy()
    assert host.untouched()
    made("/dev/sdy")


def test_it_is_found_again_under_other_names_of_its_disks(host: FakeDisks) -> None:
    driver = made()
    (group,) = host.groups.values()
    for old, new in (("/dev/sdx", "/dev/sdb"), ("/dev/sdy", "/dev/sda")):
        host.disks[new] = host.disks.pop(old)
    group.members = [("/dev/sdb", group.members[0][1]), ("/dev/sda", group.members[1][1])]
    sr(driver.sr_uuid).attach()


def test_one_disk_less_is_told_and_nothing_is_mounted(host: FakeDisks) -> None:
    driver = made()
    host.pull("/dev/sdx")
    code, why = refusal(driver.attach)
    assert code == "47" and "1 of the 2 disks" in why
    host.pull("/dev/sdy")
    code, why = refusal(driver.attach)
    assert code == "47" and "no disk of the volume group" in why
    assert not host.mounted


def test_an_sr_that_a_daemon_left_mounted_is_taken_as_it_is(host: FakeDisks) -> None:
    made_one = made()
    made_one.attach()
    again = sr(made_one.sr_uuid)
    before = len(host.said)
    again.attach()
    assert [words[0] for words in host.said[before:]] == ["lvchange"]


def test_detaching_unmounts_it(host: FakeDisks) -> None:
    driver = made()
    driver.attach()
    driver.detach()
    (group,) = host.groups.values()
    assert not host.mounted and not group.active


def test_one_that_is_in_use_stays_attached(host: FakeDisks) -> None:
    driver = made()
    driver.attach()
    host.failing = "umount"
    assert refusal(driver.detach)[0] == "16"
    assert driver.scan() == []


def test_an_empty_mount_point_is_no_empty_sr(host: FakeDisks, tmp_path: Path) -> None:
    driver = made()
    driver.attach()
    host.run(["umount", str(tmp_path / "sr-mount" / driver.sr_uuid)])
    assert refusal(driver.scan)[0] == refusal(driver.stat)[0] == "47"


def test_probing_free_disks_finds_room_and_others_nothing(host: FakeDisks) -> None:
    (room,) = sr().probe()
    assert (room.configuration, room.complete, room.sr_uuid) == ({"device": BOTH}, True, "")
    assert sr(device="/dev/sdz").probe() == []


def test_probing_one_disk_of_an_sr_names_all_of_them(host: FakeDisks) -> None:
    driver = made()
    (found,) = sr(device="/dev/sdy").probe()
    assert (found.sr_uuid, found.complete) == (driver.sr_uuid, True)
    assert found.configuration == {"device": BOTH}
    host.pull("/dev/sdx")
    (found,) = sr(device="/dev/sdy").probe()
    assert not found.complete
