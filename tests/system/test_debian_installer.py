"""Debian's own installer, begun by eliloader: its kernel, its RAM disk, its questions, and its way to a mirror."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import guests
from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.debian_installer import (
    AGENTS,
    FILES,
    MEMORY,
    PRESEED,
    RELEASES,
    NotToBeHad,
    debian_installer,
)
from harness.repository import ARGUMENTS, DEBIAN, DEBIANLIKE, LIMIT, PATIENCE, Guest, Repository

pytestmark = [pytest.mark.system, pytest.mark.timeout(4 * LIMIT)]

SLOW = 4 * PATIENCE
"""Seconds for what takes one or two minutes on idle cores, where there are some to spare."""
NAT = {
    "ip_begin": "192.168.231.1",
    "ip_end": "192.168.231.254",
    "netmask": "255.255.255.0",
    "nat": "true",
}


@pytest.fixture(scope="module")
def archive(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """A mirror of Debian's archive, as far as an installer goes that finds out what there is to install."""
    try:
        installer = debian_installer()
    except NotToBeHad as why:
        pytest.skip(f"Debian's installer cannot be had: {why}")
    made = Repository(tmp_path_factory.mktemp("archive"), daemon.host.gateway)
    for name in FILES:
        made.put(f"debian/{DEBIAN}/netboot/debian-installer/amd64/{name}", installer / name)
    made.sums(f"debian/{DEBIAN}")
    for path, text in RELEASES.items():
        made.put(f"debian/{path}", text.encode())
    made.put("preseed.cfg", PRESEED.format(mirror=made.url.removeprefix("http://")).encode())
    yield made
    made.close()


@pytest.fixture
def patient(daemon: Daemon, client: Client) -> Iterator[Client]:
    """A client that waits while an emulated host fetches and unpacks 50 MB; the other one cleans up."""
    made = daemon.client(timeout=SLOW)
    yield made
    made.close()


def test_debians_installer_is_booted_told_what_to_do_and_asks_its_mirror(
    daemon: Daemon, patient: Client, archive: Repository
) -> None:
    # No screen of its own, so that what it says can be read on the console.
    arguments = (
        f"{ARGUMENTS} DEBIAN_FRONTEND=text auto=true priority=critical hostname=installed domain=test "
        f"preseed/url={archive.url}/preseed.cfg"
    )
    memory = dict.fromkeys(
        ("memory_static_min", "memory_static_max", "memory_dynamic_min", "memory_dynamic_max"), MEMORY
    )
    source = {"install-repository": f"{archive.url}/debian"}
    guest = Guest(daemon, patient, DEBIANLIKE | source, PV_args=arguments, **memory)
    outside = patient(
        "network.create", {"name_label": "outside", "name_description": "", "other_config": NAT}
    )
    guests.add_interface(patient, guest.vm, outside)
    guest.start()
    kernel = f"/debian/{DEBIAN}/netboot/debian-installer/amd64/linux"
    assert archive.agents[kernel] == {"eliloader"}

    guest.says("Configuring the network with DHCP", SLOW)
    asked_by_the_guest(guest, archive, "/preseed.cfg")
    asked_by_the_guest(guest, archive, "/debian/dists/bookworm/Release")
    # It has taken the mirror and goes on to its next part. The archive's signature is not ours to give.
    asked_by_the_guest(guest, archive, "/debian/dists/bookworm/Release.gpg")
    patient("VM.hard_shutdown", guest.vm)


def asked_by_the_guest(guest: Guest, archive: Repository, path: str) -> None:
    """Wait until the installer has asked for a file, with a client of its own."""
    wait_until(
        lambda: path in archive.asked,
        SLOW,
        lambda: f"no {path} in {archive.asked}: {guest.console()[-3000:]}",
    )
    assert all(each.startswith(AGENTS) for each in archive.agents[path]), archive.agents[path]
