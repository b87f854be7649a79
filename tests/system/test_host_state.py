"""A host's state, with xe and a whole daemon: its database and itself brought back, and a report of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.client import Client
from harness.daemon import Daemon
from kronos import __version__

pytestmark = pytest.mark.system

XE = Path(__file__).resolve().parents[2] / "src/kronos/xe/xe"


def xe(daemon: Daemon, *words: str) -> str:
    """What a user of the command line is told."""
    environment = {"XAPI_SOCKET": str(daemon.socket), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, XE, *words], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout.strip()


@pytest.mark.parametrize("how", ["dump", "backup"])
def test_a_restored_host_has_its_vms_again_and_they_ran_on(
    new_daemon: Callable[..., Daemon], tmp_path: Path, how: str
) -> None:
    daemon = new_daemon()
    client = daemon.client()
    host = client("host.get_uuid", client("host.get_all")[0])
    template = client("VM.get_by_name_label", "Other install media")[0]
    ref = client("VM.clone", template, "precious")
    client("VM.remove_from_other_config", ref, "disks")
    client("VM.provision", ref)
    client("VM.set_memory_limits", ref, *(["67108864"] * 4))
    client("VM.start", ref, False, False)
    uuid = str(client("VM.get_uuid", ref))
    file = tmp_path / "copy"
    if how == "dump":
        xe(daemon, "pool-dump-database", f"file-name={file}")
        restore = ("pool-restore-database", f"file-name={file}", "--force")
    else:
        xe(daemon, "host-backup", f"uuid={host}", f"file-name={file}")
        restore = ("host-restore", f"uuid={host}", f"file-name={file}")
    before = daemon.guest_pids()[uuid]
    client("VM.set_name_label", ref, "renamed since")
    client("pool.set_name_label", client("pool.get_all")[0], "renamed too")

    xe(daemon, *restore)
    assert xe(daemon, "vm-list", f"uuid={uuid}", "params=name-label", "--minimal") == "renamed since"
    daemon.restart()

    assert xe(daemon, "vm-list", f"uuid={uuid}", "params=name-label", "--minimal") == "precious"
    assert xe(daemon, "vm-list", f"uuid={uuid}", "params=power-state", "--minimal") == "running"
    assert daemon.guest_pids()[uuid] == before
    assert xe(daemon, "pool-list", "params=name-label", "--minimal") == ""
    assert xe(daemon, "host-list", "--minimal") == host
    assert (daemon.state / "state.db.before-restore").exists()
    xe(daemon, "vm-shutdown", f"uuid={uuid}", "--force")


def test_a_restoration_that_was_prepared_survives_a_kill(
    new_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_daemon()
    file = tmp_path / "copy"
    xe(daemon, "pool-dump-database", f"file-name={file}")
    pool = xe(daemon, "pool-list", "--minimal")
    xe(daemon, "pool-param-set", f"uuid={pool}", "name-label=changed")
    xe(daemon, "pool-restore-database", f"file-name={file}", "--force")
    daemon.kill()
    daemon.start()
    assert xe(daemon, "pool-list", "params=name-label", "--minimal") == ""


def test_a_report_holds_the_database_without_its_secrets(
    daemon: Daemon, client: Client, tmp_path: Path
) -> None:
    xe(daemon, "secret-create", "value=hunter2")
    host = xe(daemon, "host-list", "--minimal")
    file = tmp_path / "report.tar.bz2"
    xe(
        daemon,
        "host-get-system-status",
        f"uuid={host}",
        f"filename={file}",
        "output=tar.bz2",
        "entries=xapi-database,network-status",
    )
    with tarfile.open(file) as archive:
        files = {entry.name.partition("/")[2]: archive.extractfile(entry).read() for entry in archive}
    assert host.encode() in files["xapi-database/state.xml"]
    assert b"hunter2" not in files["xapi-database/state.xml"]
    assert b"lo" in files["network-status/addresses"]


def test_a_host_is_the_product_that_its_settings_name(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon(product_brand="XenServer", product_version="8.2.50")
    host = xe(daemon, "host-list", "--minimal")

    def said(key: str) -> str:
        words = (f"uuid={host}", "param-name=software-version", f"param-key={key}")
        return xe(daemon, "host-param-get", *words)

    assert (said("product_brand"), said("product_version"), said("platform_name")) == (
        "XenServer",
        "8.2.50",
        "XCP",
    )
    assert said("kronos") == __version__
    inventory = (daemon.state / "inventory").read_text()
    assert "PRODUCT_BRAND='XenServer'" in inventory and "PRODUCT_VERSION='8.2.50'" in inventory
