"""Appliances, snapshot schedules, messages, blobs, secrets: with xe, a whole daemon, and a kill in between."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.client import Client
from harness.daemon import Daemon, wait_until

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


@pytest.fixture
def vm(client: Client) -> str:
    """The uuid of a VM that can start, with nothing in it."""
    template = client("VM.get_by_name_label", "Other install media")[0]
    ref = client("VM.clone", template, "shop")
    client("VM.remove_from_other_config", ref, "disks")
    client("VM.provision", ref)
    client("VM.set_memory_limits", ref, *(["67108864"] * 4))
    return str(client("VM.get_uuid", ref))


def test_an_appliance_starts_and_ends_its_vms(daemon: Daemon, client: Client, vm: str) -> None:
    uuid = xe(daemon, "appliance-create", "name-label=shop")
    xe(daemon, "vm-param-set", f"uuid={vm}", f"appliance={uuid}", "order=1")
    xe(daemon, "appliance-start", f"uuid={uuid}")
    assert xe(daemon, "vm-list", f"uuid={vm}", "params=power-state", "--minimal") == "running"
    assert "running" in daemon.virsh("domstate", vm)
    xe(daemon, "appliance-shutdown", f"uuid={uuid}", "--force")
    assert xe(daemon, "vm-list", f"uuid={vm}", "params=power-state", "--minimal") == "halted"
    xe(daemon, "appliance-destroy", f"uuid={uuid}")
    assert xe(daemon, "appliance-list", "--minimal") == ""


def test_a_schedule_survives_a_kill_and_snapshots_its_vms(daemon: Daemon, client: Client, vm: str) -> None:
    words = (
        "name-label=nightly",
        "type=snapshot",
        "frequency=daily",
        "schedule:hour=3",
        "retained-snapshots=2",
    )
    uuid = xe(daemon, "vmss-create", *words)
    xe(daemon, "vm-param-set", f"uuid={vm}", f"snapshot-schedule={uuid}")
    daemon.kill()
    daemon.start()
    assert xe(daemon, "vmss-param-get", f"uuid={uuid}", "param-name=schedule") in (
        "hour: 3; min: 0",
        "min: 0; hour: 3",
    )
    xe(daemon, "vmss-param-set", f"uuid={uuid}", "schedule:hour=4")
    again = daemon.client()
    for _ in range(3):
        again("VMSS.snapshot_now", again("VMSS.get_by_uuid", uuid))
    shown = xe(daemon, "snapshot-list", f"snapshot-of={vm}", "is-vmss-snapshot=true", "--minimal")
    assert len(shown.split(",")) == 2
    assert xe(daemon, "message-list", "name=VMSS_SNAPSHOT_SUCCEEDED", "--minimal").count(",") == 2
    for each in shown.split(","):
        xe(daemon, "snapshot-uninstall", f"uuid={each}", "--force")
    xe(daemon, "vm-param-set", f"uuid={vm}", "snapshot-schedule=")
    xe(daemon, "vmss-destroy", f"uuid={uuid}")
    assert xe(daemon, "message-list", "name=VMSS_SNAPSHOT_SUCCEEDED", "--minimal") == ""
    again.close()


def test_a_message_of_xes_reaches_the_script_and_is_destroyed(
    new_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    heard, script = tmp_path / "heard", tmp_path / "hook"
    script.write_text(f'#!/bin/sh\nprintf %s "$1" > {heard}.new\nmv {heard}.new {heard}\n')
    script.chmod(0o755)
    daemon = new_daemon(message_script=str(script))
    pool = xe(daemon, "pool-list", "--minimal")
    xe(daemon, "message-create", "name=ALARM", "priority=1", f"pool-uuid={pool}", "body=it burns")
    wait_until(heard.exists, 20, "the script was not run")
    assert "<body>it burns</body>" in heard.read_text()
    uuid = xe(daemon, "message-list", "name=ALARM", "--minimal")
    xe(daemon, "message-destroy", f"uuid={uuid}")
    assert xe(daemon, "message-list", "name=ALARM", "--minimal") == ""


def test_a_blob_comes_back_after_a_kill(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    pool, content = xe(daemon, "pool-list", "--minimal"), os.urandom(300_000)
    (tmp_path / "in").write_bytes(content)
    uuid = xe(
        daemon, "blob-create", f"pool-uuid={pool}", "name=notes", "mime-type=text/plain", "public=false"
    )
    xe(daemon, "blob-put", f"uuid={uuid}", f"filename={tmp_path / 'in'}")
    daemon.kill()
    daemon.start()
    xe(daemon, "blob-get", f"uuid={uuid}", f"filename={tmp_path / 'out'}")
    assert (tmp_path / "out").read_bytes() == content
    assert (daemon.state / "blobs" / uuid).stat().st_mode & 0o077 == 0
    again = daemon.client()
    again("blob.destroy", again("blob.get_by_uuid", uuid))
    assert not (daemon.state / "blobs" / uuid).exists()
    again.close()


def test_a_secret_is_kept_and_never_logged(daemon: Daemon, client: Client) -> None:
    uuid = xe(daemon, "secret-create", "value=swordfish")
    assert xe(daemon, "secret-param-get", f"uuid={uuid}", "param-name=value") == "swordfish"
    daemon.kill()
    daemon.start()
    assert xe(daemon, "secret-param-get", f"uuid={uuid}", "param-name=value") == "swordfish"
    xe(daemon, "secret-destroy", f"uuid={uuid}")
    assert "swordfish" not in daemon.log.read_text()


def test_diagnostics_are_this_daemons(daemon: Daemon, client: Client) -> None:
    host = xe(daemon, "host-list", "--minimal")
    xe(daemon, "diagnostic-compact", f"uuid={host}")
    assert "heap_words" in xe(daemon, "diagnostic-gc-stats", f"uuid={host}")
    assert "/jsonrpc" in xe(daemon, "diagnostic-net-stats", f"uuid={host}")
    assert "avgtime" in xe(daemon, "diagnostic-db-stats")


def test_calls_are_observed_by_a_collector_that_is_a_file(daemon: Daemon, client: Client) -> None:
    uuid = xe(daemon, "observer-create", "name-label=traces", "enabled=true", "endpoints=bugtool")
    xe(daemon, "secret-create", "value=swordfish")
    spans = daemon.state / "dt" / "spans.ndjson"
    client("VM.create_new_blob", client("VM.get_all")[0], "traced", "", False)
    wait_until(lambda: spans.exists() and "VM.create_new_blob" in spans.read_text(), 20, "no spans came")
    assert "swordfish" not in spans.read_text()
    xe(daemon, "observer-destroy", f"uuid={uuid}")


def test_callers_are_counted_and_limited_where_a_setting_says_so(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon(rate_limit=True)
    caller = xe(daemon, "caller-create", "name-label=xe", "user-agent=xe*")
    limit = xe(daemon, "rate-limit-create", "name-label=slow", "burst-size=1000", "fill-rate=100")
    xe(daemon, "rate-limit-add-caller", f"uuid={limit}", f"caller-uuid={caller}")
    xe(daemon, "vm-list")
    assert xe(daemon, "caller-list", f"uuid={caller}", "params=user-agent", "--minimal") == "xe*"
    xe(daemon, "rate-limit-destroy", f"uuid={limit}")
    xe(daemon, "caller-destroy", f"uuid={caller}")


def test_the_hosts_devices_and_repositories_are_listed(daemon: Daemon, client: Client) -> None:
    host, pool = xe(daemon, "host-list", "--minimal"), xe(daemon, "pool-list", "--minimal")
    addresses = set(xe(daemon, "pci-list", "params=pci-id", "--minimal").split(",")) - {""}
    assert addresses == {path.name for path in Path("/sys/bus/pci/devices").iterdir()}
    xe(daemon, "pusb-scan", f"host-uuid={host}")
    own = xe(daemon, "repository-list", "params=binary-url", "--minimal")
    assert own in ("file:///etc/apt/", "file:///etc/yum.repos.d/")
    words = ("name-label=more", "binary-url=http://archive.invalid/flat/", "source-url=", "update=false")
    more = xe(daemon, "repository-introduce", *words)
    xe(daemon, "repository-forget", f"uuid={more}")
    assert xe(daemon, "pool-param-get", f"uuid={pool}", "param-name=repositories") != ""


def test_binary_storage_that_is_off_holds_nothing_after_a_kill_either(
    daemon: Daemon, client: Client, tmp_path: Path
) -> None:
    pool, host = xe(daemon, "pool-list", "--minimal"), xe(daemon, "host-list", "--minimal")
    (tmp_path / "in").write_bytes(b"bytes")
    blob = xe(daemon, "blob-create", f"pool-uuid={pool}", "name=note", "mime-type=text/plain")
    xe(daemon, "blob-put", f"uuid={blob}", f"filename={tmp_path / 'in'}")

    def is_written() -> bool:
        client("host.backup_rrds", client("host.get_all")[0], 0.0)
        return any((daemon.state / "metrics").glob("host.*"))

    wait_until(is_written, 30, "no archive was written")
    xe(daemon, "pool-disable-binary-storage")
    daemon.kill()
    daemon.start()
    again = daemon.client()
    again("host.backup_rrds", again("host.get_all")[0], 0.0)
    assert list((daemon.state / "blobs").iterdir()) == list((daemon.state / "metrics").iterdir()) == []
    words = f"uuid={host}", "param-name=other-config", "param-key=no_local_storage"
    assert xe(daemon, "host-param-get", *words) == "true"
    row = again("blob.get_by_uuid", blob)
    assert int(again("blob.get_size", row)) == 0
    xe(daemon, "pool-enable-binary-storage")
    xe(daemon, "blob-put", f"uuid={blob}", f"filename={tmp_path / 'in'}")
    assert (daemon.state / "blobs" / blob).read_bytes() == b"bytes"
    again("blob.destroy", row)
    again.close()


def test_a_dumped_database_is_looked_into(daemon: Daemon, client: Client, vm: str, tmp_path: Path) -> None:
    file = tmp_path / "pool.xml"
    xe(daemon, "pool-dump-database", f"file-name={file}")
    xe(daemon, "vm-param-set", f"uuid={vm}", "name-label=later")
    words = f"uuid={vm}", "params=name-label", "--minimal"
    assert xe(daemon, "vm-list", f"database:filename={file}", *words) == "shop"
    assert xe(daemon, "vm-list", *words) == "later"
    shown = xe(daemon, "vm-param-list", f"uuid={vm}", f"database:filename={file}")
    assert "name-label ( RW): shop" in " ".join(shown.split())
    pool = xe(daemon, "pool-list", "--minimal")
    assert pool in xe(daemon, "pool-list", f"database:filename={file}", "params=all")


def test_a_disk_goes_back_to_its_snapshot_and_a_kill_changes_nothing(
    daemon: Daemon, client: Client, tmp_path: Path
) -> None:
    then, later = os.urandom(1 << 20), os.urandom(1 << 20)
    sr = xe(daemon, "sr-list", "type=file", "--minimal").split(",")[0]
    vdi = xe(daemon, "vdi-create", f"sr-uuid={sr}", "name-label=data", f"virtual-size={len(then)}")

    def put(content: bytes) -> None:
        (tmp_path / "in").write_bytes(content)
        xe(daemon, "vdi-import", f"uuid={vdi}", f"filename={tmp_path / 'in'}", "format=raw")

    def got(uuid: str) -> bytes:
        (tmp_path / "out").unlink(missing_ok=True)
        xe(daemon, "vdi-export", f"uuid={uuid}", f"filename={tmp_path / 'out'}", "format=raw")
        return (tmp_path / "out").read_bytes()

    put(then)
    snapshot = xe(daemon, "vdi-snapshot", f"uuid={vdi}")
    put(later)
    client("VDI.revert", client("VDI.get_by_uuid", snapshot))
    daemon.kill()
    daemon.start()
    assert got(vdi) == then == got(snapshot)
    put(later)
    assert got(snapshot) == then
    for each in (vdi, snapshot):
        xe(daemon, "vdi-destroy", f"uuid={each}")
