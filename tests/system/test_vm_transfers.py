"""VMs as archives: by HTTP, by xe, from a web server, and what a crash leaves of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from harness import guests
from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.guests import new_disk, vm_record
from harness.transfer import (
    MIB,
    Archive,
    as_raw,
    connection,
    disk_of,
    ended,
    everything,
    filled,
    get,
    imported,
    path_of,
    pattern,
    put,
    xe,
)
from kronos.datamodel.errors import Failure

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NULL = "OpaqueRef:NULL"


@pytest.fixture
def disk(daemon: Daemon, client: Client) -> str:
    """A VDI that holds `pattern()`."""
    return filled(daemon, client, pattern())


@pytest.fixture
def vm(daemon: Daemon, client: Client, disk: str) -> str:
    """A halted VM with a disk, an empty drive and an interface."""
    fields = {"name_description": "to go & <come>", "tags": ["a"], "other_config": {"owner": "ann"}}
    vm = str(client("VM.create", vm_record(daemon.state, "exported", **fields)))
    guests.add_disk(client, vm, disk, "0")
    guests.add_disk(client, vm, NULL, "3", type="CD", mode="RO", empty=True)
    guests.add_interface(client, vm, guests.internal_network(client))
    return vm


def test_another_reader_understands_the_archive(daemon: Daemon, client: Client, vm: str) -> None:
    archive = Archive(get(daemon, client, "/export/", ref=vm, use_compression="false"))
    version = archive.description["version"]
    assert (version["export_vsn"], version["xapi_major"], version["xapi_minor"]) == ("2", "1", "20")
    assert next(iter(archive.members)) == "ova.xml"
    ((id, record),) = archive.objects("VM").items()
    assert (record["name_label"], record["name_description"]) == ("exported", "to go & <come>")
    assert record["uuid"] == client("VM.get_uuid", vm) and record["power_state"] == "Halted"
    assert {vbd["VM"] for vbd in archive.objects("VBD").values()} == {id}
    ((network, _),) = archive.objects("network").items()
    assert [vif["network"] for vif in archive.objects("VIF").values()] == [network]
    ((name, _),) = archive.objects("VDI").items()
    assert archive.disk(name) == pattern()
    assert f"{name}/00000005" not in archive.members, "a block of zeros is left out"


@pytest.mark.parametrize("compression", ["false", "true", "gzip", "zstd"])
def test_what_was_exported_is_imported_as_another_vm(
    daemon: Daemon, client: Client, vm: str, compression: str
) -> None:
    archive = get(daemon, client, "/export/", ref=vm, use_compression=compression)
    (copy,) = imported(daemon, client, archive)
    old, new = client("VM.get_record", vm), client("VM.get_record", copy)
    same = (
        "name_label",
        "name_description",
        "tags",
        "memory_static_max",
        "platform",
        "domain_type",
        "PV_kernel",
    )
    assert [new[name] for name in same] == [old[name] for name in same]
    assert new["uuid"] != old["uuid"] and new["other_config"]["owner"] == "ann"
    assert new["other_config"]["mac_seed"] != old["other_config"]["mac_seed"]
    assert (new["power_state"], new["current_operations"]) == ("Halted", {})
    assert disk_of(client, copy) != disk_of(client, vm)
    assert get(daemon, client, "/export_raw_vdi", vdi=disk_of(client, copy)) == pattern()
    vifs = [client("VIF.get_record", row["VIFs"][0]) for row in (old, new)]
    assert vifs[0]["network"] == vifs[1]["network"] and vifs[0]["MAC"] != vifs[1]["MAC"]


def test_a_restored_vm_is_the_one_that_it_was(daemon: Daemon, client: Client, vm: str) -> None:
    old = client("VM.get_record", vm)
    mac = client("VIF.get_MAC", old["VIFs"][0])
    archive = get(daemon, client, "/export/", ref=vm)
    client("VDI.destroy", disk_of(client, vm))
    client("VM.destroy", vm)
    (back,) = imported(daemon, client, archive, restore="true")
    new = client("VM.get_record", back)
    assert (new["uuid"], new["version"]) == (old["uuid"], old["version"] + 1)
    assert client("VIF.get_MAC", new["VIFs"][0]) == mac
    client("VM.start", back, False, False)
    assert client("VM.get_power_state", back) == "Running"


def test_a_template_stays_one(daemon: Daemon, client: Client, vm: str) -> None:
    client("VM.set_is_a_template", vm, True)
    (copy,) = imported(daemon, client, get(daemon, client, "/export/", ref=vm))
    assert client("VM.get_is_a_template", copy)


def test_a_damaged_archive_leaves_nothing(daemon: Daemon, client: Client, vm: str) -> None:
    archive = get(daemon, client, "/export/", ref=vm)
    before = everything(client)
    flipped = bytearray(archive)
    flipped[archive.index(pattern()[:64]) + 100] ^= 1
    for broken, expected in (
        (bytes(flipped), "IMPORT_ERROR_SOME_CHECKSUMS_FAILED"),
        (archive[: 2 * MIB], "IMPORT_ERROR_PREMATURE_EOF"),
        (b"not an archive" * 1000, "IMPORT_ERROR"),
    ):
        task, sr = client("task.create", "import", ""), guests.default_sr(client)
        put(daemon, client, "/import/", broken, sr_id=sr, task_id=task)
        row = ended(client, task)
        assert (row["status"], row["error_info"][0]) == ("failure", expected)
        assert everything(client) == before


def test_a_forced_import_takes_a_damaged_disk(daemon: Daemon, client: Client, vm: str) -> None:
    archive = bytearray(get(daemon, client, "/export/", ref=vm))
    archive[archive.index(pattern()[:64]) + 100] ^= 1
    (copy,) = imported(daemon, client, bytes(archive), force="true")
    content = get(daemon, client, "/export_raw_vdi", vdi=disk_of(client, copy))
    assert sum(a != b for a, b in zip(content, pattern(), strict=True)) == 1


def test_a_forced_import_keeps_what_came_of_an_archive_that_breaks_off(
    daemon: Daemon, client: Client, vm: str
) -> None:
    archive, before = get(daemon, client, "/export/", ref=vm), everything(client)
    task, sr = client("task.create", "import", ""), guests.default_sr(client)
    put(daemon, client, "/import/", archive[: 3 * MIB], sr_id=sr, task_id=task, force="true")
    assert ended(client, task)["error_info"] == ["IMPORT_ERROR_PREMATURE_EOF"]
    (copy,) = everything(client)["VM"] - before["VM"]
    assert client("VM.get_current_operations", copy) == {}
    content = get(daemon, client, "/export_raw_vdi", vdi=disk_of(client, copy))
    assert content[:MIB] == pattern()[:MIB] and not any(content[4 * MIB :])


def test_chunked_archives_are_refused_as_clients_know(daemon: Daemon, client: Client) -> None:
    link = connection(daemon)
    link.request("PUT", path_of(client, "/import/", sr_id=guests.default_sr(client)), iter([b"x" * 100]))
    response = link.getresponse()
    assert response.status == 403 and b"IMPORT_ERROR_CANNOT_HANDLE_CHUNKED" in response.read()
    link.close()


def test_metadata_alone_finds_its_disks_again(daemon: Daemon, client: Client, vm: str) -> None:
    old, vdi = client("VM.get_record", vm), disk_of(client, vm)
    snapshot = client("VM.snapshot", vm, "before", [])
    archive = get(daemon, client, "/export_metadata", ref=vm)
    assert set(Archive(archive).members) == {"ova.xml"}
    client("VM.destroy", snapshot)
    client("VM.destroy", vm)
    assert put(daemon, client, "/import_metadata", archive, restore="true", dry_run="true") == 200
    assert old["uuid"] not in client("VM.get_all_records").values()
    assert put(daemon, client, "/import_metadata", archive, restore="true") == 200
    back = client("VM.get_by_uuid", old["uuid"])
    assert disk_of(client, back) == vdi
    (kept,) = client("VM.get_snapshots", back)
    assert client("VM.get_name_label", kept) == "before"


def test_a_vm_is_fetched_from_a_web_server(daemon: Daemon, client: Client, vm: str, tmp_path: Path) -> None:
    (tmp_path / "vm.xva").write_bytes(get(daemon, client, "/export/", ref=vm))
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", daemon.host.gateway, "8765"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: listens(daemon.host.gateway, 8765), 20, "no web server")
        url = f"http://{daemon.host.gateway}:8765/vm.xva"
        (copy,) = client("VM.import", url, guests.default_sr(client), False, False)
        assert get(daemon, client, "/export_raw_vdi", vdi=disk_of(client, copy)) == pattern()
        with pytest.raises(Failure, match="IMPORT_ERROR"):
            client("VM.import", url + "x", guests.default_sr(client), False, False)
        with pytest.raises(Failure, match="INVALID_VALUE"):
            client("VM.import", "file:///etc/passwd", guests.default_sr(client), False, False)
    finally:
        server.kill()
        server.wait()


def listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


# --- xe --------------------------------------------------------------------------------------------------------------


def test_xe_moves_vms_and_disks(daemon: Daemon, client: Client, vm: str, tmp_path: Path) -> None:
    uuid, archive = client("VM.get_uuid", vm), tmp_path / "vm.xva"
    before = set(client("task.get_all"))
    words = ["vm-export", f"uuid={uuid}", f"filename={archive}", "compress=zstd", "--progress"]
    assert xe(daemon, *words) == "Export succeeded"
    made = xe(daemon, "vm-import", f"filename={archive}")
    copy = client("VM.get_by_uuid", made)
    vdi = client("VDI.get_uuid", disk_of(client, copy))
    image, target = tmp_path / "disk.vhd", client("VDI.get_uuid", new_disk(client, "target"))
    xe(daemon, "vdi-export", f"uuid={vdi}", f"filename={image}", "format=vhd")
    assert as_raw(image.read_bytes(), "vpc", tmp_path) == pattern()
    xe(daemon, "vdi-import", f"uuid={target}", f"filename={image}", "format=vhd")
    raw = tmp_path / "disk.raw2"
    xe(daemon, "vdi-export", f"uuid={target}", f"filename={raw}")
    assert raw.read_bytes() == pattern()
    assert set(client("task.get_all")) <= before, "xe removes its tasks"


def test_xe_exports_snapshots_and_templates(daemon: Daemon, client: Client, vm: str, tmp_path: Path) -> None:
    snapshot = client("VM.get_uuid", client("VM.snapshot", vm, "backup", []))
    first, second = tmp_path / "snapshot.xva", tmp_path / "template.xva"
    xe(daemon, "snapshot-export-to-template", f"snapshot-uuid={snapshot}", f"filename={first}")
    template = client("VM.get_by_uuid", xe(daemon, "vm-import", f"filename={first}"))
    assert client("VM.get_is_a_template", template) and not client("VM.get_is_a_snapshot", template)
    uuid = client("VM.get_uuid", template)
    xe(daemon, "template-export", f"template-uuid={uuid}", f"filename={second}")
    assert Archive(second.read_bytes()).objects("VM")


def test_xe_exports_what_describes_a_vm(daemon: Daemon, client: Client, vm: str, tmp_path: Path) -> None:
    file = tmp_path / "vm.xva"
    xe(daemon, "vm-export", f"uuid={client('VM.get_uuid', vm)}", f"filename={file}", "metadata=true")
    assert set(Archive(file.read_bytes()).members) == {"ova.xml"}
    assert xe(daemon, "vm-import", f"filename={file}", "metadata=true")


def test_xe_reads_an_archive_from_a_pipe(daemon: Daemon, client: Client, vm: str, tmp_path: Path) -> None:
    archive = get(daemon, client, "/export/", ref=vm, use_compression="true")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin is not None
        writer = threading.Thread(target=lambda: (cat.stdin.write(archive), cat.stdin.close()))
        writer.start()
        made = xe(daemon, "vm-import", "filename=/dev/stdin", stdin=cat.stdout)
        writer.join()
    assert client("VM.get_by_uuid", made)


def test_xe_says_why_an_import_failed(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "odd.xva"
    file.write_bytes(b"odd" * 10000)
    before = everything(client)
    assert "tar file" in xe(daemon, "vm-import", f"filename={file}", expected=1)
    assert everything(client) == before


# --- what must not go wrong ------------------------------------------------------------------------------------------


def test_a_daemon_that_is_killed_during_an_import_forgets_it(new_daemon: Any, tmp_path: Path) -> None:
    daemon = new_daemon()
    client = daemon.client()
    vm = client("VM.create", vm_record(daemon.state, "exported"))
    guests.add_disk(client, vm, filled(daemon, client, pattern()))
    guests.add_interface(client, vm, guests.internal_network(client))
    archive, before = get(daemon, client, "/export/", ref=vm), everything(client)
    files = set(os.listdir(daemon.storage))
    link = connection(daemon)
    link.putrequest("PUT", path_of(client, "/import/", sr_id=guests.default_sr(client)))
    link.putheader("Content-Length", str(len(archive)))
    link.endheaders()
    link.send(archive[: 3 * MIB])
    wait_until(lambda: len(client("VDI.get_all")) > len(before["VDI"]), 20, "no disk was made")
    wait_until(lambda: len(client("VIF.get_all")) > len(before["VIF"]), 20, "no VIF was made")
    busy = [row["current_operations"] for row in client("VM.get_all_records").values()]
    assert any("import" in each.values() for each in busy)
    daemon.kill()
    link.close()
    daemon.start()
    client = daemon.client()
    assert everything(client) == before
    assert set(os.listdir(daemon.storage)) == files
    assert list((daemon.state / "intents").iterdir()) == []
    servers = ["pgrep", "-f", f"qemu-nbd.*{daemon.storage}"]
    wait_until(
        lambda: subprocess.run(servers, capture_output=True).stdout == b"",
        20,
        "a server of a disk outlives the daemon",
    )


def test_an_imported_system_boots_from_its_disk(daemon: Daemon, client: Client) -> None:
    (template,) = client("VM.get_by_name_label", "Kronos system VM")
    vm = guests.clone_and_provision(client, template, "moved")
    guests.add_interface(client, vm, guests.internal_network(client))
    archive = get(daemon, client, "/export/", "https", ref=vm, use_compression="zstd")
    client("VDI.destroy", disk_of(client, vm))
    client("VM.destroy", vm)
    (copy,) = imported(daemon, client, archive)
    client("VM.start", copy, False, False)
    wait_until(
        lambda: client("VM.get_channel_data", copy).get("boot/disk"), 120, "it does not boot", pause=0.5
    )
