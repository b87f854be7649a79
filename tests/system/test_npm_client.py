"""The client of Xen Orchestra (npm's xen-api), as it comes from its package, on both of its transports."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from harness.client import Client
from harness.daemon import Daemon
from harness.guests import add_disk, default_sr, new_disk, vm_record
from harness.host import PASSWORD
from harness.transfer import filled, pattern

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

CLIENTS = Path(__file__).resolve().parents[1] / "clients-npm"


@pytest.fixture(scope="module")
def installed() -> Path:
    """The clients of package.json, in the versions of its lock file."""
    stamp = CLIENTS / "node_modules" / ".package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < (CLIENTS / "package-lock.json").stat().st_mtime:
        done = subprocess.run(["npm", "ci"], cwd=CLIENTS, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
    return CLIENTS


@pytest.mark.parametrize(
    ("scheme", "transport"),
    [("https", "auto"), ("https", "xml-rpc"), ("http", "json-rpc"), ("http", "xml-rpc")],
)
def test_it_lists_follows_starts_and_stops(
    installed: Path, client: Client, daemon: Daemon, scheme: str, transport: str
) -> None:
    vm = client("VM.create", vm_record(daemon.state, "started by xen-api"))
    task = {
        "url": f"{scheme}://{daemon.host.address}",
        "user": "root",
        "password": PASSWORD,
        "transport": transport,
        "vm": vm,
    }
    argv = ["node", "exercise.mjs", json.dumps(task)]
    done = subprocess.run(argv, cwd=installed, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])

    assert len(seen["records"]) > 55
    assert seen["records"]["host"] == 1
    assert seen["records"]["VM"] > 20  # the templates
    assert {"VM", "host", "pool", "SR", "network", "VM_metrics"} <= set(seen["fetched"])
    assert seen["description"] == f"seen by {transport}"
    assert seen["states"] == ["Halted", "Running", "Halted"]
    assert int(seen["domid"]) > 0
    assert seen["cloneLabel"] == "a clone"
    assert seen["error"] == {"code": "HANDLE_INVALID", "params": ["VM", "OpaqueRef:nothing"]}
    assert done.stderr == ""


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_it_moves_disks_and_vms(installed: Path, client: Client, daemon: Daemon, scheme: str) -> None:
    disk = filled(daemon, client, pattern())
    vm = client("VM.create", vm_record(daemon.state, "moved by xen-api"))
    add_disk(client, vm, disk)
    task = {
        "url": f"{scheme}://{daemon.host.address}",
        "user": "root",
        "password": PASSWORD,
        "vdi": disk,
        "target": new_disk(client, "target", len(pattern())),
        "vm": vm,
        "sr": default_sr(client),
    }
    argv = ["node", "transfer.mjs", json.dumps(task)]
    done = subprocess.run(argv, cwd=installed, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])

    expected = hashlib.sha256(pattern()).hexdigest()
    assert [seen["source"], seen["afterBuffer"], seen["afterStream"]] == [expected] * 3
    assert seen["buffer"] == task["target"]
    (copy,) = seen["vms"]
    assert client("VM.get_name_label", copy) == "moved by xen-api"
    assert seen["error"] == "IMPORT_ERROR_PREMATURE_EOF"
