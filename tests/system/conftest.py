"""Whole daemons on hosts of their own, with real guests. Needs root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from harness import host as hosts
from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.guests import Images
from harness.host import Host
from harness.xen import control_domain
from harness.xen.control_domain import ControlDomain
from kronos.datamodel.errors import Failure

# What is in there needs real Xen.
collect_ignore = [] if control_domain.here() else ["xen"]


@pytest.fixture(scope="session")
def images() -> Images:
    if os.geteuid() != 0:
        pytest.skip("hosts of one's own need root")
    if not control_domain.here():
        hosts.sweep()
    return Images()


@pytest.fixture(scope="module")
def new_daemon(images: Images) -> Iterator[Callable[..., Daemon]]:
    """Makes a daemon on a host of its own, started; `start=False` leaves that to the test."""
    with contextlib.ExitStack() as undo:

        def make(*, start: bool = True, **settings: str | int | bool) -> Daemon:
            host = ControlDomain() if control_domain.here() else Host()
            undo.callback(host.close)
            daemon = Daemon(host, images, **settings)
            undo.callback(daemon.close)
            return daemon.start() if start else daemon

        yield make


@pytest.fixture(scope="module")
def daemon(new_daemon: Callable[..., Daemon]) -> Daemon:
    """The daemon that the tests of a module share."""
    return new_daemon()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client of the shared daemon; the VMs and VDIs that the test leaves behind are removed."""
    client = daemon.client()
    before = {name: set(client(f"{name}.get_all")) for name in ("VM", "VDI", "network")}
    yield client
    daemon_client = daemon.client()
    clean_up(daemon_client, before)
    daemon_client.close()
    client.close()


def clean_up(client: Client, before: dict[str, set[str]]) -> None:
    """Destroy the VMs, VDIs and networks that were not there `before`."""
    for vm in set(client("VM.get_all")) - before["VM"]:
        with contextlib.suppress(Failure):
            client("VM.hard_shutdown", vm)
        client("VM.destroy", vm)
    managed = {ref: row["managed"] for ref, row in client("VDI.get_all_records").items()}
    for name in ("VDI", "network"):
        # What disks share goes when the last of them does.
        for ref in sorted(
            set(client(f"{name}.get_all")) - before[name], key=lambda ref: not managed.get(ref)
        ):
            wait_until(lambda ref=ref, name=name: _gone(client, name, ref), 60, f"{name} {ref} stays")


def _gone(client: Client, name: str, ref: str) -> bool:
    try:
        client(f"{name}.destroy", ref)
    except Failure as failure:
        return failure.code == "HANDLE_INVALID"
    return True
