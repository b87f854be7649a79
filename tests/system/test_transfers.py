"""Disks as streams, with the requests that Xen Orchestra, packer and the SDK make."""

from __future__ import annotations

import base64
import hashlib
import http.client
import random
from pathlib import Path

import pytest
import XenAPI

from harness import guests
from harness.client import Client
from harness.daemon import Daemon
from harness.guests import new_disk, vm_record
from harness.host import PASSWORD
from harness.transfer import (
    MIB,
    PEBIBYTE,
    Door,
    as_raw,
    connection,
    disk_of,
    ended,
    filled,
    get,
    imported,
    path_of,
    pattern,
    put,
    qemu_img,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NULL = "OpaqueRef:NULL"


@pytest.fixture
def disk(daemon: Daemon, client: Client) -> str:
    """A VDI that holds `pattern()`."""
    return filled(daemon, client, pattern())


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["http", "https"])
def test_a_disk_that_went_in_comes_out_again(daemon: Daemon, client: Client, door: Door) -> None:
    content, vdi = pattern(), new_disk(client, "data")
    assert put(daemon, client, "/import_raw_vdi", content, door, vdi=vdi) == 200
    assert get(daemon, client, "/export_raw_vdi", door, vdi=vdi, format="raw") == content
    assert client("VDI.get_physical_utilisation", vdi) < 5 * MIB
    assert client("VDI.get_current_operations", vdi) == {}


def test_a_disks_checksum_is_that_of_its_bytes(client: Client, disk: str) -> None:
    assert client("VDI.checksum", disk) == hashlib.md5(pattern(), usedforsecurity=False).hexdigest()


def test_xen_orchestra_probes_first_and_is_told_by_its_task(daemon: Daemon, client: Client) -> None:
    content, vdi = pattern(), new_disk(client, "data")
    task = client("task.create", "[XO] import", "")
    assert put(daemon, client, "/import_raw_vdi/", b"", length=0, vdi=vdi, format="raw") == 200
    assert client("task.get_status", task) == "pending"
    assert put(daemon, client, "/import_raw_vdi/", content, vdi=vdi, format="raw", task_id=task) == 200
    row = ended(client, task)
    assert (row["status"], row["progress"], row["result"]) == ("success", 1, f"<value>{vdi}</value>")
    assert get(daemon, client, "/export_raw_vdi/", vdi=vdi) == content


def test_a_stream_of_unknown_length_ends_where_its_format_does(
    daemon: Daemon, client: Client, disk: str, tmp_path: Path
) -> None:
    vhd = get(daemon, client, "/export_raw_vdi", vdi=disk, format="vhd")
    target, task = new_disk(client, "target"), client("task.create", "[XO] import", "")
    status = put(
        daemon, client, "/import_raw_vdi/", vhd, length=PEBIBYTE, vdi=target, format="vhd", task_id=task
    )
    assert status == 200
    assert ended(client, task)["status"] == "success"
    assert get(daemon, client, "/export_raw_vdi", vdi=target) == pattern()


@pytest.mark.parametrize(("form", "name"), [("vhd", "vpc"), ("qcow2", "qcow2")])
def test_qemu_reads_the_images_that_are_exported(
    daemon: Daemon, client: Client, disk: str, tmp_path: Path, form: str, name: str
) -> None:
    link = connection(daemon)
    link.request("GET", path_of(client, "/export_raw_vdi/", vdi=disk, format=form))
    response = link.getresponse()
    uuid = client("VDI.get_uuid", disk)
    assert response.getheader("content-disposition") == f'attachment; filename="{uuid}.{form}"'
    image = response.read()
    link.close()
    assert len(image) == int(response.getheader("content-length", "0")) < 8 * MIB + MIB
    assert as_raw(image, name, tmp_path) == pattern()


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_a_vhd_of_another_program_becomes_the_disk(
    daemon: Daemon, client: Client, tmp_path: Path, kind: str
) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(pattern())
    qemu_img("convert", "-O", "vpc", "-o", f"subformat={kind},force_size=on", raw, image)
    vdi = filled(daemon, client, random.Random(9).randbytes(16 * MIB))
    assert put(daemon, client, "/import_raw_vdi", image.read_bytes(), vdi=vdi, format="vhd") == 200
    assert get(daemon, client, "/export_raw_vdi", vdi=vdi) == pattern() + bytes(8 * MIB)


