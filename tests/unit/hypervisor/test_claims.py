"""Links that say where a disk's top is, and who uses which image."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import Limits
from kronos.hypervisor.claims import Claims, beneath


@dataclass
class Place:
    directory: Path
    running: set[str] = field(default_factory=set)

    def claims(self) -> Claims:
        """A daemon's; another call is another daemon, after a restart."""
        run = self.directory / "run"
        return Claims(run, lambda uuid: run / uuid, lambda uuid: uuid in self.running)

    def image(self, name: str, backing: str = "") -> Path:
        path = self.directory / name
        options = ["-u", "-b", backing, "-F", "qcow2"] if backing else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "1M"], check=True)
        return path

    def vm(self) -> str:
        uuid = str(uuid4())
        self.running.add(uuid)
        return uuid


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_disks_name_stays_when_its_top_changes(place: Place) -> None:
    claims, vm = place.claims(), place.vm()
    base = place.image("base.qcow2")
    name = claims.claim(vm, "xvda", base, "write")
    assert name.resolve() == base

    top = place.image("top.qcow2", "base.qcow2")
    assert claims.flip(vm, "xvda", top) == base

    assert claims.source(vm, "xvda") == name
    assert name.resolve() == claims.top(vm, "xvda") == top
    # QEMU looks for what is beneath where it found the top.
    assert (name.parent / "base.qcow2").resolve() == base


def test_links_to_what_is_no_longer_beneath_are_tidied_away(place: Place) -> None:
    claims, vm = place.claims(), place.vm()
    base = place.image("base.qcow2")
    claims.claim(vm, "xvda", place.image("top.qcow2", "base.qcow2"), "write")
    claims.flip(vm, "xvda", base)

    claims.tidy(vm, "xvda")

    assert not (claims.source(vm, "xvda").parent / "base.qcow2").is_symlink()


def test_an_image_that_is_written_is_nobody_elses(place: Place) -> None:
    claims = place.claims()
    base, top = place.image("base.qcow2"), place.image("top.qcow2", "base.qcow2")
    claims.claim(place.vm(), "xvda", top, "write")

    for image, mode in ((top, "write"), (top, "read"), (base, "write"), (top, "shared")):
        with pytest.raises(Failure, match="is in use by VM"):
            claims.claim(place.vm(), "xvda", image, mode)  # type: ignore[arg-type]


def test_what_is_written_may_not_come_beneath_another(place: Place) -> None:
    claims = place.claims()
    claims.claim(place.vm(), "xvda", place.image("base.qcow2"), "write")

    with pytest.raises(Failure, match="is in use by VM"):
        claims.claim(place.vm(), "xvda", place.image("top.qcow2", "base.qcow2"), "write")


@pytest.mark.parametrize("mode", ["read", "shared"])
def test_readers_and_those_who_agreed_to_share_may_be_many(place: Place, mode: str) -> None:
    claims, image = place.claims(), place.image("one.qcow2")

    for _ in range(3):
        claims.claim(place.vm(), "xvda", image, mode)  # type: ignore[arg-type]


def test_clones_share_what_is_beneath(place: Place) -> None:
    claims = place.claims()
    place.image("base.qcow2")

    for name in ("one.qcow2", "two.qcow2"):
        claims.claim(place.vm(), "xvda", place.image(name, "base.qcow2"), "write")


def test_a_layer_that_another_disk_reads_is_not_to_be_merged_into(place: Place) -> None:
    claims, vm = place.claims(), place.vm()
    base = place.image("base.qcow2")
    claims.claim(vm, "xvda", place.image("one.qcow2", "base.qcow2"), "write")
    claims.check_merge(vm, "xvda", base)
    claims.claim(place.vm(), "xvda", place.image("two.qcow2", "base.qcow2"), "write")

    with pytest.raises(Failure, match="is in use by VM"):
        claims.check_merge(vm, "xvda", base)


