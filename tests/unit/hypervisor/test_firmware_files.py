"""The files that guests' firmware keeps: put before a run, taken after it, and not believed."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import pytest

from kronos.hypervisor.firmware_files import FirmwareFiles
from kronos.hypervisor.hardware import Kept
from kronos.system.libvirtd import Estate, estate

UUID = str(uuid4())
BOTH = Kept(b"variables", b"a TPM")


@pytest.fixture
def place(tmp_path: Path) -> Estate:
    settings = tmp_path / "etc"
    settings.mkdir()
    (settings / "qemu.conf").write_text('swtpm_user = "root"\n')
    return Estate(Path("/seen"), tmp_path / "real", settings)


@pytest.fixture
def files(place: Estate) -> FirmwareFiles:
    return FirmwareFiles(place)


def tpm_of(place: Estate) -> Path:
    return place.real / "swtpm" / UUID / "tpm2/tpm2-00.permall"


def test_what_was_put_is_there_and_is_nobody_elses(files: FirmwareFiles, place: Estate) -> None:
    files.put(UUID, BOTH, None)

    assert files.take(UUID) == BOTH
    assert tpm_of(place).stat().st_mode & 0o077 == 0
    assert tpm_of(place).parent.stat().st_mode & 0o077 == 0
    assert files.variables(UUID) == Path(f"/seen/qemu/nvram/{UUID}_VARS.fd")


def test_what_is_not_put_is_begun_anew(files: FirmwareFiles, place: Estate) -> None:
    files.put(UUID, BOTH, None)
    (tpm_of(place).parent / "tpm2-00.volatilestate").touch()
    files.put(UUID, Kept(), None)

    assert files.take(UUID) == Kept()
    assert not tpm_of(place).parent.exists()


def test_a_vm_that_is_no_more_leaves_nothing(files: FirmwareFiles, place: Estate) -> None:
    files.put(UUID, BOTH, None)
    (place.real / f"qemu/nvram/{UUID}_VARS.fd.part").touch()  # of a start that was killed
    files.forget(UUID)
    files.forget(UUID)

    assert [path for path in place.real.rglob("*") if UUID in str(path)] == []


@pytest.mark.parametrize("how", ["symlink", "link", "pipe"])
def test_a_tpm_cannot_show_other_files(files: FirmwareFiles, place: Estate, how: str) -> None:
    files.put(UUID, BOTH, None)
    path, other = tpm_of(place), place.real / "secret"
    other.write_text("of the host")
    path.unlink()
    if how == "symlink":
        path.symlink_to(other)
    elif how == "link":
        path.hardlink_to(other)
    else:
        os.mkfifo(path)

    with pytest.raises(OSError, match="permall"):
        files.take(UUID)


def test_a_libvirt_of_ones_own_has_its_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "host_uuid").touch()
    found = estate(f"qemu:///system?socket={tmp_path}/sock/libvirt-sock")

    assert found == Estate(Path("/var/lib/libvirt"), tmp_path / "lib", tmp_path / "etc")
    assert estate("qemu:///session").tpms == "qemu/swtpm"