def test_what_changed_since_a_snapshot_is_brought_to_a_copy_of_it(
    daemon: Daemon, client: Client, disk: str
) -> None:
    base = client("VDI.snapshot", disk, {})
    changed = bytearray(pattern())
    changed[5 * MIB : 5 * MIB + 10] = b"new things"
    changed[100:200] = bytes(100)
    assert put(daemon, client, "/import_raw_vdi", bytes(changed), vdi=disk) == 200
    news = client("VDI.snapshot", disk, {})
    delta = get(daemon, client, "/export_raw_vdi", vdi=news, base=base, format="vhd")
    assert len(delta) < 5 * MIB
    copy = client("VDI.copy", base, guests.default_sr(client))
    assert put(daemon, client, "/import_raw_vdi/", delta, vdi=copy, format="vhd") == 200
    assert get(daemon, client, "/export_raw_vdi", vdi=copy) == bytes(changed)


def test_a_snapshot_of_a_running_vm_is_exported_and_its_disk_is_not(
    daemon: Daemon, client: Client, disk: str
) -> None:
    vm = client("VM.create", vm_record(daemon.state, "runs"))
    guests.add_disk(client, vm, disk)
    client("VM.start", vm, False, False)
    snapshot = client("VDI.snapshot", disk, {})
    assert get(daemon, client, "/export_raw_vdi", vdi=snapshot) == pattern()
    assert refusal(daemon, client, "GET", "/export_raw_vdi", vdi=disk) == (500, "VDI_IN_USE")
    assert refusal(daemon, client, "PUT", "/import_raw_vdi", b"x" * 512, vdi=disk) == (500, "VDI_IN_USE")
    assert refusal(daemon, client, "GET", "/export", ref=vm) == (500, "VM_BAD_POWER_STATE")


def refusal(
    daemon: Daemon, client: Client, method: str, address: str, body: bytes | None = None, **query: object
) -> tuple[int, str]:
    """The status and the error of a transfer that does not begin; its task has to tell the same."""
    task = client("task.create", "refused", "")
    link = connection(daemon)
    link.request(method, path_of(client, address, task_id=task, **query), body)
    response = link.getresponse()
    text = response.read().decode()
    link.close()
    row = ended(client, task)
    client("task.destroy", task)
    code = row["error_info"][0]
    assert row["status"] == "failure" and code in text, (row, text)
    return response.status, code


def test_what_is_asked_for_wrongly_is_refused_before_it_begins(
    daemon: Daemon, client: Client, disk: str
) -> None:
    sr = guests.default_sr(client)
    for method, address, query, expected in (
        ("GET", "/export_raw_vdi", {"vdi": "OpaqueRef:none"}, (404, "HANDLE_INVALID")),
        ("GET", "/export_raw_vdi", {"vdi": "no-uuid"}, (404, "UUID_INVALID")),
        ("GET", "/export_raw_vdi", {"vdi": disk, "format": "zip"}, (404, "INTERNAL_ERROR")),
        ("PUT", "/import_raw_vdi", {"vdi": disk, "format": "qcow2"}, (404, "INTERNAL_ERROR")),
        ("PUT", "/import_raw_vdi", {"sr_id": sr, "format": "vhd"}, (400, "INTERNAL_ERROR")),
        ("GET", "/export", {"uuid": "no-uuid"}, (404, "UUID_INVALID")),
        ("PUT", "/import", {"sr_id": "OpaqueRef:none"}, (404, "HANDLE_INVALID")),
    ):
        body = b"x" * 512 if method == "PUT" else None
        assert refusal(daemon, client, method, address, body, **query) == expected, (address, query)
    assert get(daemon, client, "/export_raw_vdi", vdi=disk) == pattern()


def test_the_python_sdk_logs_in_and_watches_the_task(daemon: Daemon, client: Client, disk: str) -> None:
    session = XenAPI.Session(f"https://{daemon.host.address}", ignore_ssl=True)
    session.xenapi.login_with_password("root", PASSWORD, "2.21", "backup")
    task = session.xenapi.task.create("download", "")
    link = connection(daemon, "https")
    cookie = {"Cookie": f"session_id={session.handle}"}
    link.request("GET", f"/export_raw_vdi?vdi={disk}&format=raw&task_id={task}", headers=cookie)
    assert link.getresponse().read() == pattern()
    link.close()
    assert ended(client, task)["status"] == "success"
    assert session.xenapi.task.get_record(task)["allowed_operations"] == []
    session.xenapi.task.destroy(task)
    session.xenapi.session.logout()