def test_one_image_is_not_two_disks_of_a_vm(place: Place) -> None:
    claims, vm, image = place.claims(), place.vm(), place.image("one.qcow2")
    claims.claim(vm, "xvda", image, "write")

    with pytest.raises(Failure, match="is in use by VM"):
        claims.claim(vm, "xvdb", image, "write")
    claims.claim(vm, "xvda", image, "write")  # the same disk again: its VM starts anew


def test_a_claim_outlives_the_daemon_but_not_its_vm(place: Place) -> None:
    vm, image = place.vm(), place.image("one.qcow2")
    place.claims().claim(vm, "xvda", image, "write")

    with pytest.raises(Failure, match="is in use by VM"):
        place.claims().claim(place.vm(), "xvda", image, "write")
    place.running.discard(vm)
    place.claims().claim(place.vm(), "xvda", image, "write")

    assert place.claims().targets(vm) == []


def test_a_vm_that_is_about_to_start_has_its_images_already(place: Place) -> None:
    claims, image = place.claims(), place.image("one.qcow2")
    starting = str(uuid4())
    claims.claim(starting, "xvda", image, "write")

    with pytest.raises(Failure, match="is in use by VM"):
        claims.claim(place.vm(), "xvda", image, "write")
    claims.release_all(starting)
    claims.claim(place.vm(), "xvda", image, "write")


@pytest.mark.parametrize("name", ["../base.qcow2", "nbd:host:1", "top", "mode", ".."])
def test_a_name_that_leads_elsewhere_is_refused(place: Place, name: str) -> None:
    image = place.image("odd.qcow2", name)

    with pytest.raises(Failure, match="unusable backing file"):
        place.claims().claim(place.vm(), "xvda", image, "write")


def test_a_chain_without_an_end_is_refused(place: Place) -> None:
    place.image("one.qcow2", "two.qcow2")
    image = place.image("two.qcow2", "one.qcow2")

    with pytest.raises(Failure, match="endless chain"):
        place.claims().claim(place.vm(), "xvda", image, "write")


def test_what_a_guest_wrote_at_the_start_of_a_raw_disk_is_no_header(place: Place) -> None:
    raw = place.directory / "disk.raw"
    raw.write_bytes(place.image("trap.qcow2", "/etc/shadow").read_bytes())
    top = place.image("top.qcow2", "disk.raw")

    place.claims().claim(place.vm(), "xvda", raw, "write", form="raw")

    assert beneath(top) == [("disk.raw", raw)]


def test_an_image_that_is_not_there_is_told(place: Place) -> None:
    with pytest.raises(Failure, match="No such file"):
        place.claims().claim(place.vm(), "xvda", place.directory / "none.qcow2", "write")


def test_the_limits_of_a_disk_are_known_to_the_next_daemon_until_the_disk_is_gone(place: Place) -> None:
    vm = place.vm()
    place.claims().claim(vm, "xvda", place.image("base.qcow2"), "write")
    place.claims().keep_limits(vm, "xvda", Limits(bytes_per_second=1 << 20, requests_per_second=5))
    assert place.claims().limits(vm) == {"xvda": Limits(1 << 20, 5)}
    place.claims().keep_limits(vm, "xvda", Limits())
    assert place.claims().limits(vm) == {}

    place.claims().keep_limits(vm, "xvda", Limits(requests_per_second=5))
    place.claims().release(vm, "xvda")
    assert place.claims().limits(vm) == {}
    assert place.claims().targets(vm) == []


def test_limits_are_no_image(place: Place) -> None:
    one, other, image = place.vm(), place.vm(), place.image("base.qcow2")
    claims = place.claims()
    claims.claim(one, "xvda", image, "write")
    claims.keep_limits(one, "xvda", Limits(requests_per_second=5))
    with pytest.raises(Failure, match="in use by VM"):
        claims.claim(other, "xvda", image, "write")
    claims.claim(other, "xvda", place.image("another.qcow2"), "write")
