"""Crash dumps: found where kdump leaves them, sent to a real server, removed."""

from __future__ import annotations

import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from kronos.background.inventory import crashes as inventory
from kronos.db.records import VDI, Crashdump, Host_crashdump
from kronos.system import crashes


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory as kdump leaves it: a dump of Debian's, one of Fedora's, and what is none."""
    found = tmp_path / "crash"
    for name in ("202611211700/dump.202611211700", "127.0.0.1-2026-11-21-17:05:00/vmcore", "lost/notes.txt"):
        (found / name).parent.mkdir(parents=True)
        (found / name).write_bytes(b"memory")
    for function in ("remove", "upload"):
        real = getattr(crashes, function)
        monkeypatch.setattr(crashes, function, lambda *args, _real=real: _real(*args, place=found))
    return found


@pytest.fixture
def server():
    """Takes what is PUT to /taken."""
    got: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self):
            got[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201 if self.path.startswith("/taken") else 507)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", got
        running.shutdown()


def found(xapi, place) -> dict[str, Host_crashdump]:
    inventory.refresh(xapi.db, xapi.host, place)
    return {row.filename: row for row in xapi.db.all(Host_crashdump)}


def test_every_dump_has_a_record_and_nothing_else(xapi, place):
    rows = found(xapi, place)
    assert set(rows) == {"202611211700", "127.0.0.1-2026-11-21-17:05:00"}
    assert all(
        row.size == 6 and row.host == xapi.host.ref and row.timestamp > "2026" for row in rows.values()
    )
    assert {row.ref for row in found(xapi, place).values()} == {row.ref for row in rows.values()}


def test_a_dump_is_removed_from_disk(xapi, place):
    row = found(xapi, place)["202611211700"]
    xapi("host_crashdump.destroy", row.ref)
    assert not (place / "202611211700").exists() and len(found(xapi, place)) == 1


def test_a_dump_that_somebody_else_removed_is_no_longer_shown(xapi, place):
    found(xapi, place)
    crashes.remove("202611211700")
    assert set(found(xapi, place)) == {"127.0.0.1-2026-11-21-17:05:00"}


def test_a_dump_is_sent_as_an_archive(xapi, place, server):
    url, got = server
    xapi("host_crashdump.upload", found(xapi, place)["202611211700"].ref, f"{url}/taken?id=1", {})
    with tarfile.open(fileobj=io.BytesIO(got["/taken?id=1"])) as archive:
        assert archive.extractfile("202611211700/dump.202611211700").read() == b"memory"
    assert {path.name for path in place.iterdir()} == {
        "202611211700",
        "127.0.0.1-2026-11-21-17:05:00",
        "lost",
    }


def test_one_that_nobody_takes_stays(xapi, place, server):
    row = found(xapi, place)["202611211700"]
    for url in (f"{server[0]}/full", "ftp://host/x", "http://127.0.0.1:1/"):
        assert xapi.refused("host_crashdump.upload", row.ref, url, {})[:2] == ["INVALID_VALUE", "url"]
    assert (place / "202611211700").exists()


def test_a_guests_dump_goes_with_its_disk(xapi):
    vdi = xapi.vdi(xapi.sr())
    row = xapi.db.create(Crashdump, VDI=vdi.ref)
    xapi("crashdump.destroy", row.ref)
    assert xapi.db.all(VDI) == xapi.db.all(Crashdump) == []
