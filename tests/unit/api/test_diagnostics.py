"""Diagnostics tell of this daemon, and not of any other."""

from __future__ import annotations

from types import SimpleNamespace

from kronos.db.journal import Journal, Writes
from kronos.db.records import Host
from kronos.server.routing import Doors, Page, Reply, Request


def test_memory_is_counted_and_given_back(xapi):
    before = xapi("Diagnostics.gc_stats", xapi.host.ref)
    xapi("Diagnostics.gc_compact", xapi.host.ref)
    after = xapi("Diagnostics.gc_stats", xapi.host.ref)
    assert int(after["major_collections"]) > int(before["major_collections"])
    assert int(after["top_heap_words"]) >= int(after["heap_words"]) > 1 << 20
    assert xapi.refused("Diagnostics.gc_compact", "OpaqueRef:none")[0] == "HANDLE_INVALID"


def test_writes_to_disk_are_counted(xapi, tmp_path, monkeypatch):
    assert xapi("Diagnostics.db_stats")["n"] == "0"
    writes = Writes()
    for seconds in (0.5, 0.25, 0.75):
        writes.note(seconds)
    monkeypatch.setattr(xapi.db, "journal", SimpleNamespace(writes=writes))
    found = xapi.pipeline.perform_internal("Diagnostics.db_stats")
    monkeypatch.undo()
    assert found == {"n": "3", "avgtime": "0.500000", "min": "0.250000", "max": "0.750000"}


def test_a_journal_notes_each_of_its_writes(tmp_path):
    journal = Journal(tmp_path / "state.db")
    list(journal.load())
    journal.wait(journal.set_meta("key", "value"))
    journal.close()
    assert journal.writes.count == 1 and 0 < journal.writes.least <= journal.writes.most


def test_doors_are_counted_by_method_and_path(xapi):
    doors = Doors(xapi.machine.requests)
    for method, path in (("GET", "/a"), ("PUT", "/a"), ("GET", "/b/*")):
        doors.add(method, path, Page(lambda request: Reply()))
    for target, keep_alive in ((b"/a", True), (b"/a?x=1", True), (b"/a", False), (b"/b/c", True)):
        assert doors.find(Request(b"GET", target, {}, None, keep_alive)) is not None
    host = xapi.host.ref
    assert xapi("Diagnostics.network_stats", host, {}) == (
        ("GET", "/a", "3", "1", "0"),
        ("GET", "/b/*", "1", "0", "0"),
        ("PUT", "/a", "0", "0", "0"),
    )
    chosen = {"method": "get", "uri": "/A", "params": "requests"}
    assert xapi("Diagnostics.network_stats", host, chosen) == (("3",),)
    assert xapi.refused("Diagnostics.network_stats", xapi.db.create(Host).uuid, {})[0] == "HANDLE_INVALID"
