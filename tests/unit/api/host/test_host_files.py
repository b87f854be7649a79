"""A host's database, backups and reports, over HTTP as a client fetches and sends them."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import socket
import tarfile
import zipfile
from pathlib import Path

import pytest

from kronos.api.pool import recovery
from kronos.db import replacement
from kronos.db.database import Database
from kronos.db.journal import Journal
from kronos.db.records import PIF, VM, Host, Pool, Secret
from kronos.rules.certificates import self_signed
from kronos.server.access import Access
from kronos.server.doors import all_doors
from kronos.server.http import Server, UnixListener


@pytest.fixture
def http_call(xapi):
    """Make a request of root's at the host's doors: status and body."""
    server = Server(all_doors(xapi.pipeline, Access(xapi.pipeline)))
    path = xapi.directory / "xapi"
    asyncio.run_coroutine_threadsafe(server.start([UnixListener(path)]), xapi.loop).result(10)

    def call(method: str, target: str, body: bytes | None = None):
        connection = http.client.HTTPConnection("host", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(path))
        connection.request(method, target, body)
        reply = connection.getresponse()
        return reply.status, reply.read()

    yield call
    asyncio.run_coroutine_threadsafe(server.stop(0), xapi.loop).result(10)


@pytest.fixture
def restarts(xapi, monkeypatch):
    """The daemon's restarts: none happens, each is noted."""
    noted = []

    class Power:
        def restart_daemon(self):
            noted.append("restart")

    xapi.machine.power = Power()
    monkeypatch.setattr(recovery, "PAUSE", 0.0)
    return noted


@pytest.fixture
def lived_in(xapi):
    """A host with a VM, a NIC, certificates and a secret."""
    xapi.db.create(VM, name_label="precious", other_config={"note": "50 % done"})
    xapi.db.create(Secret, value="hunter2")
    xapi.db.create(
        PIF, host=xapi.host.ref, device="eth0", MAC="00:00:00:00:00:01", physical=True, management=True
    )
    for name in ("xapi-ssl.pem", "xapi-pool-tls.pem"):
        (xapi.directory / name).write_bytes(self_signed("h", []))
    return xapi


def started_anew(state: Path) -> Database:
    """The database that the next start of the daemon has."""
    replacement.take_up(state)
    journal = Journal(state / "state.db")
    db = Database(journal)
    db.load()
    for row in [*db.rows.values()]:
        row.stored()
    journal.close()
    return db


def test_a_dump_of_the_database_brings_a_host_back(lived_in, http_call, restarts):
    status, dumped = http_call("GET", "/pool/xmldbdump")
    assert status == 200 and b"precious" in dumped
    generation = lived_in.db.generation
    lived_in.db.delete(lived_in.db.by_name(VM, "precious")[0])

    assert http_call("PUT", "/pool/xmldbdump", dumped)[0] == 200

    assert replacement.is_ready(lived_in.directory)
    db = started_anew(lived_in.directory)
    assert db.by_name(VM, "precious")[0].other_config == {"note": "50 % done"}
    assert db.by_uuid(Host, lived_in.host.uuid).hostname == "h"
    assert db.all(Pool)[0].master == db.all(Host)[0].ref
    assert db.all(Secret)[0].value == "hunter2"
    assert db.generation > generation, "what clients know is older than all that comes"


def test_a_trial_changes_nothing(lived_in, http_call, restarts):
    _, dumped = http_call("GET", "/pool/xmldbdump")
    assert http_call("PUT", "/pool/xmldbdump?dry_run=true", dumped)[0] == 200
    assert not replacement.is_ready(lived_in.directory) and restarts == []


def test_a_dump_of_another_schema_is_not_taken(lived_in, http_call, restarts):
    _, dumped = http_call("GET", "/pool/xmldbdump")
    older = dumped.replace(b'schema_minor_vsn" value="', b'schema_minor_vsn" value="1')
    status, page = http_call("PUT", "/pool/xmldbdump", older)
    assert status == 500 and b"RESTORE_INCOMPATIBLE_VERSION" in page


def test_a_host_without_the_backups_nics_does_not_take_it(lived_in, http_call, restarts):
    _, dumped = http_call("GET", "/pool/xmldbdump")
    pif = lived_in.db.all(PIF)[0]
    pif.device = "eth7"
    status, page = http_call("PUT", "/pool/xmldbdump", dumped)
    assert status == 500 and b"RESTORE_TARGET_MISSING_DEVICE: eth0" in page


def test_a_restored_host_keeps_its_own_identity(lived_in, http_call, restarts):
    _, dumped = http_call("GET", "/pool/xmldbdump")
    lived_in.db.write(lived_in.host, {"uuid": "5e1f0000-0000-4000-8000-000000000000"})
    lived_in.db.all(PIF)[0].MAC = "00:00:00:00:00:99"

    http_call("PUT", "/pool/xmldbdump", dumped)

    db = started_anew(lived_in.directory)
    assert db.all(Host)[0].uuid == "5e1f0000-0000-4000-8000-000000000000"
    assert db.all(PIF)[0].MAC == "00:00:00:00:00:99" and db.all(PIF)[0].management


