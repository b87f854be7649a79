"""Disks as the real lsblk, wipefs, LVM and kernel show them: on loop devices, without device-mapper."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid as uuids
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kronos.datamodel.errors import Failure
from kronos.storage import registry
from kronos.storage.block import devices, lvm, mounts
from kronos.storage.block.freedom import free_disks, objections
from kronos.storage.block.turn import turn
from kronos.storage.ext import ExtDriver
from kronos.system.commands import CommandFailed

pytestmark = pytest.mark.integration
SIZE = 2 << 30


def run(*argv: str, given: str = "") -> str:
    return subprocess.run(
        argv, input=given, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


@pytest.fixture
def attach(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Makes an empty disk, as a loop device."""
    made: list[str] = []

    def disk(*options: str, size: int = SIZE) -> str:
        file = tmp_path / f"disk{len(made)}"
        with file.open("wb") as new:
            new.truncate(size)
        made.append(run("losetup", "--find", "--show", *options, str(file)))
        return made[-1]

    yield disk
    for each in made:
        run("losetup", "--detach", each)


def refusal(device: str) -> str:
    return "; ".join(text for _, text in objections(devices.examine(device)))


def test_an_empty_disk_is_free(attach: Callable[..., str]) -> None:
    device = attach()
    found = devices.examine(device)
    assert (found.path, found.kind, found.size, found.blank) == (device, "loop", SIZE, True)
    assert refusal(device) == ""


def test_the_system_shows_no_loop_device_as_free(attach: Callable[..., str]) -> None:
    assert attach() not in [each.path for each in free_disks()]


@pytest.mark.parametrize(
    "made, word",
    [
        (("mke2fs", "-q", "-t", "ext4"), "has data: ext4"),
        (("mkswap", "-q"), "has data: swap"),
        (("pvcreate", "-q"), "has data: LVM2_member"),
    ],
)
def test_a_disk_with_data_is_not(attach: Callable[..., str], made: tuple[str, ...], word: str) -> None:
    device = attach()
    run(*made, device)
    assert word in refusal(device)


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_a_disk_with_a_partition_table_is_not(attach: Callable[..., str], label: str) -> None:
    device = attach()
    run("sfdisk", "-q", "--no-reread", device, given=f"label: {label}\n")
    assert label in refusal(device)


def test_a_disk_that_is_mounted_is_not(attach: Callable[..., str], tmp_path: Path) -> None:
    device, where = attach(), tmp_path / "mounted"
    where.mkdir()
    run("mke2fs", "-q", "-t", "ext4", device)
    run("mount", device, str(where))
    try:
        assert f"is mounted: {where}" in refusal(device)
        assert devices.examine(device).busy
        assert mounts.device_at(where) == mounts.number_of(device)
    finally:
        run("umount", str(where))
    assert mounts.device_at(where) == ""


def test_a_disk_with_data_that_nobody_knows_is_not(attach: Callable[..., str]) -> None:
    device = attach()
    with Path(device).open("r+b") as file:
        file.seek(900_000)
        file.write(b"x")
    assert "unknown kind" in refusal(device)


def test_a_disk_that_cannot_be_written_to_is_not(attach: Callable[..., str]) -> None:
    assert "read-only" in refusal(attach("--read-only"))


def test_a_device_without_medium_is_not() -> None:
    assert "no medium" in refusal(run("losetup", "--find"))


def test_what_is_no_disk_is_named(tmp_path: Path) -> None:
    for path, code in (("/dev/null", 91), ("/dev/there-is-no-such", 19)):
        with pytest.raises(Failure) as refused:
            devices.examine(path)
        assert refused.value.code == f"SR_BACKEND_FAILURE_{code}" and path in refused.value.params[1]


def test_a_group_is_made_of_disks_and_they_are_free_again_after_it(attach: Callable[..., str]) -> None:
    both = [attach(), attach()]
    uuid = str(uuids.uuid4())
    driver = registry.build("ext", uuid, {"device": ",".join(both)})
    assert isinstance(driver, ExtDriver)
    identities = list(driver._identities())
    group = f"XSLocalEXT-{uuid}"
    with turn() as done:
        for device, identity in zip(both, identities, strict=True):
            lvm.make_physical(done, device, identity)
        early = {row.name: (row.uuid, row.group) for row in lvm.physical_volumes(done)}
        assert {device: early[device] for device in both} == {
            device: (identity, "") for device, identity in zip(both, identities, strict=True)
        }
        lvm.make_group(done, group, both)
        members = [row for row in lvm.physical_volumes(done) if row.group == group]
        assert [row.name for row in members] == both and members[0].missing == 0
        assert lvm.logical_volumes(done, group) == {}
    (found,) = driver.probe()
    assert (found.sr_uuid, found.configuration, found.complete) == (uuid, {"device": ",".join(both)}, False)
    driver.discard()
    assert [refusal(device) for device in both] == ["", ""]


def test_disks_that_were_to_become_a_group_are_free_again(attach: Callable[..., str]) -> None:
    """The plug was pulled between the first step and the second."""
    device, somebodys = attach(), attach()
    driver = registry.build("ext", str(uuids.uuid4()), {"device": device})
    assert isinstance(driver, ExtDriver)
    run("pvcreate", "-q", somebodys)
    with turn() as done:
        lvm.make_physical(done, device, next(iter(driver._identities())))
    driver.discard()
    assert refusal(device) == "" and "LVM2_member" in refusal(somebodys)


def test_lvm_itself_refuses_a_disk_that_got_data_meanwhile(attach: Callable[..., str]) -> None:
    device = attach()
    run("mke2fs", "-q", "-t", "ext4", device)
    with turn() as done, pytest.raises(CommandFailed):
        lvm.make_physical(done, device, "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa")
    assert "has data: ext4" in refusal(device)


def test_a_command_keeps_the_turn_when_its_caller_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LVM closes descriptors that it does not know; a sleep that closes them stands for it."""
    monkeypatch.setattr(mounts, "BASE", tmp_path)
    begun, done = tmp_path / "begun", tmp_path / "done"
    command = f'for fd in 3 4 5 6 7 8 9; do eval "exec $fd>&-"; done; touch {begun}; sleep 2; touch {done}'
    script = (
        "from pathlib import Path\n"
        "from kronos.storage.block import mounts, turn\n"
        f"mounts.BASE = Path({str(tmp_path)!r})\n"
        "with turn.turn() as run:\n"
        f"    run(['sh', '-c', {command!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait(10)
    with turn():
        assert done.exists()
