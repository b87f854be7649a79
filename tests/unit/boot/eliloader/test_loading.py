"""From a plan to files: what is asked of the disk's reader and of the worker, and what is made of their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kronos.boot.eliloader import loading, medium, plan, sandbox
from kronos.boot.eliloader.loading import Circumstances, Image
from kronos.boot.eliloader.plan import Candidate
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.guest_disk import loader as guest_disk
from kronos.boot.guest_disk.loader import BootUnreadable, Loaded

SUSE = {"install-distro": "sleslike", "install-arch": "x86_64", "install-round": "2"}
DISK = Image(Path("/disk"), "qcow2")


class Disk:
    """A guest's disk, read: `boots` maps PV_bootloader_args to the arguments of what is found by them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, boots: dict[str, str]) -> None:
        self.asked: list[str] = []
        self.boots = boots
        monkeypatch.setattr(guest_disk, "load", self.load)

    def load(self, image: Path, form: str, destination: Path, *, arguments: str = "") -> Loaded:
        assert list(destination.iterdir()) == [], "the reader wants an empty directory"
        (destination / "half").write_bytes(b"")
        self.asked.append(arguments)
        if arguments not in self.boots:
            raise BootUnreadable("no configuration")
        return Loaded(destination / "k", None, self.boots[arguments])


class Worker:
    """What the sandbox is ordered to do, and its answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answer: Any) -> None:
        self.orders: list[dict[str, Any]] = []
        self.answer = answer
        monkeypatch.setattr(sandbox, "run", self.run)

    def run(self, order: dict[str, Any], files: Any, seconds: float, on_cancel: Any) -> dict[str, Any]:
        self.orders.append(order)
        return self.answer


def load(other_config: dict[str, str], image: Image | None, out: Path, **circumstances: Any) -> loading.Boot:
    return loading.load(plan.read(other_config), image, out, Circumstances(**circumstances))


# --- the second boot -------------------------------------------------------------------------------------------------


def test_suses_second_boot_goes_by_the_disks_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk(monkeypatch, {"": "root=/dev/xvda2"})
    found = load(SUSE, DISK, tmp_path)
    assert (found.arguments, found.remember, disk.asked) == ("root=/dev/xvda2", "", [""])


def test_without_one_the_usual_places_are_tried_and_what_was_found_is_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = "--kernel /boot/vmlinuz-xen --ramdisk /boot/initrd-xen"
    disk = Disk(monkeypatch, {place: ""})
    assert load(SUSE, DISK, tmp_path).remember == place
    assert disk.asked == ["", "--kernel /vmlinuz-xen --ramdisk /initrd-xen", place]


def test_a_disk_with_nothing_on_it_says_what_was_missed_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Disk(monkeypatch, {})
    with pytest.raises(BootUnreadable, match="no configuration"):
        load(SUSE, DISK, tmp_path)


def test_a_vm_without_a_disk_has_nothing_to_boot(tmp_path: Path) -> None:
    with pytest.raises(InstallFailed) as caught:
        load(SUSE, None, tmp_path)
    assert caught.value.code == "INVALID_SOURCE"


# --- a CD ------------------------------------------------------------------------------------------------------------


def test_a_cd_of_no_known_family_is_booted_as_it_says_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(medium, "take", lambda *cd: None)
    Disk(monkeypatch, {"": "boot=casper"})
    assert load({"install-repository": "cdrom"}, DISK, tmp_path).arguments == "boot=casper"


def test_drivers_are_added_to_a_cds_ramdisk_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def take(path: Path, form: str, candidates: tuple[Candidate, ...], to: Path) -> Candidate:
        (to / "kernel").write_bytes(b"k")
        (to / "ramdisk").write_bytes(b"r")
        return candidates[0]

    monkeypatch.setattr(medium, "take", take)
    worker = Worker(monkeypatch, candidate=0, argument="rdinit=/x", ramdisk=True)
    found = load({"install-repository": "cdrom"}, DISK, tmp_path, wanted=("xen_blkfront",))
    assert found.arguments == "rdinit=/x"
    assert (worker.orders[0]["source"], worker.orders[0]["wanted"]) == (None, ["xen_blkfront"])


# --- the worker ------------------------------------------------------------------------------------------------------

TREE = {"install-repository": "http://me:secret@mirror/el", "install-proxy": "proxy:3128"}


def test_the_worker_is_told_all_that_it_needs_and_its_choice_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = Worker(monkeypatch, candidate=2, argument="", ramdisk=True)
    found = load(TREE, None, tmp_path)
    (order,) = worker.orders
    assert order["source"]["password"] == "secret"
    assert (order["proxy"], order["index"]) == ("proxy:3128", ".treeinfo")
    assert order["candidates"][2] == ("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img")
    assert found.ramdisk == tmp_path / "ramdisk"


def test_a_boot_without_a_ramdisk_has_no_empty_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Worker(monkeypatch, candidate=0, argument="", ramdisk=False)
    own = TREE | {"install-distro": "pygrub", "install-kernel": "linux"}
    assert load(own, None, tmp_path).ramdisk is None
    assert [path.name for path in tmp_path.iterdir()] == ["kernel"]


@pytest.mark.parametrize("choice", [-1, 3, "0", None, 1.0])
def test_a_worker_that_was_taken_over_cannot_choose_what_is_not_offered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, choice: object
) -> None:
    Worker(monkeypatch, candidate=choice, argument="", ramdisk=True)
    with pytest.raises(InstallFailed) as caught:
        load(TREE, None, tmp_path)
    assert caught.value.code == "INTERNAL_ERROR"


@pytest.mark.parametrize(
    ("status", "output", "code"),
    [
        (-9, b"", "INVALID_SOURCE"),
        (1, b"", "INTERNAL_ERROR"),
        (0, b"no JSON", "INTERNAL_ERROR"),
        (0, b"[]", "INTERNAL_ERROR"),
        (0, b'{"error": "INVALID_SOURCE", "params": ["there", "why"]}', "INVALID_SOURCE"),
        (0, b'{"error": "INVALID_SOURCE", "params": 7}', "INVALID_SOURCE"),
    ],
)
def test_however_the_worker_ends_it_is_said(status: int, output: bytes, code: str) -> None:
    with pytest.raises(InstallFailed) as caught:
        sandbox._answer(status, output, b"Traceback")
    assert caught.value.code == code


def test_failures_are_printed_a_line_each() -> None:
    failure = InstallFailed("INVALID_SOURCE", "http://m/x", "two\nlines")
    assert failure.lines == "INVALID_SOURCE\nhttp://m/x\ntwo lines"