def test_nobody_gets_a_disk_without_a_session(daemon: Daemon, client: Client, disk: str) -> None:
    link = connection(daemon)
    link.request("GET", f"/export_raw_vdi?vdi={disk}")
    assert link.getresponse().status == 401
    link.close()
    link = connection(daemon, "https")
    basic = http.client.HTTPSConnection  # packer sends the password with the request
    assert isinstance(link, basic)
    word = base64.b64encode(f"root:{PASSWORD}".encode()).decode()
    link.request("GET", f"/export_raw_vdi?vdi={disk}", headers={"Authorization": f"Basic {word}"})
    assert link.getresponse().read() == pattern()
    link.close()


def test_a_disk_is_made_for_what_comes_where_none_is_named(daemon: Daemon, client: Client) -> None:
    task = client("task.create", "upload", "")
    query = {"sr_uuid": client("SR.get_uuid", guests.default_sr(client)), "task_id": task}
    assert put(daemon, client, "/import_raw_vdi", pattern(), **query) == 200
    vdi = ended(client, task)["result"].removeprefix("<value>").removesuffix("</value>")
    assert client("VDI.get_name_label", vdi) == "Imported VDI"
    assert get(daemon, client, "/export_raw_vdi", vdi=vdi) == pattern()


def test_a_client_that_goes_away_is_no_success(daemon: Daemon, client: Client) -> None:
    vdi, task = new_disk(client, "data"), client("task.create", "upload", "")
    put(daemon, client, "/import_raw_vdi", b"x" * MIB, length=8 * MIB, vdi=vdi, task_id=task)
    row = ended(client, task)
    assert (row["status"], row["error_info"][0]) == ("failure", "VDI_IO_ERROR")
    big, task = new_disk(client, "big", 512 * MIB), client("task.create", "download", "")
    link = connection(daemon)
    link.request("GET", path_of(client, "/export_raw_vdi", vdi=big, task_id=task))
    assert link.getresponse().read(MIB) == bytes(MIB)
    link.close()
    row = ended(client, task)
    assert (row["status"], row["error_info"][0]) == ("failure", "CLIENT_ERROR")
    for each in (vdi, big):
        assert client("VDI.get_current_operations", each) == {}
        client("VDI.destroy", each)


@pytest.mark.parametrize("door", ["http", "https"])
def test_a_cancelled_export_breaks_off(daemon: Daemon, client: Client, door: Door) -> None:
    big, task = new_disk(client, "big", 512 * MIB), client("task.create", "download", "")
    link = connection(daemon, door)
    link.request("GET", path_of(client, "/export_raw_vdi", vdi=big, task_id=task))
    response = link.getresponse()
    response.read(MIB)
    assert client("VDI.get_current_operations", big) == {task: "copy"}
    client("task.cancel", task)
    row = ended(client, task)
    assert (row["status"], row["error_info"]) == ("cancelled", ["TASK_CANCELLED", task])
    with pytest.raises((OSError, http.client.IncompleteRead)):
        response.read()
    link.close()
    assert client("VDI.get_current_operations", big) == {}


def test_a_large_empty_disk_takes_little(daemon: Daemon, client: Client) -> None:
    vdi = new_disk(client, "huge", 64 << 30)
    before = daemon.memory()
    vhd = get(daemon, client, "/export_raw_vdi", vdi=vdi, format="vhd")
    assert len(vhd) < MIB
    target = new_disk(client, "target", 64 << 30)
    assert put(daemon, client, "/import_raw_vdi", vhd, vdi=target, format="vhd") == 200
    vm = client("VM.create", vm_record(daemon.state, "huge"))
    guests.add_disk(client, vm, vdi)
    archive = get(daemon, client, "/export", ref=vm)
    assert len(archive) < 4 * MIB
    (copy,) = imported(daemon, client, archive)
    assert client("VDI.get_virtual_size", disk_of(client, copy)) == 64 << 30
    assert daemon.memory() - before < 48 * MIB
