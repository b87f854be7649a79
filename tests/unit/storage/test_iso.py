"""A library of ISO images."""

from __future__ import annotations

import uuid as uuids
from pathlib import Path

import pytest

from kronos.datamodel.errors import Failure
from kronos.storage.iso import IsoDriver

SR = str(uuids.uuid4())


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "iso"
    path.mkdir()
    (path / "debian 12: netinst.ISO").write_bytes(bytes(4096))
    (path / "alpine.iso").write_bytes(bytes(2048))
    return path


@pytest.fixture
def driver(library: Path) -> IsoDriver:
    made = IsoDriver(SR, location=str(library), legacy_mode="true")
    made.create(0)
    made.attach()
    return made


def test_images_are_read_only_disks_named_by_their_files(driver: IsoDriver) -> None:
    found = {each.name_label: each for each in driver.scan()}
    assert found.keys() == {"alpine.iso", "debian 12: netinst.ISO"}
    alpine = found["alpine.iso"]
    assert alpine.location == "alpine.iso" and alpine.virtual_size == 2048 and alpine.read_only
    assert driver.volume(alpine.uuid) == alpine
    assert driver.stat().virtual_allocation == 6144


def test_uuids_are_the_same_on_every_host(driver: IsoDriver, library: Path) -> None:
    other = IsoDriver(SR, location=str(library))
    other.attach()
    assert other.scan() == driver.scan()


def test_an_image_is_attached_for_reading_alone(driver: IsoDriver, library: Path) -> None:
    (first, _) = driver.scan()
    attachment = driver.volume_attach(first.uuid, False)
    assert attachment.path == library / first.location
    assert (attachment.format, attachment.read_only) == ("raw", True)
    driver.volume_detach(first.uuid)
    with pytest.raises(Failure, match="VDI_READONLY"):
        driver.volume_attach(first.uuid, True)


def test_only_iso_files_within_the_library_are_shown(driver: IsoDriver, library: Path) -> None:
    outside = library.parent / "secret.iso"
    outside.write_bytes(b"x")
    (library / "link.iso").symlink_to(outside)
    (library / "loop.iso").symlink_to("loop.iso")
    (library / "good link.iso").symlink_to("alpine.iso")
    (library / ".hidden.iso").touch()
    (library / "notes.txt").touch()
    (library / "directory.iso").mkdir()
    names = {each.location for each in driver.scan()}
    assert names == {"alpine.iso", "debian 12: netinst.ISO", "good link.iso"}


@pytest.mark.parametrize(
    "location", ["", "..", "../secret.iso", "/etc/passwd", "nothing.iso", "a\nb.iso", "\0.iso"]
)
def test_only_what_is_in_the_library_can_be_introduced(driver: IsoDriver, location: str) -> None:
    with pytest.raises(Failure, match="VDI_LOCATION_MISSING"):
        driver.volume_introduce(SR, location)


def test_a_forgotten_image_is_introduced_again(driver: IsoDriver) -> None:
    (first, second) = driver.scan()
    assert driver.volume_introduce(first.uuid, first.location) == first
    with pytest.raises(Failure, match="LOCATION_NOT_UNIQUE"):
        driver.volume_introduce(second.uuid, first.location)


def test_destroying_the_sr_keeps_the_images(driver: IsoDriver, library: Path) -> None:
    driver.destroy()
    assert len(list(library.iterdir())) == 2
    with pytest.raises(Failure, match="SR_NOT_ATTACHED"):
        driver.scan()


def test_disks_cannot_be_made(driver: IsoDriver) -> None:
    with pytest.raises(Failure) as caught:
        driver.volume_create(SR, 512)
    assert caught.value.description == ["SR_OPERATION_NOT_SUPPORTED", SR]


def test_a_library_that_is_not_there_is_not_attached(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="SR_BACKEND_FAILURE_226"):
        IsoDriver(SR, location=str(tmp_path / "nothing")).attach()
