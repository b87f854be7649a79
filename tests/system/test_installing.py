"""Guests that are installed by eliloader and boot from their own disks after that."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import guests
from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.guests import Images
from harness.repository import (
    CONSOLE,
    DEBIAN,
    DEBIANLIKE,
    DISK,
    INSTALLED,
    INSTALLING,
    LIMIT,
    PATIENCE,
    Guest,
    Repository,
    our_repository,
)
from kronos.datamodel.errors import Failure

pytestmark = [pytest.mark.system, pytest.mark.timeout(LIMIT)]


@pytest.fixture(scope="module")
def repository(
    daemon: Daemon, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Repository]:
    with our_repository(daemon, images, tmp_path_factory.mktemp("repository")) as made:
        yield made


def left_behind(daemon: Daemon) -> list[Path]:
    """What loaders left of their work."""
    return list((daemon.state / "boot").glob("*"))


def test_a_guest_installs_itself_reboots_and_boots_from_its_own_disk(
    daemon: Daemon, client: Client, repository: Repository
) -> None:
    guest = Guest(daemon, client, DEBIANLIKE | {"install-repository": repository.url, "mine": "kept"})
    guest.start()
    assert f"console={CONSOLE}" in guest.says(INSTALLING)
    assert left_behind(daemon) == []

    line = guest.says(INSTALLED)
    assert f"root=/dev/{DISK}1" in line, "the arguments of its own boot loader"
    wait_until(lambda: guest.record()["power_state"] == "Running", 60, "it is not shown to run")
    record = guest.record()
    assert record["PV_bootloader"] == "pygrub"
    assert "install-distro" not in record["other_config"]
    assert "install-round" not in record["other_config"]
    assert record["other_config"]["mine"] == "kept"


def test_an_installed_guest_reboots_from_its_disk_whoever_asks(
    daemon: Daemon, client: Client, repository: Repository
) -> None:
    guest = Guest(daemon, client, DEBIANLIKE | {"install-repository": repository.url})
    guest.start()
    guest.says(INSTALLED)
    wait_until(lambda: guest.record()["power_state"] == "Running", 60)
    asked = len(repository.asked)
    runs = [guest.record()["domid"]]

    client("VM.hard_reboot", guest.vm)
    runs.append(guest.record()["domid"])
    guest.says(INSTALLED)
    guest.type("reboot")
    wait_until(lambda: guest.record()["domid"] not in (-1, *runs), PATIENCE, "its own reboot ended it")
    guest.says(INSTALLED)
    assert repository.asked[asked:] == [], "nothing is fetched for a guest that is installed"


def test_an_installed_guest_that_switches_itself_off_stays_off(
    daemon: Daemon, client: Client, repository: Repository
) -> None:
    guest = Guest(daemon, client, DEBIANLIKE | {"install-repository": repository.url})
    guest.start()
    guest.says(INSTALLED)
    wait_until(lambda: guest.record()["power_state"] == "Running", 60)
    guest.type("poweroff")
    wait_until(lambda: guest.record()["power_state"] == "Halted", PATIENCE, "it runs on")
    time.sleep(2)
    assert guest.record()["power_state"] == "Halted"


def test_the_tree_of_an_el_distribution_is_told_where_it_came_from(
    daemon: Daemon, client: Client, repository: Repository
) -> None:
    address = f"{repository.url}/el"
    guest = Guest(daemon, client, {"install-repository": address})
    guest.start()
    line = guest.says(INSTALLING)
    assert f"method={address}/" in line
    assert f"inst.repo={address}/" in line


def test_a_guest_installs_from_a_cd_and_boots_its_first_disk_after_that(
    daemon: Daemon, client: Client, repository: Repository, tmp_path: Path
) -> None:
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-f", "-r", "-J", "-o", tmp_path / "el.iso"]
    subprocess.run([*argv, repository.directory / "el"], check=True, capture_output=True, timeout=60)
    (host,) = client("host.get_all")
    config = {"location": str(tmp_path)}
    library = client("SR.create", host, config, 0, "library", "", "iso", "iso", False, {})
    (cd,) = client("SR.get_VDIs", library)
    guest = Guest(daemon, client, {"install-repository": "cdrom"})
    drive = guests.add_disk(client, guest.vm, cd, "3", type="CD", mode="RO", bootable=True)
    try:
        guest.start()
        assert "method=" not in guest.says(INSTALLING)
        guest.says(INSTALLED)
        root = next(vbd for vbd in client("VM.get_VBDs", guest.vm) if vbd != drive)
        assert [client("VBD.get_bootable", vbd) for vbd in (root, drive)] == [True, False]
        client("VM.hard_shutdown", guest.vm)
    finally:
        client("VBD.destroy", drive)
        for pbd in client("SR.get_PBDs", library):
            client("PBD.unplug", pbd)
        client("SR.forget", library)


def test_a_kernel_that_is_not_the_repositorys_is_refused(
    daemon: Daemon, client: Client, repository: Repository
) -> None:
    sums = repository.directory / DEBIAN / "SHA256SUMS"
    right = sums.read_text()
    sums.write_text("0" * 64 + right[64:])
    guest = Guest(daemon, client, DEBIANLIKE | {"install-repository": repository.url})
    try:
        with pytest.raises(Failure) as caught:
            guest.start()
    finally:
        sums.write_text(right)
    assert caught.value.code == "BOOTLOADER_FAILED"
    assert caught.value.params[0] == guest.vm
    assert caught.value.params[1].startswith("INVALID_SOURCE\n")
    record = guest.record()
    assert (record["power_state"], record["PV_bootloader"]) == ("Halted", "eliloader")
    assert left_behind(daemon) == []


def test_a_guest_without_an_installation_source_does_not_start(daemon: Daemon, client: Client) -> None:
    guest = Guest(daemon, client, DEBIANLIKE)
    with pytest.raises(Failure) as caught:
        guest.start()
    assert caught.value.params[1].startswith("UNSUPPORTED_INSTALL_METHOD\n")


def test_an_empty_disk_cannot_be_booted_by_pygrub(daemon: Daemon, client: Client) -> None:
    guest = Guest(daemon, client, {}, PV_bootloader="/usr/bin/pygrub")
    with pytest.raises(Failure, match="BOOTLOADER_FAILED"):
        guest.start()


def test_an_installed_guest_is_suspended_and_goes_on(
    daemon: Daemon, client: Client, repository: Repository
) -> None:
    guest = Guest(daemon, client, DEBIANLIKE | {"install-repository": repository.url})
    guest.start()
    guest.says(INSTALLED)
    wait_until(lambda: guest.record()["power_state"] == "Running", 60)
    client("VM.suspend", guest.vm)
    client("VM.resume", guest.vm, False, False)
    assert guest.record()["PV_bootloader"] == "pygrub"
    guest.type("poweroff")
    wait_until(lambda: guest.record()["power_state"] == "Halted", PATIENCE, "it hears nothing")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_installation_outlives_the_daemon(
    daemon: Daemon, client: Client, repository: Repository, end: str
) -> None:
    guest = Guest(daemon, client, DEBIANLIKE | {"install-repository": repository.url})
    client("VM.start", guest.vm, True, False)
    getattr(daemon, end)()
    daemon.start()
    client = guest.client = daemon.client()
    client("VM.unpause", guest.vm)
    guest.says(INSTALLED)
    client.close()


def test_a_reboot_is_taken_up_by_a_daemon_that_was_killed_in_it(
    daemon: Daemon, client: Client, repository: Repository
) -> None:
    guest = Guest(daemon, client, DEBIANLIKE | {"install-repository": repository.url})
    guest.start()
    intents = daemon.state / "intents"
    wait_until(lambda: list(intents.glob("boot-again-*")), PATIENCE, "no reboot", pause=0.002)
    daemon.kill()
    daemon.start()
    client = guest.client = daemon.client()
    guest.says(INSTALLED)
    wait_until(lambda: guest.record()["power_state"] == "Running", 60)
    wait_until(lambda: not list(intents.glob("boot-again-*")), 60, "the intent stays")
    client.close()


# --- the program by itself -------------------------------------------------------------------------------------------


def eliloader(daemon: Daemon, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "kronos.boot.eliloader", "--socket", daemon.socket, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


def test_the_program_prints_what_to_boot_and_notes_that_it_was_done(
    daemon: Daemon, client: Client, repository: Repository, images: Images
) -> None:
    guest = Guest(daemon, client, {"install-repository": f"{repository.url}/el", "install-distro": "rhlike"})
    done = eliloader(daemon, "-q", f"--vm={guest.uuid}", "--extra_args=quiet ks=http://me/", "/dev/null")
    assert done.returncode == 0, done.stderr
    match = re.fullmatch(r'linux \(kernel (\S+)\)\(ramdisk (\S+)\)\(args "(.*)"\)\n', done.stdout)
    assert match is not None, done.stdout
    kernel, ramdisk = Path(match[1]), Path(match[2])
    assert kernel.read_bytes() == images.tiny.kernel.read_bytes()
    assert match[3].startswith("quiet ks=http://me/ method=")
    kernel.unlink()
    ramdisk.unlink()
    assert guest.record()["PV_bootloader"] == "pygrub"
    assert "install-distro" not in guest.record()["other_config"]


def test_the_programs_errors_are_xenapis_and_its_status_says_whose_they_are(
    daemon: Daemon, client: Client
) -> None:
    nothing = Guest(daemon, client, {})
    done = eliloader(daemon, f"--vm={nothing.uuid}", "/dev/null")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "UNSUPPORTED_INSTALL_METHOD")
    unknown = eliloader(daemon, "--vm=00000000-0000-0000-0000-000000000000", "/dev/null")
    assert (unknown.returncode, unknown.stderr.splitlines()[0]) == (1, "UUID_INVALID")
    assert eliloader(daemon, "/dev/null").returncode == 2
    second = Guest(daemon, client, {"install-distro": "sleslike", "install-round": "2"})
    assert eliloader(daemon, f"--vm={second.uuid}", "/dev/null").returncode == 3
