"""Which disks may become part of an SR: those that nobody has written anything to."""

from __future__ import annotations

from typing import Any

import pytest

from harness.fake_disks import FakeDisk, FakeDisks
from kronos.datamodel.errors import Failure
from kronos.storage.block.devices import BEGINNING, Disk, is_blank
from kronos.storage.block.freedom import SMALLEST, check, free_disks, objections

GIB = 1 << 30


def disk(**facts: Any) -> Disk:
    return Disk(**{"name": "/dev/sdb", "path": "/dev/sdb", "kind": "disk", "size": 8 * GIB, **facts})


@pytest.mark.parametrize("kind", ["disk", "part", "loop"])
def test_a_disk_on_which_there_is_nothing_is_free(kind: str) -> None:
    assert objections(disk(kind=kind)) == []


def test_a_removable_disk_is_free_for_who_names_it() -> None:
    assert objections(disk(removable=True)) == []


@pytest.mark.parametrize(
    "facts, code, word",
    [
        ({"signatures": ("gpt", "PMBR")}, 16, "gpt, PMBR"),
        ({"signatures": ("ext4",)}, 16, "ext4"),
        ({"signatures": ("LVM2_member",)}, 16, "LVM2_member"),
        ({"signatures": ("mpath_member",)}, 16, "mpath_member"),
        ({"made_of_it": ("/dev/md0 (raid1)",)}, 16, "md0"),
        ({"made_of_it": ("/dev/sdb1 (part)",)}, 16, "sdb1"),
        ({"mounted": ("/srv",), "busy": True}, 16, "/srv"),
        ({"mounted": ("[SWAP]",), "busy": True}, 16, "SWAP"),
        ({"busy": True}, 16, "another program"),
        ({"blank": False}, 16, "unknown kind"),
        ({"unreadable": "wipefs exited with 1"}, 16, "wipefs"),
        ({"mounted": ("/boot", "/")}, 105, "system"),
        ({"size": 0}, 91, "medium"),
        ({"size": SMALLEST - 1}, 44, "bytes"),
        ({"read_only": True}, 91, "read-only"),
        ({"kind": "rom"}, 91, "rom"),
        ({"kind": "lvm"}, 91, "lvm"),
        ({"kind": "mpath"}, 91, "mpath"),
    ],
)
def test_a_disk_in_use_or_with_data_is_refused(facts: dict[str, Any], code: int, word: str) -> None:
    with pytest.raises(Failure) as refused:
        check([disk(**facts)])
    assert refused.value.code == f"SR_BACKEND_FAILURE_{code}"
    first, reason, last = refused.value.params
    assert "/dev/sdb" in reason and word in reason and first == last == ""


def test_every_disk_that_is_not_free_is_told_of() -> None:
    with pytest.raises(Failure) as refused:
        check(
            [disk(signatures=("gpt",)), disk(name="/dev/sdc", path="/dev/sdc"), disk(path="/dev/sdd", size=0)]
        )
    assert "/dev/sdb has data: gpt; /dev/sdb has no medium" in refused.value.params[1]


def test_a_disk_under_two_names_is_listed_once_too_often() -> None:
    with pytest.raises(Failure) as refused:
        check([disk(), disk(name="/dev/disk/by-id/wwn-1")])
    assert "/dev/disk/by-id/wwn-1 is /dev/sdb once more" in refused.value.params[1]


def test_a_disk_that_two_paths_lead_to_is_one() -> None:
    with pytest.raises(Failure) as refused:
        check([disk(number="0x5000"), disk(name="/dev/sdc", path="/dev/sdc", number="0x5000")])
    assert "/dev/sdc is /dev/sdb once more" in refused.value.params[1]
    check([disk(number="0x5000"), disk(name="/dev/sdc", path="/dev/sdc", number="0x5001")])
    check([disk(), disk(name="/dev/sdc", path="/dev/sdc")])


PHYSICAL = bytes(4096) + b"\1\2\3\4 LVM2 x[5A%r0N*>" + b"group {"


@pytest.mark.parametrize(
    "beginning, blank",
    [
        (bytes(BEGINNING), True),
        (b"", True),
        (PHYSICAL, True),
        (bytes(BEGINNING - 1) + b"\1", False),
        (b"\1" + bytes(BEGINNING), False),
        (bytes(512) + b"LABELONE" + PHYSICAL[520:], False),
        (bytes(4096) + b"\1\2\3\4 something else", False),
    ],
)
def test_nothing_at_the_beginning_is_zeros_or_what_pvremove_leaves(beginning: bytes, blank: bool) -> None:
    assert is_blank(beginning) is blank


def test_free_disks_are_whole_ones_without_data_that_stay(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeDisks(
        tmp_path,
        monkeypatch,
        sda=FakeDisk(mounted=("/",), children=(("/dev/sda1", "part"),)),
        sdb=FakeDisk(model="GOOD  ONE "),
        sdc=FakeDisk(removable=True),
        sdd=FakeDisk(signatures=("ext4",)),
        sr0=FakeDisk(kind="rom"),
        loop0=FakeDisk(kind="loop"),
        sde=FakeDisk(size=0),
        sdf=FakeDisk(identity="x"),
        sdg=FakeDisk(number="0x5000"),
        sdh=FakeDisk(number="0x5000"),
    )
    assert [(each.path, each.size, each.model) for each in free_disks()] == [
        ("/dev/sdb", 8 * GIB, "GOOD ONE")
    ]