@pytest.mark.parametrize("body", [b"", b"hello", b"<database></database>"])
def test_what_is_no_dump_is_not_taken(lived_in, http_call, restarts, body):
    task = lived_in("task.create", "restore", "")
    status, _ = http_call("PUT", f"/pool/xmldbdump?task_id={task}", body)
    assert status == 500
    assert lived_in("task.get_status", task) == "failure"
    assert not replacement.is_ready(lived_in.directory)


def test_a_backup_of_a_host_brings_it_back(lived_in, http_call, restarts):
    status, backup = http_call("GET", "/host_backup")
    assert status == 200
    with tarfile.open(fileobj=io.BytesIO(backup)) as archive:
        assert {"manifest.json", "database.xml", "state/xapi-ssl.pem", "state/xapi-pool-tls.pem"} <= set(
            archive.getnames()
        )
        assert json.load(archive.extractfile("manifest.json"))["host"] == lived_in.host.uuid
    before = (lived_in.directory / "xapi-ssl.pem").read_bytes()
    (lived_in.directory / "xapi-ssl.pem").write_bytes(self_signed("other", []))
    lived_in.db.delete(lived_in.db.by_name(VM, "precious")[0])

    assert http_call("PUT", "/host_restore", backup)[0] == 200

    db = started_anew(lived_in.directory)
    assert db.by_name(VM, "precious")
    assert (lived_in.directory / "xapi-ssl.pem").read_bytes() == before
    assert not (lived_in.directory / "restored").exists()


def archive_of(**files: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no database"),
        ({"state__..__evil": b"x"}, "not of a backup"),
        ({"state__certificates__ca__..": b"x"}, "not of a backup"),
        ({"state__state.db": b"x"}, "not of a backup"),
    ],
)
def test_a_backup_with_strange_files_is_not_taken(lived_in, http_call, restarts, files, reason):
    status, page = http_call("PUT", "/host_restore", archive_of(**files))
    assert status == 500 and reason.encode() in page and b"RESTORE_SCRIPT_FAILED" in page
    assert not replacement.is_ready(lived_in.directory)


def test_a_backup_whose_certificate_could_not_be_shown_is_not_taken(lived_in, http_call, restarts):
    _, dumped = http_call("GET", "/pool/xmldbdump")
    broken = archive_of(**{"database.xml": dumped, "state__xapi-ssl.pem": b"nonsense"})
    assert b"RESTORE_SCRIPT_FAILED" in http_call("PUT", "/host_restore", broken)[1]
    assert http_call("PUT", "/host_restore", b"nonsense")[0] == 500


def test_a_restoration_that_was_cut_off_goes_on_at_the_next_start(lived_in, http_call, restarts, monkeypatch):
    _, backup = http_call("GET", "/host_backup")
    http_call("PUT", "/host_restore", backup)
    (lived_in.directory / "restored" / "state.db").replace(
        lived_in.directory / "state.db"
    )  # and then it was killed
    assert started_anew(lived_in.directory).by_name(VM, "precious")
    assert not replacement.is_ready(lived_in.directory)


def test_the_daemon_is_restarted_for_it(lived_in, http_call, restarts):
    import time

    _, dumped = http_call("GET", "/pool/xmldbdump")
    http_call("PUT", "/pool/xmldbdump", dumped)
    deadline = time.monotonic() + 30
    while not restarts and time.monotonic() < deadline:
        time.sleep(0.01)
    assert restarts == ["restart"]


# --- reports -------------------------------------------------------------------------------------------------


def test_a_report_is_an_archive_without_secrets(lived_in, http_call):
    status, body = http_call("GET", "/system-status?output=tar.bz2&entries=xapi-database,host-info,storage")
    assert status == 200
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:bz2") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        state = next(name for name in archive.getnames() if name.endswith("state.xml"))
        text = archive.extractfile(state).read()
    assert {"xapi-database/state.xml", "host-info/meminfo", "storage/plugged"} <= names
    assert not any(name.startswith("system-logs") for name in names)
    assert b"precious" in text and b"hunter2" not in text


def test_a_report_is_a_zip_file_too(lived_in, http_call):
    _, body = http_call("GET", "/system-status?output=zip&entries=host-info")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert any(name.endswith("/host-info/uname") for name in archive.namelist())


def test_what_a_report_may_tell_is_listed(xapi, http_call):
    status, listed = http_call("GET", "/system-status?list=true")
    assert status == 200 and b'key="xapi-database"' in listed
    assert xapi("host.get_system_status_capabilities", xapi.host.ref).encode() == listed


def test_a_report_is_sent_to_who_wants_it(lived_in):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    got = {}

    class Taker(BaseHTTPRequestHandler):
        def do_PUT(self):
            got[self.path] = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(500 if self.path == "/full" else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        lived_in("host.bugreport_upload", lived_in.host.ref, f"{base}/report", {})
        with tarfile.open(fileobj=io.BytesIO(got["/report"]), mode="r:bz2") as archive:
            assert any(name.endswith("state.xml") for name in archive.getnames())
        refusal = lived_in.refused("host.bugreport_upload", lived_in.host.ref, f"{base}/full", {})
        assert refusal[0] == "INTERNAL_ERROR" and "HTTP status 500" in refusal[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "http://", "gopher://x/", "http://[", "/x"])
def test_a_report_goes_to_a_url_of_the_net(xapi, url):
    assert xapi.refused("host.bugreport_upload", xapi.host.ref, url, {})[:2] == ["INVALID_VALUE", "url"]
