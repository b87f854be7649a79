"""A guest that eliloader installs while no daemon runs: Xen keeps it until somebody has seen why it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.guests import Images
from harness.repository import (
    DEBIANLIKE,
    INSTALLED,
    INSTALLING,
    LIMIT,
    PATIENCE,
    Guest,
    Repository,
    our_repository,
)
from harness.xen.guest import xl

pytestmark = [pytest.mark.system, pytest.mark.timeout(LIMIT)]


@pytest.fixture
def repository(daemon: Daemon, images: Images, tmp_path: Path) -> Iterator[Repository]:
    with our_repository(daemon, images, tmp_path) as made:
        yield made


def test_a_guest_that_reboots_while_no_daemon_runs_is_booted_again_by_the_next(
    daemon: Daemon, client: Client, repository: Repository
) -> None:
    guest = Guest(daemon, client, DEBIANLIKE | {"install-repository": repository.url})
    guest.start()
    guest.says(INSTALLING)
    domid = str(guest.record()["domid"])
    daemon.kill()
    wait_until(_shut_down(domid), PATIENCE, lambda: xl("list"))
    daemon.start()
    guest.client = daemon.client()
    guest.says(INSTALLED)
    wait_until(lambda: guest.record()["power_state"] == "Running", 10)
    assert guest.record()["PV_bootloader"] == "pygrub"
    guest.client.close()


def _shut_down(domid: str) -> Callable[[], bool]:
    """Whether Xen holds a domain that has ended."""
    return lambda: "s" in xl("list", domid).splitlines()[-1].split()[-2]
